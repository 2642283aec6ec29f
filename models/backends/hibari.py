"""The back-end for the speech model hibari. Its network and onnxruntime are imported by `load`, never by this module.

Texts are spoken side by side, each by a thread of its own: the network takes one sentence at a time and keeps to one
thread, so a sound does not depend on what is spoken beside it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from models.audio import AudioRequest, AudioResult
from models.backends.chat import load_error
from models.backends.sequences import import_engine
from models.backends.vllm_environment import usable_cores
from models.errors import FailureKind, ModelError
from models.spec import ItemError, ModelInfo
from models.weights import first_line

if TYPE_CHECKING:
    from models.backends.hibari_speaker import Speaker

MODEL = "hibari-tts"
SHARDS_IN_FLIGHT = 2
"""The next shard's texts wait when the last one's are nearly spoken."""


class HibariBackend:
    """Speaks English with one voice."""

    def __init__(self) -> None:
        self._speaker: Speaker | None = None
        self._threads = ThreadPoolExecutor(usable_cores(), thread_name_prefix="speaker")
        self._open = 0
        self._sign = time.monotonic()

    async def load(self) -> ModelInfo:
        """Read the network and the dictionaries.

        Raises:
            ModelError: kind MODEL where the model can never be loaded here, ENGINE where another try may help.
        """
        started = time.monotonic()
        try:
            module = await asyncio.to_thread(import_engine, "models.backends.hibari_speaker")
            self._speaker = await asyncio.to_thread(module.Speaker)
        except Exception as error:
            # Whatever is raised on files that are damaged or not there: the package's errors, onnxruntime's, the OS's.
            await self.close()
            raise load_error(MODEL, error) from error
        return ModelInfo(
            model=MODEL,
            revision=module.REVISION,
            engine="onnx",
            context_length=0,
            reproducible="exact",
            shards_in_flight=SHARDS_IN_FLIGHT,
            load_seconds=time.monotonic() - started,
        )

    async def generate(self, requests: Sequence[AudioRequest]) -> AsyncGenerator[Sequence[AudioResult], None]:
        """Answer requests in the order in which they are spoken; those of other calls wait in the same line.

        Raises:
            ModelError: kind ENGINE, the engine was closed.
        """
        if self._speaker is None:
            raise _closed()
        left = threading.Event()
        loop = asyncio.get_running_loop()
        if not self._open:
            self._sign = time.monotonic()
        self._open += 1
        try:
            spoken = [loop.run_in_executor(self._threads, self._answer, request, left) for request in requests]
            for result in asyncio.as_completed(spoken):
                yield [await result]
        finally:
            self._open -= 1
            left.set()

    def quiet_seconds(self) -> float:
        """For how long the engine has had texts and ended no sentence, which takes some seconds at most."""
        return time.monotonic() - self._sign if self._open else 0.0

    async def close(self) -> None:
        """End the engine after the sentences that are being spoken. What still generates raises `engine_closed`."""
        self._speaker = None
        self._threads.shutdown(wait=False)

    def _answer(self, request: AudioRequest, left: threading.Event) -> AudioResult:
        """Speak a request, in a thread. Nobody sees the result of a call that was `left`."""
        speaker = self._speaker
        if speaker is None:
            raise _closed()
        try:
            spoken = speaker.speak(request, between_sentences=lambda: self._go_on(left))
        except _LeftError:
            return AudioResult(index=request.index)
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001  # what a network raises on input that it cannot take
            spoken = ItemError("speech_failed", f"the model failed on it: {type(error).__name__}: {first_line(error)}")
        if isinstance(spoken, ItemError):
            return AudioResult(index=request.index, error=spoken)
        return AudioResult(index=request.index, sound=spoken)

    def _go_on(self, left: threading.Event) -> None:
        self._sign = time.monotonic()
        if self._speaker is None:
            raise _closed()
        if left.is_set():
            raise _LeftError


class _LeftError(Exception):
    """Nobody waits any more for what is being spoken."""


def _closed() -> ModelError:
    return ModelError(FailureKind.ENGINE, "engine_closed", f"the engine of {MODEL!r} is not loaded")
