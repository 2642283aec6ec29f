"""The diffusers back-end on pipelines of four families, tiny, with random weights, on the processor."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.backends import diffusers_device
from models.backends.diffusers import DiffusersBackend
from models.errors import FailureKind, ModelError
from models.images import Image, ImageRequest, ImageResult, ImageSettings, Pixels
from tests.support.pipelines import (
    CLIP_TOKENS,
    FAMILIES,
    SIDE,
    diffusers,  # imported without its warnings
    save_adapter,
    save_pipeline,
)

# diffusers' schedulers convert tensors as NumPy 2 no longer likes to.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LEVELS = 4
"""How far a pixel may be off in other company, of 255. Measured: 1 at most in float32, 0 in bfloat16."""
BATCHES = (1, 2, 3, 5, 8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {family: save_pipeline(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="module", autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@asynccontextmanager
async def opened(folder: Path, cache_dir: Path | None = None) -> AsyncIterator[DiffusersBackend]:
    backend = DiffusersBackend(str(folder), cache_dir=cache_dir or folder)
    await backend.load()
    try:
        yield backend
    finally:
        await backend.close()


def request(index: int = 0, *, prompt: str = "a red shoe", seed: int = 11, **options: Any) -> ImageRequest:
    settings = {"width": SIDE, "height": SIDE, "steps": 3, **options.pop("settings", {})}
    return ImageRequest(index=index, seed=seed, prompt=prompt, settings=ImageSettings(**settings), **options)


async def ask(backend: DiffusersBackend, *requests: ImageRequest) -> list[ImageResult]:
    results = [result async for group in backend.generate(requests) for result in group]
    return sorted(results, key=lambda result: result.index)


async def image_of(backend: DiffusersBackend, **options: Any) -> Image:
    (result,) = await ask(backend, request(**options))
    assert result.error is None, result.error
    return result.images[0]


async def code_of(backend: DiffusersBackend, **options: Any) -> tuple[str, str]:
    (result,) = await ask(backend, request(**options))
    assert result.error is not None
    assert not result.images
    return result.error.code, result.error.message


def distance(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def photograph(seed: int = 3, channels: int = 3, width: int = SIDE) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, width, channels), dtype=np.uint8)


def centre() -> Pixels:
    mask = np.zeros((SIDE, SIDE, 3), np.uint8)
    mask[SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4] = 255
    return mask


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_text_becomes_an_image_that_its_seed_makes_again(folders: dict[str, Path], family: str) -> None:
    async with opened(folders[family]) as backend:
        first = await image_of(backend)
        assert first.pixels.shape == (SIDE, SIDE, 3)
        assert first.pixels.dtype == np.uint8
        assert first.pixels.std() > 10
        assert np.array_equal((await image_of(backend)).pixels, first.pixels)
        assert distance((await image_of(backend, seed=12)).pixels, first.pixels) > 50
        assert not np.array_equal((await image_of(backend, prompt="a blue hat")).pixels, first.pixels)


@pytest.mark.parametrize("family", FAMILIES)
async def test_an_image_says_what_the_model_chose_and_is_made_again_from_that(
    folders: dict[str, Path], family: str
) -> None:
    own = {"sd": "DDIMScheduler", "sdxl": "EulerDiscreteScheduler"}.get(family, "FlowMatchEulerDiscreteScheduler")
    open_settings: dict[str, Any] = {"width": None, "height": None}
    if family == "sd":
        open_settings["steps"] = None
    async with opened(folders[family]) as backend:
        first = await image_of(backend, settings=open_settings)
        found = first.settings.model_dump(exclude_unset=True)
        assert set(found) == {"width", "height", "steps", "guidance", "scheduler"}
        assert (found["height"], found["width"]) == first.pixels.shape[:2]
        assert (found["scheduler"], found["steps"]) == (own, 50 if family == "sd" else 3)
        again = await image_of(backend, settings=found)
        assert np.array_equal(again.pixels, first.pixels)
        assert again.settings == first.settings
        painted = await image_of(backend, image=photograph(), mask=centre(), settings={"steps": 4})
        assert painted.settings.strength == 1.0
        told = await image_of(backend, image=photograph(), mask=centre(), settings={"steps": 5, "strength": 0.8})
        assert told.settings.strength == 0.8


@pytest.mark.parametrize("family", FAMILIES)
async def test_images_become_others(folders: dict[str, Path], family: str) -> None:
    async with opened(folders[family]) as backend:
        source = photograph()
        little = await image_of(backend, image=source, settings={"steps": 10, "strength": 0.1})
        much = await image_of(backend, image=source, settings={"steps": 10, "strength": 1.0})
        assert distance(little.pixels, much.pixels) > 10
        other = await image_of(backend, image=photograph(4), settings={"steps": 10, "strength": 0.1})
        assert distance(little.pixels, other.pixels) > 10
        assert np.array_equal(
            little.pixels, (await image_of(backend, image=source, settings={"steps": 10, "strength": 0.1})).pixels
        )


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_masked_part_is_painted_anew(folders: dict[str, Path], family: str) -> None:
    async with opened(folders[family]) as backend:
        one = await image_of(backend, image=photograph(), mask=centre())
        other = await image_of(backend, image=photograph(), mask=centre(), seed=12)
        inside = (slice(SIDE // 4 + 4, -SIDE // 4 - 4),) * 2
        corner = (slice(0, 2), slice(0, 2))
        assert distance(one.pixels[inside], other.pixels[inside]) > 50
        assert distance(one.pixels[corner], other.pixels[corner]) < distance(one.pixels[inside], other.pixels[inside])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
async def test_company_hardly_shows_and_a_replay_in_its_batch_and_place_is_exact(
    folders: dict[str, Path], family: str, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float kernels depend on a batch's shape and on a row's place in it, and on nothing else."""
    monkeypatch.setattr(diffusers_device, "precision", lambda _: precision)
    async with opened(folders[family]) as backend:
        alone = await image_of(backend)
        worst = 0
        for size in BATCHES:
            backend._engine._sizes.learn(alone_look(backend), size)  # type: ignore[union-attr]
            place = size // 2
            company = [request(index, seed=100 + index, prompt=f"a hat of {index}") for index in range(size)]
            company[place] = request(place)
            image = (await ask(backend, *company))[place].images[0]
            assert (image.batch, image.place) == (size, place)
            worst = max(worst, distance(image.pixels, alone.pixels))
            replayed = await image_of(backend, batch=size, place=place)
            assert np.array_equal(replayed.pixels, image.pixels)
        print(f"{family}, {precision}: in other company a pixel is off by {worst} of 255")
        assert worst <= LEVELS


def alone_look(backend: DiffusersBackend) -> Any:
    return backend._engine.shape(request())  # type: ignore[union-attr]


async def test_what_it_says_of_itself(folders: dict[str, Path]) -> None:
    infos = []
    for family in FAMILIES:
        backend = DiffusersBackend(str(folders[family]), cache_dir=folders[family])
        infos.append(await backend.load())
        await backend.close()
        await backend.close()
    assert [info.context_length for info in infos] == [77, 77, 256, 512]
    assert {(info.engine, info.reproducible) for info in infos} == {("diffusers", "seeded")}
    assert len({info.revision for info in infos}) == 4
    assert all(len(info.revision) == len("sha256:") + 16 for info in infos)


async def test_the_revision_is_that_of_the_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders["sd"], tmp_path / "copy")
    revisions = []
    for folder in (folders["sd"], copy, save_pipeline("sd", tmp_path / "other", seed=1)):
        backend = DiffusersBackend(str(folder), cache_dir=tmp_path)
        revisions.append((await backend.load()).revision)
        await backend.close()
    assert revisions[0] == revisions[1] != revisions[2]


async def test_a_schedule_is_taken_by_name(folders: dict[str, Path]) -> None:
    async with opened(folders["sd"]) as backend:
        own = await image_of(backend)
        named = await image_of(backend, settings={"scheduler": "DDIMScheduler"})
        euler = await image_of(backend, settings={"scheduler": "EulerAncestralDiscreteScheduler"})
        assert np.array_equal(own.pixels, named.pixels)
        assert distance(own.pixels, euler.pixels) > 10
        assert np.array_equal((await image_of(backend)).pixels, own.pixels)  # nothing of the last batch stays


@pytest.mark.parametrize(
    "name", ["PNDMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DDPMScheduler"]
)
async def test_every_usual_schedule_draws_each_picture_from_its_own_seed(folders: dict[str, Path], name: str) -> None:
    async with opened(folders["sd"]) as backend:
        settings = {"scheduler": name, "steps": 6}
        alone = await image_of(backend, settings=settings)
        _, again = await ask(backend, request(0, seed=5, settings=settings), request(1, settings=settings))
        assert distance(again.images[0].pixels, alone.pixels) <= LEVELS


async def test_what_a_pipeline_cannot_do_costs_its_item(folders: dict[str, Path]) -> None:
    async with opened(folders["sd"]) as backend:
        for options, code, told in (
            ({"settings": {"width": SIDE + 1}}, "size_not_multiple", "32x32"),
            (
                {"image": photograph(width=SIDE + 1), "settings": {"width": None, "height": None}},
                "size_not_multiple",
                "input",
            ),
            ({"settings": {"scheduler": "EulerDiscrete"}}, "unknown_scheduler", "EulerDiscreteScheduler"),
            ({"settings": {"scheduler": "DPMSolverSDEScheduler"}}, "unknown_scheduler", "did you mean"),
            ({"mask": centre()}, "image_missing", "mask"),
            ({"image": photograph(), "mask": centre()[:-2]}, "mask_size", "32x30"),
            ({"prompt": "shoe " * 40}, "prompt_too_long", "162 tokens, and the model reads 77"),
            ({"negative": "shoe " * 40}, "prompt_too_long", "negative prompt"),
            ({"negative": "dark", "settings": {"guidance": 1.0}}, "unsupported_setting", "above 1"),
            ({"image": photograph(), "settings": {"steps": 1, "strength": 0.5}}, "unsupported_setting", "one step"),
        ):
            found, message = await code_of(backend, **options)
            assert (found, told in message) == (code, True), message
        assert (await image_of(backend, prompt="x" * (CLIP_TOKENS - 2))).batch == 1


async def test_a_long_encoder_reads_as_far_as_it_can(folders: dict[str, Path]) -> None:
    for family, limit in (("sd3", 256), ("flux", 512)):
        async with opened(folders[family]) as backend:
            assert (await image_of(backend, prompt="x " * 100)).batch == 1
            code, message = await code_of(backend, prompt="x " * limit)
            assert (code, f"reads {limit}" in message) == ("prompt_too_long", True), message


async def test_an_input_is_scaled_to_the_size_that_is_asked_for_and_its_transparency_is_white(
    folders: dict[str, Path],
) -> None:
    async with opened(folders["sd"]) as backend:
        settings = {"steps": 10, "strength": 0.1}
        scaled = await image_of(backend, image=photograph(width=2 * SIDE + 1), settings=settings)
        assert scaled.pixels.shape == (SIDE, SIDE, 3)
        clear = photograph(channels=4)
        clear[..., 3] = 0
        white = np.full((SIDE, SIDE, 3), 255, np.uint8)
        through = await image_of(backend, image=clear, settings=settings)
        assert np.array_equal(through.pixels, (await image_of(backend, image=white, settings=settings)).pixels)


async def test_negative_prompts_do_not_reach_neighbours_without(folders: dict[str, Path]) -> None:
    """SDXL treats no negative prompt otherwise than an empty one beside others."""
    async with opened(folders["sdxl"]) as backend:
        alone = await image_of(backend)
        one, two = await ask(backend, request(0), request(1, negative="dark"))
        assert np.array_equal(one.images[0].pixels, alone.pixels)
        assert distance(two.images[0].pixels, alone.pixels) > 0


async def test_a_negative_prompt_of_flux_is_heard(folders: dict[str, Path]) -> None:
    async with opened(folders["flux"]) as backend:
        plain = await image_of(backend, settings={"guidance": 4.0})
        heard = await image_of(backend, negative="dark", settings={"guidance": 4.0})
        assert not np.array_equal(plain.pixels, heard.pixels)
        code, _ = await code_of(backend, negative="dark")
        assert code == "unsupported_setting"


async def test_the_models_own_safety_checker_is_heard(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(folders["sd"]) as backend:
        pipeline = backend._engine._tasks["generate"].pipeline  # type: ignore[union-attr]
        monkeypatch.setattr(pipeline, "run_safety_checker", lambda image, *_: (image, [False, True]))
        one, two = await ask(backend, request(0), request(1))
        assert one.error is None
        assert two.error is not None
        assert two.error.code == "content_filtered"


async def test_out_of_memory_in_a_named_batch_is_halved_and_remembered(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(folders["sd"]) as backend:
        engine: Any = backend._engine
        plain, sizes = engine._tasks["generate"].pipeline.unet.forward, []

        def forward(sample: torch.Tensor, *rest: Any, **options: Any) -> Any:
            sizes.append(len(sample) // 2)  # twice, for the guidance
            if len(sample) > 4:
                raise torch.OutOfMemoryError("no room")
            return plain(sample, *rest, **options)

        monkeypatch.setattr(engine._tasks["generate"].pipeline.unet, "forward", forward)
        results = await ask(backend, *(request(index, seed=index) for index in range(4)))
        assert [result.images[0].batch for result in results] == [2, 2, 2, 2]
        sizes.clear()
        await ask(backend, *(request(index, seed=index) for index in range(4)))
        assert max(sizes) == 2


async def test_nobody_waits_and_the_batch_ends_between_two_steps(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(folders["sd"]) as backend:
        engine: Any = backend._engine
        steps: list[int] = []
        in_a_step, on = threading.Event(), threading.Event()
        plain = engine.between_steps

        def between_steps() -> None:
            steps.append(1)
            in_a_step.set()
            assert on.wait(30)
            plain()

        monkeypatch.setattr(engine, "between_steps", between_steps)
        results = backend.generate([request(settings={"steps": 50})])
        waiting = asyncio.ensure_future(anext(results))
        await asyncio.to_thread(in_a_step.wait, 30)
        assert backend.quiet_seconds() < 30
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await results.aclose()
        on.set()
        assert (await image_of(backend)).batch == 1  # the engine is free for others
        assert len(steps) == 1 + 3


async def test_adapters_on_one_base(folders: dict[str, Path], tmp_path: Path) -> None:
    one = save_adapter(folders["sd"], tmp_path / "adapters" / "warm", seed=1)
    two = save_adapter(folders["sd"], tmp_path / "two", seed=2)
    async with opened(folders["sd"], tmp_path) as backend:

        async def under(loras: dict[str, float]) -> Pixels:
            return (await image_of(backend, settings={"loras": loras})).pixels

        base = await under({})
        first, second = await under({str(one): 1.0}), await under({str(two): 1.0})
        both = await under({str(one): 1.0, str(two): 1.0})
        pictures = [base, first, second, both, await under({str(one): 0.3})]
        assert len({picture.tobytes() for picture in pictures}) == 5
        assert np.array_equal(await under({"warm": 1.0}), first)  # by name, and after others
        assert np.array_equal(await under({str(two): 1.0, str(one): 1.0}), both)
        assert np.array_equal(await under({str(one): 0.0, str(two): 0.0}), base)
        assert np.array_equal(await under({}), base)
        mixed = await ask(
            backend,
            *(
                request(index, settings={"loras": loras})
                for index, loras in enumerate(({}, {"warm": 1.0}, {str(two): 1.0}, {"warm": 0}, {}))
            ),
        )
        assert [result.images[0].batch for result in mixed] == [3, 1, 1, 3, 3]
        assert np.array_equal(mixed[1].images[0].pixels, first)
        assert distance(mixed[0].images[0].pixels, base) <= LEVELS


async def test_an_adapter_that_is_trained_again_is_read_again(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = save_adapter(folders["sd"], tmp_path / "mine", seed=1)
    async with opened(folders["sd"]) as backend:
        before = await image_of(backend, settings={"loras": {str(folder): 1.0}})
        save_adapter(folders["sd"], folder, seed=2)
        after = await image_of(backend, settings={"loras": {str(folder): 1.0}})
        assert not np.array_equal(before.pixels, after.pixels)


async def test_an_adapter_that_does_not_fit_costs_its_item(folders: dict[str, Path], tmp_path: Path) -> None:
    wide = save_pipeline("sd", tmp_path / "wide", scale=2)
    unfit = save_adapter(wide, tmp_path / "unfit", seed=1)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "pytorch_lora_weights.bin").write_bytes(b"x")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "pytorch_lora_weights.safetensors").write_bytes(b"x" * 40)
    async with opened(folders["sd"], tmp_path) as backend:
        base = await image_of(backend)
        for name, code in (
            (str(unfit), "adapter_unfit"),
            (str(damaged), "adapter_unfit"),
            (str(empty), "adapter_missing"),
            (str(tmp_path / "none"), "adapter_missing"),
            ("none", "adapter_missing"),
            ("../none/x", "adapter_missing"),
            ("a/b", "adapter_missing"),
        ):
            found, message = await code_of(backend, settings={"loras": {name: 1.0}})
            assert found == code, message
        assert np.array_equal((await image_of(backend)).pixels, base.pixels)


Spoil = Callable[[Path], object]


def only_bin(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")


def half(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def change_index(**changes: Any) -> Spoil:
    def change(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, **changes}))

    return change


def code_of_its_own(folder: Path) -> None:
    (folder / "unet" / "mine.py").write_text("raise SystemExit('this code must never run')\n")
    change_index(unet=["mine", "Mine"])(folder)


@pytest.mark.parametrize(
    ("spoil", "code", "told"),
    [
        (only_bin, "model_folder_incomplete", "only safetensors"),
        (half, "weights_damaged", "whole"),
        (lambda folder: (folder / "model_index.json").unlink(), "model_folder_incomplete", "model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "model_folder_incomplete", "JSON"),
        (lambda folder: shutil.rmtree(folder / "vae"), "model_folder_incomplete", "vae"),
        (shutil.rmtree, "model_folder_missing", "does not exist"),
        (change_index(_class_name=["mine", "Mine"]), "model_needs_code", "never run"),
        (change_index(_class_name="MyPipeline"), "model_class_unknown", "MyPipeline"),
        (code_of_its_own, "model_needs_code", "never run"),
    ],
)
async def test_a_folder_that_may_not_or_cannot_be_loaded(
    folders: dict[str, Path], tmp_path: Path, spoil: Spoil, code: str, told: str
) -> None:
    folder = shutil.copytree(folders["sd"], tmp_path / "model")
    spoil(folder)
    with pytest.raises(ModelError, match=told) as raised:
        await DiffusersBackend(str(folder), cache_dir=tmp_path).load()
    assert (raised.value.kind, raised.value.code) == (FailureKind.MODEL, code)


async def test_a_pipeline_that_reads_no_prompt_is_no_model_for_images(tmp_path: Path) -> None:
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    with pytest.raises(ModelError) as raised:
        await DiffusersBackend(str(tmp_path / "ddpm"), cache_dir=tmp_path).load()
    assert (raised.value.kind, raised.value.code) == (FailureKind.MODEL, "wrong_kind")


async def test_halved_weights_are_loaded_where_there_are_no_others(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["sd"], tmp_path / "model")
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))
    async with opened(folder) as backend, opened(folders["sd"]) as plain:
        assert np.array_equal((await image_of(backend)).pixels, (await image_of(plain)).pixels)
