"""Several image engines one after the other: what one has made, the next goes on with.

Each stage has a queue before it and asks its engine for what has come together there, so that the second works while
the first goes on. The queues are bounded: an engine that is slower than the one before it holds that up, and memory
stays at some pictures a stage.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from models.backend import ImageBackend
from models.images import Image, ImageRequest, ImageResult, StepName
from models.spec import ItemError, ModelInfo

QUEUE = 32
"""Pictures that wait before a stage, per call."""
BATCH = 16
"""Pictures that a stage asks its engine for at once; calls are mixed by the engine itself."""
_Arrived: TypeAlias = "tuple[int, int, Image | ItemError]"  # item, which of its pictures, what became of it


@dataclass(frozen=True, slots=True)
class Stage:
    """A step and the engine that does it."""

    step: StepName
    backend: ImageBackend


@dataclass(slots=True)
class _Item:
    """An item on its way: its pictures as they arrive at the end."""

    request: ImageRequest
    images: dict[int, Image] = field(default_factory=dict)


class ImageChain:
    """Engines in the order of a job's steps. The first gets the requests, each other the pictures of the one before."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = tuple(stages)

    async def load(self) -> ModelInfo:
        """Load every engine; the model is that of the first stage, its revision that of all."""
        infos: list[ModelInfo] = []
        try:
            for stage in self._stages:
                infos.append(await stage.backend.load())  # noqa: PERF401 - what was loaded is closed if the next cannot be
        except BaseException:
            await self.close()
            raise
        first = infos[0]
        later = zip(self._stages[1:], infos[1:], strict=True)
        return ModelInfo(
            model=first.model,
            revision="+".join([first.revision, *(f"{stage.step}:{info.revision}" for stage, info in later)]),
            engine=first.engine,
            context_length=first.context_length,
            reproducible="exact" if all(info.reproducible == "exact" for info in infos) else "seeded",
            shards_in_flight=max(info.shards_in_flight for info in infos),
            load_seconds=sum(info.load_seconds for info in infos),
            child_pids=tuple(pid for info in infos for pid in info.child_pids),
        )

    async def generate(self, requests: Sequence[ImageRequest]) -> AsyncGenerator[Sequence[ImageResult], None]:
        """As `ImageBackend.generate`. A picture that one stage cannot do is its item's error, and goes no further."""
        call = _Call(self._stages, requests)
        try:
            async for results in call.results():
                yield results
        finally:
            await call.close()

    def quiet_seconds(self) -> float:
        """That of the engine that has been quiet for longest."""
        return max(stage.backend.quiet_seconds() for stage in self._stages)

    async def close(self) -> None:
        """End every engine."""
        for stage in self._stages:
            await stage.backend.close()


class _Call:
    """One call of `generate`: a task a stage, and the queues between them."""

    def __init__(self, stages: Sequence[Stage], requests: Sequence[ImageRequest]) -> None:
        self._items = {request.index: _Item(request) for request in requests}
        self._queues: list[asyncio.Queue[_Arrived | None]] = [asyncio.Queue(QUEUE) for _ in stages]
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._first(stages[0], requests))]
        self._tasks += [
            loop.create_task(self._later(stage, before, after))
            for stage, before, after in zip(stages[1:], self._queues, self._queues[1:], strict=False)
        ]

    async def results(self) -> AsyncGenerator[Sequence[ImageResult], None]:
        """Every item once, as its last picture arrives or its first failure."""
        while self._items:
            arrived = await self._next()
            if arrived is None:
                return
            index, k, outcome = arrived
            item = self._items.get(index)
            if item is None:
                continue  # another of its pictures has failed
            if isinstance(outcome, ItemError):
                del self._items[index]
                yield [ImageResult(index=index, error=outcome)]
                continue
            item.images[k] = outcome
            if len(item.images) == item.request.n:
                del self._items[index]
                yield [ImageResult(index=index, images=tuple(item.images[k] for k in range(item.request.n)))]

    async def close(self) -> None:
        """End what is still under way, which aborts it in the engines."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _next(self) -> _Arrived | None:
        """What the last stage gives next; raises what a stage has failed of."""
        getting = asyncio.ensure_future(self._queues[-1].get())
        try:
            while not getting.done():
                waiting = [task for task in self._tasks if not task.done()]
                await asyncio.wait([getting, *waiting], return_when=asyncio.FIRST_COMPLETED)
                for task in self._tasks:
                    if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                        raise error
            return getting.result()
        finally:
            getting.cancel()

    async def _first(self, stage: Stage, requests: Sequence[ImageRequest]) -> None:
        async with aclosing(stage.backend.generate(requests)) as groups:
            async for group in groups:
                for result in group:
                    if result.error is not None:
                        await self._queues[0].put((result.index, 0, result.error))
                    for k, image in enumerate(result.images):
                        await self._queues[0].put((result.index, k, image))
        await self._queues[0].put(None)

    async def _later(
        self, stage: Stage, before: asyncio.Queue[_Arrived | None], after: asyncio.Queue[_Arrived | None]
    ) -> None:
        more = True
        while more:
            batch, more = await _gather(before)
            asked: dict[int, tuple[int, int, Image]] = {}
            requests: list[ImageRequest] = []
            for index, k, outcome in batch:
                item = self._items.get(index)
                if isinstance(outcome, ItemError):
                    await after.put((index, k, outcome))
                elif item is not None:
                    asked[len(requests)] = (index, k, outcome)
                    requests.append(_request(stage.step, item.request, len(requests), outcome))
            if not requests:
                continue
            async with aclosing(stage.backend.generate(requests)) as groups:
                async for group in groups:
                    for result in group:
                        index, k, image = asked[result.index]
                        if result.error is not None:
                            message = f"{stage.step}: {result.error.message}"
                            await after.put((index, k, ItemError(result.error.code, message)))
                        else:
                            # The seed and batch of a picture are those that it was first made with. The engines of
                            # later steps make the same of it in any batch, but on a GPU: they are then `seeded`.
                            [made] = result.images
                            settings = image.settings.followed_by(made.settings)
                            done = msgspec.structs.replace(image, pixels=made.pixels, settings=settings)
                            await after.put((index, k, done))
        await after.put(None)


async def _gather(queue: asyncio.Queue[_Arrived | None]) -> tuple[list[_Arrived], bool]:
    """At least one picture, with those that wait behind it; and whether more may come."""
    batch: list[_Arrived] = []
    arrived = await queue.get()
    while arrived is not None:
        batch.append(arrived)
        if len(batch) == BATCH or queue.empty():
            return batch, True
        arrived = queue.get_nowait()
    return batch, False


def _request(step: StepName, item: ImageRequest, number: int, image: Image) -> ImageRequest:
    """What a later stage is asked for one picture."""
    return ImageRequest(
        index=number,
        seed=image.seed,
        settings=item.settings,
        options=item.options,
        prompt=item.prompt,
        negative=item.negative,
        image=image.pixels,
        style_image=item.style_image if step == "style" else None,
    )
