"""The `echo` model for speech: a tone for each word of its prompt. For tests and benchmarks.

No engine, and yet it is asked, aborted and broken like one. Samples are made of whole numbers, so they are the same on
every machine.
"""

from __future__ import annotations

import hashlib

import numpy as np

from models.audio import AudioRequest, AudioResult, Samples, Sound
from models.backends.echo import told_to_fail
from models.backends.echo_batches import EchoBatches
from models.spec import ItemError

SAMPLE_RATE = 8000
WORD = 0.1
"""Seconds of a word at speed 1."""
LOUDNESS = 8000


class EchoAudio(EchoBatches[AudioRequest, AudioResult]):
    """Plays each request's words as tones: the pitch of a word follows from it and the seed."""

    revision = "echo-audio-1"

    def _answer(self, request: AudioRequest, together: int) -> AudioResult:  # noqa: ARG002  # neighbours change nothing
        error = told_to_fail(request.index, request.seed, self._of(request))
        if error is None and not request.text.split():
            error = ItemError("unspeakable", "the text has no word")
        if error is not None:
            return AudioResult(index=request.index, error=error)
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
