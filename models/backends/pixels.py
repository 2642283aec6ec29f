"""Pictures as arrays: their size, their transparency, and what a network reads."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.images import ImageRequest, Pixels
from models.spec import ItemError

OPAQUE = 255


def picture_of(request: ImageRequest, smallest_side: int = 1) -> Pixels | ItemError:
    """The picture that a request starts from, or why there is none that can be worked on."""
    if request.image is None:
        return ItemError("image_missing", "this step starts from a picture, and the item has none")
    height, width = request.image.shape[:2]
    if min(height, width) < smallest_side:
        return ItemError(
            "image_too_small",
            f"the picture is {width}x{height} pixels; this step needs at least {smallest_side} on a side",
        )
    return request.image


def split_alpha(pixels: Pixels) -> tuple[Pixels, Pixels | None]:
    """Colours, and transparency (height by width) where there is any: a picture that is opaque throughout has none."""
    if pixels.shape[2] == 3:
        return pixels, None
    alpha = pixels[:, :, 3]
    return np.ascontiguousarray(pixels[:, :, :3]), None if (alpha == OPAQUE).all() else alpha


def with_alpha(colours: Pixels, alpha: Pixels | None, like: Pixels) -> Pixels:
    """Colours with their transparency again, in as many channels as the picture `like` has."""
    if like.shape[2] == 3:
        return colours
    if alpha is None:
        alpha = np.full(colours.shape[:2], OPAQUE, np.uint8)
    return np.dstack([colours, alpha])


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """Lanczos's filter, widened where the picture gets smaller. The same array where the size is right already."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def to_bytes(values: NDArray[np.float32]) -> Pixels:
    """Values from 0 to 1 as 0 to 255, rounded."""
    return (np.clip(values, 0, 1) * OPAQUE + 0.5).astype(np.uint8)


def fill_hidden(colours: Pixels, alpha: Pixels) -> Pixels:
    """Colours in which what is transparent has taken on the colour of the nearest pixels that are not.

    What a file keeps under its transparent pixels is often black; a network would draw its edge.
    """
    seen = alpha > 0
    if not seen.any():
        return colours
    _, labels = cv2.distanceTransformWithLabels(
        (~seen).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.zeros((int(labels.max()) + 1, 3), np.uint8)
    by_label[labels[seen]] = colours[seen]
    return np.where(seen[:, :, None], colours, by_label[labels])
