"""Models that were trained here, served: the same bytes in any company, and errors an item at a time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.backends.trained import TrainedBackend
from models.backends.trained_engine import ROWS
from models.errors import FailureKind, ModelError
from models.images import Image, ImageRequest, ImageResult, ImageSettings
from models.spec import output_seed
from models.training.checkpoints import FolderCheckpoints
from models.training.families import ImageSpace, build
from models.training.loop import train
from models.training.saved import load_model, save_trained
from models.training.sentences import WIDTH
from models.training.settings import FamilyName
from tests.support.tiny_models import FAMILIES, settings, squares, training_data

SETTINGS = ImageSettings()
SPREAD: dict[FamilyName, float] = {"diffusion": 0.02, "gan": 0.1, "vae": 0.5, "ar": 0.3, "text-diffusion": 0.05}


def trained(family: FamilyName, folder: Path, *, channels: int = 1) -> Path:
    """A folder with a model of a few steps."""
    data = training_data(family) if channels == 1 else squares(channels=channels)
    given = settings(family)
    left = train(data, given, FolderCheckpoints(folder / "checkpoints"))
    # A model of so few steps draws nearly the same picture always, which would hide what these tests look for.
    generator = torch.Generator().manual_seed(2)
    for weights in left.sampler.parameters():
        if weights.ndim > 1:
            weights.add_(SPREAD[family] * torch.randn(weights.shape, generator=generator))
    save_trained(folder / "model", left, given, data)
    return folder / "model"


@pytest.fixture(params=FAMILIES)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TrainedBackend]:
    backend = TrainedBackend(str(trained(request.param, tmp_path)), cache_dir=tmp_path)
    await backend.load()
    yield backend
    await backend.close()


@pytest.fixture
async def vae(tmp_path: Path) -> AsyncIterator[TrainedBackend]:
    backend = TrainedBackend(str(trained("vae", tmp_path)), cache_dir=tmp_path)
    await backend.load()
    yield backend
    await backend.close()


def ask(index: int, prompt: str = "left", **fields: Any) -> ImageRequest:
    return ImageRequest(**{"index": index, "seed": 1000 + index, "settings": SETTINGS, "prompt": prompt, **fields})


async def answers(backend: TrainedBackend, requests: Sequence[ImageRequest]) -> list[ImageResult]:
    results = [result async for group in backend.generate(requests) for result in group]
    return sorted(results, key=lambda result: result.index)


def digest(image: Image) -> str:
    return hashlib.sha256(image.pixels.tobytes()).hexdigest()


async def test_an_image_is_the_same_bytes_in_any_batch(backend: TrainedBackend, request: pytest.FixtureRequest) -> None:
    """Alone, among 3, 16 and 37, at every place, beside other classes, and in the batch that a replay asks for."""
    few = ImageSettings(steps=3) if "diffusion]" in request.node.name else SETTINGS
    requests = [ask(index, ("left", "right")[index % 2], settings=few) for index in range(37)]
    whole = {result.index: result.images[0] for result in await answers(backend, requests)}
    assert len({digest(image) for image in whole.values()}) > 20, "the images do not differ: the test shows nothing"
    for company in (
        [requests[5]],
        requests[4:7],
        requests[:16],
        list(reversed(requests[:21])),
        [requests[(7 * place) % 37] for place in range(37)],
    ):
        for result in await answers(backend, company):
            assert digest(result.images[0]) == digest(whole[result.index]), (len(company), result.index)
    for padded in (1, 5, 40):
        (alone,) = await answers(backend, [ask(5, "right", batch=padded, settings=few)])
        assert digest(alone.images[0]) == digest(whole[5])


async def test_an_image_says_what_it_was_made_with(backend: TrainedBackend, request: pytest.FixtureRequest) -> None:
    (result,) = await answers(backend, [ask(0)])
    found = result.images[0].settings.model_dump(exclude_unset=True)
    own: dict[str, dict[str, float]] = {
        "diffusion": {"steps": 25, "guidance": 1.5},
        "ar": {"guidance": 1.3},
        "text-diffusion": {"width": 16, "height": 16, "steps": 25, "guidance": 3.0},
    }
    family = next(family for family in FAMILIES if f"[{family}]" in request.node.name)
    assert found == {"width": 8, "height": 8, **own.get(family, {})}
    (again,) = await answers(backend, [ask(0, settings=ImageSettings(**found))])
    assert digest(again.images[0]) == digest(result.images[0])
    assert again.images[0].settings == result.images[0].settings


async def test_image_k_is_the_first_image_of_its_own_seed(backend: TrainedBackend) -> None:
    (several,) = await answers(backend, [ask(3, n=3)])
    assert [image.seed for image in several.images] == [output_seed(1003, k) for k in range(3)]
    for image in several.images:
        (alone,) = await answers(backend, [ask(0, seed=image.seed)])
        assert digest(alone.images[0]) == digest(image)


async def test_calls_that_run_at_once_share_batches_and_get_their_own(vae: TrainedBackend) -> None:
    first, second = await asyncio.gather(
        answers(vae, [ask(index) for index in range(9)]), answers(vae, [ask(index, "right") for index in range(9)])
    )
    assert [result.index for result in first] == [result.index for result in second] == list(range(9))
    for left, right in zip(first, second, strict=True):
        assert digest(left.images[0]) != digest(right.images[0])
    (again,) = await answers(vae, [ask(4)])
    assert digest(again.images[0]) == digest(first[4].images[0])


async def test_grey_becomes_rgb(vae: TrainedBackend) -> None:
    (result,) = await answers(vae, [ask(0)])
    pixels = result.images[0].pixels
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    assert (pixels[..., 0] == pixels[..., 2]).all()


async def test_colour_stays_colour(tmp_path: Path) -> None:
    backend = TrainedBackend(str(trained("diffusion", tmp_path, channels=3)), cache_dir=tmp_path)
    await backend.load()
    (result,) = await answers(backend, [ask(0, settings=ImageSettings(width=8, height=8, steps=2, guidance=1))])
    assert (result.images[0].pixels[..., 0] != result.images[0].pixels[..., 2]).any()
    await backend.close()


async def test_a_model_of_texts_draws_what_prompts_say(tmp_path: Path) -> None:
    backend = TrainedBackend(str(trained("text-diffusion", tmp_path)), cache_dir=tmp_path)
    await backend.load()
    few = ImageSettings(steps=2)
    prompts = [{"prompt": "a cup"}, {"prompt": "eine Tasse"}, {"prompt": "a cup", "negative": "red"}, {"prompt": " "}]
    *made, empty = await answers(backend, [ask(k, seed=1, settings=few, **prompts[k]) for k in range(4)])
    await backend.close()
    assert len({digest(result.images[0]) for result in made}) == 3
    assert made[0].images[0].pixels.shape == (16, 16, 3)
    assert empty.error is not None
    assert empty.error.code == "empty_prompt"


@pytest.mark.parametrize(
    ("fields", "code", "told"),
    [
        ({"prompt": "a toaster"}, "unknown_class", "0 left, 1 right"),
        ({"settings": ImageSettings(width=64, height=64)}, "wrong_size", "makes 8x8 only"),
        ({"settings": ImageSettings(steps=10)}, "unsupported_setting", "vae models have no steps"),
        (
            {"settings": ImageSettings(guidance=3, scheduler="Euler")},
            "unsupported_setting",
            "guidance and no scheduler",
        ),
        ({"settings": ImageSettings(loras={"x": 1})}, "unsupported_setting", "no loras"),
        ({"negative": "blur"}, "unsupported_setting", "no negative prompt"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, "unsupported_task", "no input image"),
    ],
)
async def test_what_cannot_be_made_costs_that_item(
    vae: TrainedBackend, fields: dict[str, Any], code: str, told: str
) -> None:
    good, bad = await answers(vae, [ask(0), ask(1, **fields)])
    assert good.error is None
    assert bad.error is not None
    assert bad.error.code == code
    assert told in bad.error.message


async def test_what_a_model_says_of_itself(tmp_path: Path) -> None:
    folder = trained("vae", tmp_path)
    backend = TrainedBackend(str(folder), cache_dir=tmp_path)
    info = await backend.load()
    await backend.close()
    assert info.reproducible == "exact"
    assert info.engine == "trained"
    assert info.revision.startswith("sha256:")


async def test_models_that_cannot_be_loaded(tmp_path: Path) -> None:
    folder = trained("vae", tmp_path)

    async def load(name: str) -> ModelError:
        with pytest.raises(ModelError) as raised:
            await TrainedBackend(name, cache_dir=tmp_path).load()
        assert raised.value.kind is FailureKind.MODEL
        return raised.value

    assert "shipped are" in (await load("fashion-nothing")).message
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"vae"', '"vax"'))
    assert (await load(str(folder))).code == "model_folder_invalid"
    (folder / "config.json").write_text(
        config.replace('"latent": 4', '"latent": 5').replace('"latent":4', '"latent":5')
    )
    assert (await load(str(folder))).code == "weights_damaged"
    (folder / "config.json").write_text(config)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert (await load(str(folder))).code == "weights_damaged"


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_row_of_a_batch_depends_on_nothing_but_itself(family: FamilyName) -> None:
    """At the size of the shipped models and before rounding to bytes: at every place, beside other rows."""
    space = ImageSpace(height=28, width=28, channels=1, classes=tuple("abcdefghij"))
    if family == "text-diffusion":
        space = ImageSpace(height=64, width=64, channels=3, classes=())
    torch.manual_seed(0)
    sampler = build(family, space, {}, 1e-3).sampler.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    steps = 1 if sampler.default_steps else None
    noise = torch.stack([sampler.noise(torch.Generator().manual_seed(seed)) for seed in range(2 * ROWS)])
    labels = torch.randn(2 * ROWS, 2, WIDTH) if sampler.takes_text else torch.arange(2 * ROWS) % 10
    expected = sampler.make(noise[:ROWS], labels[:ROWS], steps=steps)
    for place in range(ROWS):
        rows = list(range(ROWS, 2 * ROWS))
        rows[place] = 3
        assert torch.equal(sampler.make(noise[rows], labels[rows], steps=steps)[place], expected[3]), place


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_is_what_training_left_in_half_precision(family: FamilyName, tmp_path: Path) -> None:
    data, given = training_data(family), settings(family)
    left = train(data, given, FolderCheckpoints(tmp_path / "checkpoints"))
    save_trained(tmp_path / "model", left, given, data, largest_file=20_000)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > (family == "text-diffusion")
    loaded = load_model(tmp_path / "model")
    assert loaded.about.options == left.options.model_dump(mode="json")
    assert loaded.about.training["license"] == "CC0-1.0"
    for name, tensor in left.sampler.state_dict().items():
        found = loaded.sampler.state_dict()[name]
        assert (found - tensor).abs().max() <= 1e-3 * max(1, tensor.abs().max()), name
