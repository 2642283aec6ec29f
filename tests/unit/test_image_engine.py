"""The image engine's thread with a painter that fails as it is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.backends.image_backend import EngineImageBackend
from models.backends.image_batches import Picture
from models.backends.image_engine import ImageEngine, is_out_of_memory
from models.errors import ModelError
from models.images import ImageRequest, ImageResult, ImageSettings, Pixels
from models.spec import ItemError, output_seed

FIRST_SIZE = 8


class Painter(ImageEngine):
    """A picture is one pixel, its seed modulo 256; the shape is the width."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []
        self.before: Callable[[Sequence[Picture]], None] = lambda pictures: None

    def _load(self, folder: Path) -> None:
        pass

    def _unload(self) -> None:
        pass

    def shape(self, request: ImageRequest) -> Hashable | ItemError:
        return ItemError("refused", "no prompt") if not request.prompt else request.settings.width

    def first_size(self, shape: Hashable) -> int:
        return FIRST_SIZE

    def paint(self, shape: Hashable, pictures: Sequence[Picture]) -> list[Pixels | ItemError]:
        self.batches.append([picture.request.index for picture in pictures])
        self.before(pictures)
        return [np.full((1, 1, 3), picture.seed % 256, np.uint8) for picture in pictures]


class PaintingBackend(EngineImageBackend):
    """The back-end around a painter."""

    def __init__(self) -> None:
        super().__init__("painter", cache_dir=Path(), engine="test", module="unused")
        self.painter = Painter()
        self._engine = self.painter

    async def ask(self, *requests: ImageRequest) -> list[ImageResult]:
        results = [result async for group in self.generate(requests) for result in group]
        return sorted(results, key=lambda result: result.index)


@pytest.fixture
async def backend() -> Any:
    backend = PaintingBackend()
    await backend.painter.open(Path())
    yield backend
    await backend.close()


def request(index: int, *, prompt: str = "a", side: int = 1, **options: Any) -> ImageRequest:
    settings = ImageSettings(width=side, height=side)
    return ImageRequest(index=index, seed=index + 1, settings=settings, prompt=prompt, **options)


def out_of_memory_above(limit: int) -> Callable[[Sequence[Picture]], None]:
    def fail(pictures: Sequence[Picture]) -> None:
        if len(pictures) > limit:
            raise torch.OutOfMemoryError("no room")

    return fail


async def test_images_of_a_request_and_the_batch_that_each_was_made_in(backend: PaintingBackend) -> None:
    one, two = await backend.ask(request(0, n=2), request(1))
    assert [image.seed for image in one.images] == [output_seed(1, 0), output_seed(1, 1)]
    assert [int(image.pixels[0, 0, 0]) for image in one.images] == [output_seed(1, k) % 256 for k in range(2)]
    assert [(image.batch, image.place) for image in (*one.images, *two.images)] == [(3, 0), (3, 1), (3, 2)]


async def test_calls_share_batches_and_shapes_do_not(backend: PaintingBackend) -> None:
    painting, gate = threading.Event(), threading.Event()

    def wait(pictures: Sequence[Picture]) -> None:
        painting.set()
        assert gate.wait(30)

    backend.painter.before = wait
    calls = [asyncio.create_task(backend.ask(request(0, side=9)))]
    await asyncio.to_thread(painting.wait, 30)
    calls += [asyncio.create_task(backend.ask(request(index, side=side))) for index, side in ((1, 1), (2, 2), (3, 1))]
    await asyncio.wait(calls, timeout=0)  # each call runs as far as to where it waits
    gate.set()
    await asyncio.gather(*calls)
    assert backend.painter.batches == [[0], [1, 3], [2]]


async def test_a_batch_that_does_not_fit_is_halved_and_that_is_remembered(backend: PaintingBackend) -> None:
    backend.painter.before = out_of_memory_above(2)
    results = await backend.ask(*(request(index) for index in range(8)))
    assert [result.error for result in results] == [None] * 8
    assert [len(batch) for batch in backend.painter.batches] == [8, 4, 2, 2, 2, 2]
    backend.painter.batches.clear()
    await backend.ask(*(request(index) for index in range(4)))
    assert [len(batch) for batch in backend.painter.batches] == [2, 2]
    backend.painter.batches.clear()
    backend.painter.before = out_of_memory_above(8)
    await backend.ask(*(request(index, side=2) for index in range(4)))
    assert [len(batch) for batch in backend.painter.batches] == [4]


async def test_one_picture_that_does_not_fit_costs_its_item(backend: PaintingBackend) -> None:
    def fail(pictures: Sequence[Picture]) -> None:
        if any(picture.request.index == 1 for picture in pictures):
            raise torch.OutOfMemoryError("no room")

    backend.painter.before = fail
    results = await backend.ask(*(request(index) for index in range(3)))
    assert [result.error.code if result.error else "ok" for result in results] == ["ok", "out_of_memory", "ok"]


async def test_a_batch_that_was_asked_for_is_not_halved(backend: PaintingBackend) -> None:
    backend.painter.before = out_of_memory_above(2)
    (result,) = await backend.ask(request(0, batch=4))
    assert result.error is not None
    assert result.error.code == "out_of_memory"
    assert [len(batch) for batch in backend.painter.batches] == [4]


async def test_a_replay_is_padded_to_its_batch_and_taken_from_its_place(backend: PaintingBackend) -> None:
    (result,) = await backend.ask(request(0, batch=4, place=3))
    assert [len(batch) for batch in backend.painter.batches] == [4]
    assert [(image.batch, image.place) for image in result.images] == [(4, 3)]


@pytest.mark.parametrize(
    "asked", [{"batch": 0}, {"batch": 2, "place": 2}, {"place": 1}, {"n": 2, "batch": 4, "place": 1}]
)
async def test_a_place_that_is_not_there_is_refused(backend: PaintingBackend, asked: dict[str, int]) -> None:
    (result,) = await backend.ask(request(0, **asked))
    assert result.error is not None
    assert result.error.code == "invalid_request"


async def test_input_on_which_the_model_fails_costs_its_item(backend: PaintingBackend) -> None:
    def fail(pictures: Sequence[Picture]) -> None:
        if any(picture.request.index == 1 for picture in pictures):
            raise ValueError("bad mask")

    backend.painter.before = fail
    results = await backend.ask(*(request(index) for index in range(3)))
    assert [result.error.code if result.error else "ok" for result in results] == ["ok", "image_failed", "ok"]
    assert "bad mask" in results[1].error.message  # type: ignore[union-attr]
    backend.painter.before = lambda _: None
    (again,) = await backend.ask(request(1))
    assert again.error is None


async def test_a_refused_request_costs_itself_once(backend: PaintingBackend) -> None:
    refused, good = await backend.ask(request(0, prompt="", n=3), request(1))
    assert refused.error == ItemError("refused", "no prompt")
    assert good.error is None


async def test_an_accelerator_that_failed_ends_the_engine(backend: PaintingBackend) -> None:
    def fail(pictures: Sequence[Picture]) -> None:
        raise torch.AcceleratorError("device-side assert")

    backend.painter.before = fail
    with pytest.raises(ModelError, match="device-side assert") as raised:
        await backend.ask(request(0))
    assert raised.value.code == "engine_died"


class Steps:
    """A batch of a hundred steps, of which each waits to be let on."""

    def __init__(self, painter: Painter) -> None:
        self.made = 0
        self.in_a_step = threading.Event()
        self.on = threading.Semaphore(0)
        self._painter = painter
        painter.before = self

    def __call__(self, pictures: Sequence[Picture]) -> None:
        for _ in range(100):
            self.made += 1
            self.in_a_step.set()
            assert self.on.acquire(timeout=30)
            self._painter.between_steps()


async def test_a_batch_that_nobody_waits_for_ends_between_two_steps(backend: PaintingBackend) -> None:
    steps = Steps(backend.painter)
    call = asyncio.create_task(backend.ask(request(0), request(1)))
    await asyncio.to_thread(steps.in_a_step.wait, 30)
    steps.on.release()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    steps.on.release(100)
    backend.painter.before = lambda _: None
    (result,) = await backend.ask(request(2))
    assert result.error is None
    assert steps.made < 5


async def test_a_batch_goes_on_for_those_who_still_wait(backend: PaintingBackend) -> None:
    steps = Steps(backend.painter)
    gone = backend.generate([request(0)])
    first = asyncio.ensure_future(anext(gone))
    await asyncio.to_thread(steps.in_a_step.wait, 30)
    both = asyncio.create_task(backend.ask(request(1), request(2)))
    first.cancel()
    steps.on.release(300)
    results = await both
    assert [result.error for result in results] == [None, None]
    assert steps.made > 100


async def test_an_engine_is_closed_in_the_middle_of_a_batch(backend: PaintingBackend) -> None:
    steps = Steps(backend.painter)
    call = asyncio.create_task(backend.ask(request(0)))
    await asyncio.to_thread(steps.in_a_step.wait, 30)
    closing = asyncio.create_task(backend.close())
    await asyncio.wait([closing], timeout=0)
    steps.on.release(100)
    await closing
    with pytest.raises(ModelError) as raised:
        await call
    assert raised.value.code == "engine_closed"
    assert steps.made == 1


def test_a_processor_that_has_no_memory_left_is_known_by_its_message() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert not is_out_of_memory(RuntimeError("another"))
