"""The protocols that engines speak: one for text, and the same for images and for speech."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from models.audio import AudioRequest, AudioResult
from models.images import ImageRequest, ImageResult
from models.spec import ModelInfo, TextRequest, TextResult


class Backend(Protocol):
    """A text engine in this process.

    It is used from one event loop. `generate` may be called again while earlier calls still run, and should then mix
    their requests in its batches: that is how an engine stays full across the end of a shard.
    """

    async def load(self) -> ModelInfo:
        """Load the weights; called once, before anything else.

        Raises:
            ModelError: kind MODEL where the model can never be loaded here, ENGINE where another try may help.
        """
        ...

    def generate(self, requests: Sequence[TextRequest]) -> AsyncGenerator[Sequence[TextResult], None]:
        """Answer every request once, in groups as they become ready, in any order.

        A request that cannot be answered (too long for the context, say) yields a result with an error. Closing the
        iterator early (`aclose`, or cancelling the task that awaits it) aborts in the engine what is not finished.

        Raises:
            ModelError: kind ENGINE, the engine broke; what was yielded before stays valid. Kind MODEL, the requests
                name an adapter that is not one, or not of this model.
        """
        ...

    def quiet_seconds(self) -> float:
        """For how long the engine has had work and shown no sign of doing it; 0 where it has none.

        An engine that is slow gives a sign with every step that it makes; only one that hangs gives none.
        """
        ...

    async def close(self) -> None:
        """End the engine and every process that it started. May be called more than once."""
        ...


class ImageBackend(Protocol):
    """An image engine in this process. It is used as a `Backend` is, with images in place of texts.

    Requests of concurrent calls that agree in size and schedule are run together, in batches that fit the memory.
    """

    async def load(self) -> ModelInfo:
        """As `Backend.load`."""
        ...

    def generate(self, requests: Sequence[ImageRequest]) -> AsyncGenerator[Sequence[ImageResult], None]:
        """As `Backend.generate`. What cannot be made (an unknown class, a size that the model has not) is an error."""
        ...

    def quiet_seconds(self) -> float:
        """As `Backend.quiet_seconds`."""
        ...

    async def close(self) -> None:
        """As `Backend.close`."""
        ...


class AudioBackend(Protocol):
    """A speech engine in this process. It is used as a `Backend` is, with sounds in place of texts."""

    async def load(self) -> ModelInfo:
        """As `Backend.load`."""
        ...

    def generate(self, requests: Sequence[AudioRequest]) -> AsyncGenerator[Sequence[AudioResult], None]:
        """As `Backend.generate`. What cannot be spoken (no words, letters that the voice does not read) is an error."""
        ...

    def quiet_seconds(self) -> float:
        """As `Backend.quiet_seconds`."""
        ...

    async def close(self) -> None:
        """As `Backend.close`."""
        ...
