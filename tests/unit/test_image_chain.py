"""Several image engines in a row: what each is given, that they work side by side, and whose fault a fault is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import numpy as np
import pytest

from models.backends import image_chain
from models.backends.image_chain import ImageChain, Stage
from models.errors import FailureKind, ModelError
from models.images import Image, ImageRequest, ImageResult, ImageSettings
from models.spec import ItemError, ModelInfo, output_seed
from tests.support.turns import turns


class Plus:
    """Adds a number to every pixel; of a request without an image, to its index."""

    def __init__(self, number: int, *, fails: Sequence[int] = (), exact: bool = True) -> None:
        self.number, self.fails, self.exact = number, fails, exact
        self.asked: list[list[ImageRequest]] = []
        self.closed = 0
        self.aborted = False
        self.quiet = 0.0
        self.broken: ModelError | None = None
        self.gate: asyncio.Event | None = None
        self.settings = ImageSettings()

    async def load(self) -> ModelInfo:
        return ModelInfo(
            model=f"plus-{self.number}",
            revision=f"r{self.number}",
            engine="plus",
            context_length=1,
            reproducible="exact" if self.exact else "seeded",
            shards_in_flight=self.number,
            load_seconds=1.0,
            child_pids=((self.number, 0.0),),
        )

    async def generate(self, requests: Sequence[ImageRequest]) -> AsyncGenerator[Sequence[ImageResult], None]:
        self.asked.append(list(requests))
        try:
            for request in requests:
                await turns()
                if self.gate is not None:
                    await self.gate.wait()
                if self.broken is not None:
                    raise self.broken
                yield [self._answer(request)]
        except GeneratorExit:
            self.aborted = True
            raise
        except asyncio.CancelledError:
            self.aborted = True
            raise

    def _answer(self, request: ImageRequest) -> ImageResult:
        start = request.index if request.image is None else int(request.image[0, 0, 0])
        if start in self.fails:
            return ImageResult(index=request.index, error=ItemError("bad", f"not {start}"))
        images = tuple(
            Image(
                pixels=np.full((2, 2, 3), start + self.number + 10 * k, np.uint8),
                seed=output_seed(request.seed, k),
                batch=self.number,
                settings=self.settings,
            )
            for k in range(request.n)
        )
        return ImageResult(index=request.index, images=images)

    def quiet_seconds(self) -> float:
        return self.quiet

    async def close(self) -> None:
        self.closed += 1


def chain(*backends: Plus) -> ImageChain:
    steps: Any = ("generate", "upscale", "style")
    return ImageChain([Stage(step, backend) for step, backend in zip(steps, backends, strict=False)])


def asks(count: int, **fields: Any) -> list[ImageRequest]:
    settings = ImageSettings(scale=2)
    return [ImageRequest(index=index, seed=100 + index, settings=settings, **fields) for index in range(count)]


async def answers(backend: ImageChain, requests: Sequence[ImageRequest]) -> dict[int, ImageResult]:
    found = [result async for group in backend.generate(requests) for result in group]
    assert len(found) == len(requests)
    return {result.index: result for result in found}


async def test_each_stage_goes_on_with_what_the_one_before_has_made() -> None:
    first, second, third = Plus(1), Plus(2), Plus(4)
    found = await answers(chain(first, second, third), asks(40, prompt="p"))
    assert [int(found[index].images[0].pixels[0, 0, 0]) for index in range(40)] == [index + 7 for index in range(40)]
    # Seed and batch are those of the picture's making.
    assert {(image.seed - index, image.batch) for index in range(40) for image in found[index].images} == {(100, 1)}
    for request in (request for call in second.asked for request in call):
        assert (request.prompt, request.settings.scale, request.n) == ("p", 2, 1)
        assert request.image is not None
    assert max(len(call) for call in second.asked) <= image_chain.BATCH


async def test_an_image_says_what_every_stage_has_made_it_with() -> None:
    first, second, third = Plus(1), Plus(2), Plus(4)
    first.settings = ImageSettings(width=2, height=2, guidance=3)
    second.settings = ImageSettings(scale=4)
    found = await answers(chain(first, second, third), asks(2))
    for result in found.values():
        assert result.images[0].settings.model_dump(exclude_unset=True) == {
            "width": 2,
            "height": 2,
            "guidance": 3,
            "scale": 4,
        }


async def test_an_items_images_stay_together_and_in_order() -> None:
    found = await answers(chain(Plus(1), Plus(2)), asks(7, n=3))
    for index, result in found.items():
        assert [int(image.pixels[0, 0, 0]) for image in result.images] == [index + 3, index + 13, index + 23]
        assert [image.seed for image in result.images] == [output_seed(100 + index, k) for k in range(3)]


async def test_a_picture_that_a_stage_cannot_do_is_its_items_error_alone() -> None:
    found = await answers(chain(Plus(1, fails=[2]), Plus(2, fails=[5]), Plus(4)), asks(6, n=2))
    assert {index: result.error for index, result in found.items() if result.error is not None} == {
        2: ItemError("bad", "not 2"),
        4: ItemError("bad", "upscale: not 5"),
    }


async def test_stages_work_side_by_side() -> None:
    first, second = Plus(1), Plus(2)
    second.gate = asyncio.Event()
    going = chain(first, second).generate(asks(200))
    getting = asyncio.ensure_future(anext(going))
    await turns(2000)
    assert second.asked  # it was begun long before the first had ended
    assert not getting.done()
    second.gate.set()
    await getting
    assert len([1 async for _ in going]) == 199


async def test_a_slow_stage_holds_up_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_chain, "QUEUE", 4)
    made = 0

    class Counting(Plus):
        def _answer(self, request: ImageRequest) -> ImageResult:
            nonlocal made
            made += 1
            return super()._answer(request)

    second = Plus(2)
    second.gate = asyncio.Event()
    going = chain(Counting(1), second).generate(asks(100))
    getting = asyncio.ensure_future(anext(going))
    await turns(2000)
    assert made < 20
    second.gate.set()
    await getting
    await going.aclose()


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_an_engine_that_breaks_breaks_the_call(place: int) -> None:
    stages = [Plus(1), Plus(2), Plus(4)]
    stages[place].broken = ModelError(FailureKind.ENGINE, "engine_died", "it broke")
    with pytest.raises(ModelError, match="it broke"):
        await answers(chain(*stages), asks(30))
    assert len(asyncio.all_tasks()) == 1


async def test_a_call_that_is_left_is_aborted_in_every_engine() -> None:
    first, second = Plus(1), Plus(2)
    going = chain(first, second).generate(asks(300))
    await anext(going)
    await going.aclose()
    assert first.aborted
    assert len(asyncio.all_tasks()) == 1


async def test_a_chain_is_as_exact_and_as_quiet_as_its_stages() -> None:
    stages = [Plus(1), Plus(2, exact=False)]
    made = chain(*stages)
    info = await made.load()
    assert (info.model, info.revision, info.reproducible) == ("plus-1", "r1+upscale:r2", "seeded")
    assert (info.shards_in_flight, info.load_seconds, info.child_pids) == (2, 2.0, ((1, 0.0), (2, 0.0)))
    stages[1].quiet = 3.0
    assert made.quiet_seconds() == 3.0
    await made.close()
    assert [stage.closed for stage in stages] == [1, 1]


async def test_a_stage_that_cannot_be_loaded_leaves_none_loaded() -> None:
    class Missing(Plus):
        async def load(self) -> ModelInfo:
            raise ModelError(FailureKind.MODEL, "missing", "it is not there")

    first = Plus(1)
    with pytest.raises(ModelError, match="it is not there"):
        await chain(first, Missing(2)).load()
    assert first.closed == 1
