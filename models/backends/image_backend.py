"""An image back-end over any engine in a thread: requests become pictures, and pictures results."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from models.backends.chat import load_error
from models.backends.image_batches import Painted, Picture
from models.backends.sequences import import_engine
from models.errors import FailureKind, ModelError
from models.images import Image, ImageRequest, ImageResult
from models.spec import ModelInfo

if TYPE_CHECKING:
    from models.backends.image_engine import ImageEngine

_Deliveries: TypeAlias = "asyncio.Queue[list[Painted] | ModelError]"
SHARDS_IN_FLIGHT = 2
"""The next shard waits with its images read when the last one's batches end; more would only hold memory."""


class EngineImageBackend:
    """A model in an image engine. A subclass names the module of that; `load` imports it, in a thread."""

    def __init__(self, name: str, *, cache_dir: Path, engine: str, module: str) -> None:
        """`module` has three functions.

        - `locate(name, cache_dir)`: the folder of the model, which may take time.
        - `revision(folder)`: `sha256:` and 16 hexadecimal digits of the weights' digest.
        - `start(folder, cache_dir)`: a coroutine that returns the ImageEngine, loaded.
        """
        self._name = name
        self._cache_dir = cache_dir
        self._kind = engine
        self._module = module
        self._engine: ImageEngine | None = None
        self._numbers = itertools.count()

    async def load(self) -> ModelInfo:
        """Read the weights into a new engine.

        Raises:
            ModelError: kind MODEL where the model can never be loaded here, ENGINE where another try may help.
        """
        started = time.monotonic()
        try:
            module = await asyncio.to_thread(import_engine, self._module)
            folder = await asyncio.to_thread(module.locate, self._name, self._cache_dir)
            self._engine = engine = await module.start(folder, self._cache_dir)
            revision = await asyncio.to_thread(module.revision, folder)
        except Exception as error:
            # Whatever an engine raises on a model that it cannot read: its own errors, torch's, the OS's.
            await self.close()
            raise load_error(self._name, error) from error
        return ModelInfo(
            model=self._name,
            revision=revision,
            engine=self._kind,
            context_length=engine.prompt_tokens,
            reproducible=engine.reproducible,
            shards_in_flight=SHARDS_IN_FLIGHT,
            load_seconds=time.monotonic() - started,
        )

    async def generate(self, requests: Sequence[ImageRequest]) -> AsyncGenerator[Sequence[ImageResult], None]:
        """Answer requests in the order in which their batches end; other calls share the batches.

        Raises:
            ModelError: kind ENGINE, the engine broke or was closed.
        """
        engine = self._engine
        if engine is None:
            raise ModelError(FailureKind.ENGINE, "engine_closed", f"the engine of {self._name!r} is not loaded")
        call = _Call()
        try:
            await engine.submit(call.begin(requests, self._numbers), call.deliveries)
            answered = 0
            while answered < len(requests):
                delivery = await call.deliveries.get()
                if isinstance(delivery, ModelError):
                    raise delivery
                results = [result for painted in delivery if (result := call.collect(painted, engine)) is not None]
                if results:
                    answered += len(results)
                    yield results
        finally:
            if call.open:
                engine.abort(list(call.open))

    def quiet_seconds(self) -> float:
        """For how long the engine has had pictures to paint and made no step with them."""
        return 0.0 if self._engine is None else self._engine.quiet_seconds()

    async def close(self) -> None:
        """End the engine. What still generates raises `engine_closed`."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()


@dataclass(slots=True)
class _Item:
    """An item of which some pictures are still to be painted."""

    request: ImageRequest
    ids: list[str] = field(default_factory=list)
    images: dict[str, Image] = field(default_factory=dict)


class _Call:
    """One call of `generate`: what it waits for, and where that arrives."""

    def __init__(self) -> None:
        self.deliveries: _Deliveries = asyncio.Queue()
        self.open: dict[str, _Item] = {}

    def begin(self, requests: Sequence[ImageRequest], numbers: itertools.count[int]) -> list[Picture]:
        """Every request's pictures."""
        pictures: list[Picture] = []
        for request in requests:
            item = _Item(request)
            for k in range(request.n):
                picture = Picture(f"{next(numbers)}", request, k)
                self.open[picture.id] = item
                item.ids.append(picture.id)
                pictures.append(picture)
        return pictures

    def collect(self, painted: Painted, engine: ImageEngine) -> ImageResult | None:
        """The result that a picture completes, if it does."""
        item = self.open.pop(painted.id, None)
        if item is None:
            return None  # another picture of its item has failed
        if painted.image is None:
            siblings = [key for key in item.ids if self.open.pop(key, None) is not None]
            if siblings:
                engine.abort(siblings)
            return ImageResult(index=item.request.index, error=painted.error)
        item.images[painted.id] = painted.image
        if len(item.images) < item.request.n:
            return None
        return ImageResult(index=item.request.index, images=tuple(item.images[key] for key in item.ids))
