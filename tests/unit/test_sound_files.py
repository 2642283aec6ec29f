"""Sounds as files: the samples that went in, and what the file says of itself."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest

from tests.support.sounds import read_wav
from workers.provenance import Provenance
from workers.sound_files import encode_sound

SAMPLES = np.array([0, 1, -1, 32767, -32768, 12], np.int16)


def made(model: str) -> Provenance:
    return Provenance(prompt="My secret name is Ada.", model=model, revision="sha256:1", seed=5, job="J", index=3)


def chunks(data: bytes) -> dict[bytes, bytes]:
    """The chunks of a RIFF file, which are to fill it to its end."""
    assert data[:4] == b"RIFF"
    assert data[8:12] == b"WAVE"
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    found, at = {}, 12
    while at < len(data):
        size = struct.unpack("<I", data[at + 4 : at + 8])[0]
        found[data[at : at + 4]] = data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    assert at == len(data)
    return found


@pytest.mark.parametrize("provenance", [None, made("m"), made("mm")])  # of odd and of even length
def test_a_file_holds_the_very_samples(provenance: Provenance | None) -> None:
    data = encode_sound(SAMPLES, 24_000, provenance)
    found, rate = read_wav(data)
    assert (found == SAMPLES).all()
    assert rate == 24_000
    assert (b"LIST" in chunks(data)) == (provenance is not None)
    assert data == encode_sound(SAMPLES, 24_000, provenance)


def test_a_file_says_that_a_model_made_it_and_not_what_it_was_told() -> None:
    said = chunks(encode_sound(SAMPLES, 8000, made("hibari-tts")))[b"LIST"].decode(errors="replace")
    assert said.startswith("INFOISFT")
    digest = hashlib.sha256(b"My secret name is Ada.").hexdigest()
    for expected in (
        "Nightmill",
        "trainedAlgorithmicMedia",
        digest,
        "model=hibari-tts;",
        "seed=5;",
        "job=J;",
        "item=3",
    ):
        assert expected in said
    assert "Ada" not in said
