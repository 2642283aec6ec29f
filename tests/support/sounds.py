"""WAV files as tests look at them."""

from __future__ import annotations

import io
import wave

import numpy as np

from models.audio import Samples


def read_wav(data: bytes) -> tuple[Samples, int]:
    """The samples of a file of one channel and 16 bits, and its sample rate."""
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        samples: Samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return samples, file.getframerate()


def share_between(samples: Samples, sample_rate: int, low: float, high: float) -> float:
    """The share of a sound's energy that lies between two frequencies in hertz."""
    power = np.abs(np.fft.rfft(samples.astype(float))) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / sample_rate)
    return float(power[(frequencies >= low) & (frequencies <= high)].sum() / power.sum())


def loudness(samples: Samples) -> float:
    """Root mean square, of 32767."""
    return float(np.sqrt(np.mean(samples.astype(float) ** 2)))
