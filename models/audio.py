"""What a speech model is asked and what it answers: frozen types, shared by speech back-ends and the layers above.

A job's settings are written by people and are a pydantic model, so that its errors name the field.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.spec import EchoOptions, ItemError

Samples: TypeAlias = NDArray[np.int16]
"""One channel of sound, -32768 to 32767, as a 16-bit WAV file has it."""
MAX_CHARACTERS = 5000
"""Of a text: about six minutes of speech."""


class AudioSettings(BaseModel):
    """How a text is spoken. What is None is the model's own default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    voice: Annotated[str | None, Field(min_length=1)] = None
    language: Annotated[str | None, Field(min_length=1)] = None
    """What the voice must speak, as a tag of BCP 47 such as `en-US`. A check, no choice: the voice has its language."""
    speed: Annotated[float, Field(ge=0.5, le=2)] = 1.0
    """2 is twice as fast."""
    pause: Annotated[float, Field(ge=0, le=10)] = 0.2
    """Seconds of silence between two sentences, beside what the model leaves there itself."""


class AudioRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One item for a speech engine. What is random in its sound is drawn from a generator seeded with `seed` alone."""

    index: int
    seed: int
    text: str
    settings: AudioSettings
    options: EchoOptions | None = None


class Sound(msgspec.Struct, frozen=True, kw_only=True):
    """One spoken text."""

    samples: Samples
    sample_rate: int
    """Samples a second."""
    seed: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.sample_rate


class AudioResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to the request of the same `index`: a sound, or an error."""

    index: int
    sound: Sound | None = None
    error: ItemError | None = None
