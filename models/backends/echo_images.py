"""The `echo` model for images: a pattern that follows from prompt and seed alone. For tests and benchmarks.

No engine, and yet it is asked, batched, aborted and broken like one. Pixels are made of whole numbers, so they are the
same on every machine.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from models.backends.echo import told_to_fail
from models.backends.echo_batches import EchoBatches
from models.images import Image, ImageRequest, ImageResult, ImageSettings, Pixels
from models.spec import output_seed

SIDE = 64
"""Pixels of a picture whose job gives no size, in each direction."""
STRENGTH = 0.8
"""Of an edit whose job gives none."""


class EchoImages(EchoBatches[ImageRequest, ImageResult]):
    """Paints each request's prompt and seed as a pattern; of an edit, over the input in the given strength."""

    revision = "echo-images-1"

    def _answer(self, request: ImageRequest, together: int) -> ImageResult:
        error = told_to_fail(request.index, request.seed, self._of(request))
        if error is not None:
            return ImageResult(index=request.index, error=error)
        batch = request.batch or together
        return ImageResult(
            index=request.index,
            images=tuple(_image(request, output_seed(request.seed, k), batch) for k in range(request.n)),
        )


def _image(request: ImageRequest, seed: int, batch: int) -> Image:
    pixels = paint(request, seed)
    settings = ImageSettings(width=pixels.shape[1], height=pixels.shape[0])
    if request.image is not None and request.mask is None:
        settings = settings.followed_by(ImageSettings(strength=_strength(request)))
    return Image(pixels=pixels, seed=seed, batch=batch, settings=settings)


def paint(request: ImageRequest, seed: int) -> Pixels:
    """The picture of a request and a seed: a lattice whose colours and steps are a digest of both."""
    text = f"{request.prompt}\0{request.negative}\0{seed}"
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8).astype(np.int64)
    before = request.image
    height, width = (SIDE, SIDE) if before is None else before.shape[:2]
    if request.settings.width is not None and request.settings.height is not None:
        height, width = request.settings.height, request.settings.width
    down, across = np.mgrid[0:height, 0:width]
    channels = [
        (across * (1 + digest[c] % 5) + down * (1 + digest[c + 3] % 5) + ((across * down) >> 5) * (digest[c + 6] % 3))
        * 255
        // max(1, width + height)
        + digest[c + 9]
        for c in range(3)
    ]
    painted = np.stack(channels, axis=-1) % 256
    if before is not None:
        painted = _over(before[..., :3], painted, request)
    return painted.astype(np.uint8)


def _over(before: Pixels, painted: NDArray[np.int64], request: ImageRequest) -> NDArray[np.int64]:
    """A picture over another of any size: all of it in the given strength, or only where a mask is white."""
    height, width = painted.shape[:2]
    rows = np.arange(height) * before.shape[0] // height
    columns = np.arange(width) * before.shape[1] // width
    ground = before[rows][:, columns].astype(np.int64)
    if request.mask is None:
        share_of_new = round(_strength(request) * 256)
        mixed: NDArray[np.int64] = (ground * (256 - share_of_new) + painted * share_of_new) >> 8
        return mixed
    return np.where(request.mask[rows][:, columns][..., :1] > 127, painted, ground)


def _strength(request: ImageRequest) -> float:
    return STRENGTH if request.settings.strength is None else request.settings.strength
