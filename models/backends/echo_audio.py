"""The `echo` model for speech: a tone for each word of its prompt. For tests and benchmarks.

No engine, and yet it is asked, aborted and broken like one. Samples are made of whole numbers, so they are the same on
every machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import AsyncGenerator, Sequence

import numpy as np

from models.audio import AudioRequest, AudioResult, Samples, Sound
from models.backends.echo import share
from models.spec import EchoOptions, ItemError, ModelInfo

BATCH = 8
"""Requests that are answered at once."""
SAMPLE_RATE = 8000
WORD = 0.1
"""Seconds of a word at speed 1."""
LOUDNESS = 8000
SHARDS_IN_FLIGHT = 4
REVISION = "echo-audio-1"
_NO_FAULTS = EchoOptions()


class EchoAudio:
    """Plays each request's words as tones: the pitch of a word follows from it and the seed."""

    def __init__(self, options: EchoOptions | None = None) -> None:
        """`options` hold for requests that bring none of their own."""
        self._options = options or _NO_FAULTS
        self._hangs_since: float | None = None
        self._generating = 0

    async def load(self) -> ModelInfo:
        """Nothing is loaded."""
        return ModelInfo(
            model="echo",
            revision=REVISION,
            engine="echo",
            context_length=0,
            reproducible="exact",
            shards_in_flight=SHARDS_IN_FLIGHT,
        )

    async def generate(self, requests: Sequence[AudioRequest]) -> AsyncGenerator[Sequence[AudioResult], None]:
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
                yield [self._answer(request) for request in batch]
        finally:
            self._generating -= 1

    def quiet_seconds(self) -> float:
        """For how long an item has let it hang, while there is work."""
        if self._hangs_since is None or not self._generating:
            return 0.0
        return time.monotonic() - self._hangs_since

    async def close(self) -> None:
        """Nothing was started."""

    def _of(self, request: AudioRequest) -> EchoOptions:
        return request.options or self._options

    def _answer(self, request: AudioRequest) -> AudioResult:
        options = self._of(request)
        if request.index in options.fail_on or share(request.seed) < options.fail_rate:
            error = ItemError("echo_failure", f"echo was told to fail item {request.index}")
            return AudioResult(index=request.index, error=error)
        if not request.text.split():
            return AudioResult(index=request.index, error=ItemError("unspeakable", "the text has no word"))
        sound = Sound(samples=play(request), sample_rate=SAMPLE_RATE, seed=request.seed)
        return AudioResult(index=request.index, sound=sound)


def play(request: AudioRequest) -> Samples:
    """The sound of a request: a triangle wave for each word."""
    length = int(SAMPLE_RATE * WORD / request.settings.speed)
    return np.concatenate([_tone(f"{word}\0{request.seed}", length) for word in request.text.split()])


def _tone(word: str, length: int) -> Samples:
    period = 16 + hashlib.sha256(word.encode()).digest()[0] % 48  # samples: 127 to 500 Hz
    phase = np.arange(length) % period
    wave: Samples = (np.abs(2 * phase - period) * 2 * LOUDNESS // period - LOUDNESS).astype(np.int16)
    return wave
