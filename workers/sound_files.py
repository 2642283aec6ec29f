"""Sounds as 16-bit WAV files, each saying inside how it was made.

Source: Microsoft and IBM, "Multimedia Programming Interface and Data Specifications 1.0", RIFF, LIST INFO chunks.
"""

from __future__ import annotations

import io
import struct
import wave

from models.audio import Samples
from workers.provenance import Provenance, prompt_digest

SUFFIX = "wav"
CONTENT_TYPE = "audio/wav"


def encode_sound(samples: Samples, sample_rate: int, provenance: Provenance | None = None) -> bytes:
    """One channel as a file. The same samples and provenance give the same bytes.

    Args:
        samples: Of 16 bits.
        sample_rate: Samples a second.
        provenance: What the file says of itself; nothing where it is None.
    """
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(sample_rate)
        out.writeframes(samples.astype("<i2").tobytes())
    data = file.getvalue()
    if provenance is None:
        return data
    data += info_chunk(provenance)
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]  # the length of what follows it


def info_chunk(provenance: Provenance) -> bytes:
    """Provenance as a LIST INFO chunk: the program, and a comment of names and values."""
    fields = {
        "made-by-a-model": provenance.source_type,
        "prompt-digest": prompt_digest(provenance.prompt),
        "model": provenance.model,
        "model-revision": provenance.revision,
        "seed": provenance.seed,
        "job": provenance.job,
        "item": provenance.index,
    }
    comment = "; ".join(f"{name}={value}" for name, value in fields.items())
    body = b"INFO" + _text(b"ISFT", "Nightmill") + _text(b"ICMT", comment)
    return b"LIST" + struct.pack("<I", len(body)) + body


def _text(name: bytes, text: str) -> bytes:
    data = text.encode() + b"\0"
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
