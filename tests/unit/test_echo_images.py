"""The echo model for images: the same picture whatever is asked beside it, and the faults that it is told to make."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from models.backends.echo_batches import BATCH
from models.backends.echo_images import EchoImages, paint
from models.images import ImageRequest, ImageResult, ImageSettings
from models.spec import EchoOptions, output_seed
from tests.support.turns import turns, turns_until


def ask(index: int, **fields: Any) -> ImageRequest:
    settings = ImageSettings.model_validate(fields.pop("settings", {}))
    return ImageRequest(index=index, seed=fields.pop("seed", 1000 + index), settings=settings, **fields)


async def answers(requests: Sequence[ImageRequest], options: EchoOptions | None = None) -> dict[int, ImageResult]:
    found = [result async for group in EchoImages(options).generate(requests) for result in group]
    assert len(found) == len(requests)
    return {result.index: result for result in found}


@pytest.mark.parametrize("size", [1, 3, BATCH, 20])
async def test_a_picture_does_not_depend_on_what_is_asked_beside_it(size: int) -> None:
    requests = [ask(index, prompt=f"shoe {index}", n=2) for index in range(20)]
    whole = await answers(requests)
    for start in range(0, 20, size):
        for index, result in (await answers(requests[start : start + size])).items():
            for image, other in zip(result.images, whole[index].images, strict=True):
                assert (image.pixels == other.pixels).all()
                assert image.seed == other.seed


def test_prompt_negative_prompt_and_seed_each_make_another_picture() -> None:
    same = paint(ask(0, prompt="a"), 5)
    assert (paint(ask(9, prompt="a", seed=1), 5) == same).all()
    others = [paint(ask(0, prompt="b"), 5), paint(ask(0, prompt="a", negative="b"), 5), paint(ask(0, prompt="a"), 6)]
    assert all((other != same).any() for other in others)


async def test_image_k_can_be_made_alone() -> None:
    together = (await answers([ask(3, prompt="a", n=4)]))[3].images
    for k, image in enumerate(together):
        [alone] = (await answers([ask(0, prompt="a", seed=image.seed, batch=7)]))[0].images
        assert (alone.pixels == image.pixels).all()
        assert (alone.seed, alone.batch) == (output_seed(1003, k), 7)


async def test_a_size_is_obeyed_and_an_input_gives_its_own() -> None:
    grey = np.full((20, 30, 3), 90, np.uint8)
    found = await answers(
        [
            ask(0, settings={"width": 40, "height": 24}),
            ask(1, image=grey),
            ask(2, image=grey, settings={"width": 60, "height": 40, "strength": 1}),
        ]
    )
    assert [result.images[0].pixels.shape for result in found.values()] == [(24, 40, 3), (20, 30, 3), (40, 60, 3)]


def test_strength_says_how_much_is_replaced() -> None:
    grey = np.full((20, 30, 3), 90, np.uint8)
    weak, strong = (paint(ask(0, image=grey, settings={"strength": strength}), 1) for strength in (0.001, 0.9))
    assert (weak == grey).all()
    assert np.abs(strong.astype(int) - grey).mean() > 20


async def test_it_fails_as_it_is_told() -> None:
    found = await answers([ask(index) for index in range(5)], EchoOptions(fail_on=(2,)))
    assert [index for index, result in found.items() if result.error is not None] == [2]
    own = await answers([ask(0, options=EchoOptions(fail_rate=1.0)), ask(1)])
    assert own[0].error is not None
    assert own[1].error is None


async def test_it_hangs_as_it_is_told_and_is_quiet() -> None:
    backend = EchoImages()
    going = backend.generate([ask(0, options=EchoOptions(hang_on=(0,)))])
    getting = asyncio.ensure_future(anext(going))
    await turns_until(lambda: backend.quiet_seconds() > 0)
    getting.cancel()
    await turns(2)
    assert getting.cancelled()
    assert backend.quiet_seconds() == 0
