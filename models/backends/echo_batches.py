"""What the `echo` models for images and for speech have in common: batches, and the faults that they are told to have.

That for text answers much faster than it could in batches, and has each item's delay run by itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import ClassVar, Generic, TypeVar

from models.audio import AudioRequest, AudioResult
from models.backends.echo import CONTEXT_LENGTH, SHARDS_IN_FLIGHT
from models.images import ImageRequest, ImageResult
from models.spec import EchoOptions, ModelInfo

BATCH = 8
"""Requests that are answered at once."""
_NO_FAULTS = EchoOptions()
Request = TypeVar("Request", ImageRequest, AudioRequest)
Result = TypeVar("Result", ImageResult, AudioResult)


class EchoBatches(ABC, Generic[Request, Result]):
    """Asked, batched, aborted and broken like an engine; a subclass says what the answers are."""

    revision: ClassVar[str]

    def __init__(self, options: EchoOptions | None = None) -> None:
        """`options` hold for requests that bring none of their own."""
        self._options = options or _NO_FAULTS
        self._hangs_since: float | None = None
        self._generating = 0

    @abstractmethod
    def _answer(self, request: Request, together: int) -> Result:
        """The answer to a request that is one of `together`; it may be that it was told to fail."""

    async def load(self) -> ModelInfo:
        """Nothing is loaded."""
        return ModelInfo(
            model="echo",
            revision=self.revision,
            engine="echo",
            context_length=CONTEXT_LENGTH,
            reproducible="exact",
            shards_in_flight=SHARDS_IN_FLIGHT,
        )

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Sequence[Result], None]:
        """Answer in batches, in order."""
        self._generating += 1
        try:
            for start in range(0, len(requests), BATCH):
                batch = requests[start : start + BATCH]
                await asyncio.sleep(max(self._of(request).delay_ms for request in batch) / 1000)
                if any(request.index in self._of(request).crash_on for request in batch):
                    os.kill(os.getpid(), signal.SIGKILL)
                if any(request.index in self._of(request).hang_on for request in batch):
                    self._hangs_since = time.monotonic()
                if self._hangs_since is not None:
                    await asyncio.Event().wait()  # an engine that hangs answers nobody
                yield await asyncio.to_thread(self._answer_all, batch)
        finally:
            self._generating -= 1

    def quiet_seconds(self) -> float:
        """For how long an item has let it hang, while there is work."""
        if self._hangs_since is None or not self._generating:
            return 0.0
        return time.monotonic() - self._hangs_since

    async def close(self) -> None:
        """Nothing was started."""

    def _of(self, request: Request) -> EchoOptions:
        return request.options or self._options

    def _answer_all(self, batch: Sequence[Request]) -> list[Result]:
        return [self._answer(request, len(batch)) for request in batch]
