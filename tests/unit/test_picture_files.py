"""Pictures as files: the pixels that went in, what the file says of itself, and nothing else."""

from __future__ import annotations

import hashlib
import io
from typing import Any
from xml.dom import minidom

import numpy as np
import pytest
from PIL import Image

from workers.picture_files import NAMESPACE, encode_picture, xmp_packet
from workers.provenance import Provenance

RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 255, (20, 30, 3), dtype=np.uint8)
RGBA = np.dstack([RGB, np.tile(np.array([0, 255], np.uint8), (20, 15))])
MADE = Provenance(prompt='a <red> & "blue" shoe', model="m'", revision="sha256:1", seed=5, job="J", index=3, image=1)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(("form", "quality"), [("png", 90), ("webp", 100)])
@pytest.mark.parametrize("pixels", [RGB, RGBA])
def test_lossless_files_hold_the_very_pixels(form: Any, quality: int, pixels: Any) -> None:
    found = np.asarray(opened(encode_picture(pixels, form, quality=quality, provenance=MADE)))
    visible = pixels if pixels.shape[2] == 3 else np.where(pixels[..., 3:] > 0, pixels, found)
    assert (found == visible).all()


def test_jpeg_lays_what_is_transparent_on_white_and_obeys_its_quality() -> None:
    good, bad = (encode_picture(RGBA, "jpeg", quality=quality) for quality in (95, 10))
    assert len(bad) < len(good)
    clear = np.full((16, 16, 4), 0, np.uint8)
    assert np.asarray(opened(encode_picture(clear, "jpeg"))).min() > 250


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_a_file_says_how_it_was_made_but_not_the_prompt(form: Any) -> None:
    data = encode_picture(RGB, form, provenance=MADE)
    assert data == encode_picture(RGB, form, provenance=MADE)
    said = minidom.parseString(opened(data).info["xmp"])  # noqa: S318 - our own
    [description] = said.getElementsByTagName("rdf:Description")
    fields = {name: description.getAttributeNS(NAMESPACE, name) for name in ("model", "seed", "job", "item", "image")}
    assert fields == {"model": "m'", "seed": "5", "job": "J", "item": "3", "image": "1"}
    digest = f"sha256:{hashlib.sha256(MADE.prompt.encode()).hexdigest()}"
    assert description.getAttributeNS(NAMESPACE, "promptDigest") == digest
    assert "trainedAlgorithmicMedia" in xmp_packet(MADE).decode()
    assert b"shoe" not in data


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_without_provenance_a_file_says_nothing(form: Any) -> None:
    info = opened(encode_picture(RGB, form)).info
    assert not {"xmp", "exif", "icc_profile", "XML:com.adobe.xmp"} & set(info)
