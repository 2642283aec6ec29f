"""Upscaling in a thread of this process, on its CPU or GPU."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np

from models import package_data
from models.backends.image_batches import Picture
from models.backends.image_engine import ImageEngine
from models.backends.pixels import fill_hidden, picture_of, split_alpha, with_alpha
from models.backends.upscaling_network import UPSCALERS, Upscaler, UpscalingNetwork
from models.errors import UnknownModelError
from models.images import ImageRequest, ImageSettings, Pixels
from models.spec import ItemError

MOST_PIXELS = 1 << 26
"""Of a result: 8192 by 8192, 200 MB."""
PIXELS_AT_ONCE = 1 << 25
"""Of results, painted in one batch: what they take of the machine's memory."""


def locate(name: str, cache_dir: Path) -> Path:
    """The file of a network's weights.

    Raises:
        UnknownModelError: no network has this name.
    """
    del cache_dir  # read where it was installed
    upscaler = UPSCALERS.get(name)
    if upscaler is None:
        raise UnknownModelError(f"there is no upscaling network {name!r}, but {', '.join(UPSCALERS)}")
    return upscaler.weights.locate()


def revision(folder: Path) -> str:
    """Of the network whose file this is."""
    upscaler = _of(folder)
    return package_data.revision((upscaler.weights, upscaler.param))


async def start(folder: Path, cache_dir: Path) -> ImageEngine:
    """Load the network whose file this is into a new engine."""
    del cache_dir
    return await UpscalingEngine.start(folder)


def _of(path: Path) -> Upscaler:
    return next(upscaler for upscaler in UPSCALERS.values() if Path(upscaler.weights.path).name == path.name)


class UpscalingEngine(ImageEngine):
    """Pictures of one size and scale run together where there is a GPU; on a CPU, one at a time."""

    def _load(self, folder: Path) -> None:
        self._network = UpscalingNetwork(_of(folder))
        self.reproducible = "seeded" if self._network.on_gpu else "exact"

    def shape(self, request: ImageRequest) -> Hashable | ItemError:
        """Height, width, whether anything is transparent, and scale."""
        picture = picture_of(request)
        if isinstance(picture, ItemError):
            return picture
        height, width = picture.shape[:2]
        scale = request.settings.scale
        if height * width * scale**2 > MOST_PIXELS:
            return ItemError(
                "output_too_large",
                f"{width}x{height} pixels upscaled by {scale} are {width * scale}x{height * scale}, "
                f"more than {MOST_PIXELS >> 20} million",
            )
        return height, width, split_alpha(picture)[1] is not None, scale

    def settings(self, request: ImageRequest, shape: Hashable) -> ImageSettings:
        """The scale."""
        del shape
        return ImageSettings(scale=request.settings.scale)

    def first_size(self, shape: Hashable) -> int:
        """As many as fill a batch of windows."""
        height, width, _, scale = _sizes(shape)
        if not self._network.on_gpu:
            return 1
        fitting = PIXELS_AT_ONCE // (height * width * scale**2)
        return max(1, min(fitting, self._network.windows_at_once(height, width)))

    def paint(self, shape: Hashable, pictures: Sequence[Picture]) -> Sequence[Pixels | ItemError]:
        """Transparency goes through the network as a grey picture of its own, so that its edge gets as sharp."""
        _, _, transparent, scale = _sizes(shape)
        images = [picture.request.image for picture in pictures if picture.request.image is not None]
        parts = [split_alpha(image) for image in images]
        colours = [colours if alpha is None else fill_hidden(colours, alpha) for colours, alpha in parts]
        large = self._network.upscale(colours, scale, self.between_steps)
        if not transparent:
            return [with_alpha(one, None, image) for one, image in zip(large, images, strict=True)]
        greys = [np.repeat(alpha[:, :, None], 3, axis=2) for _, alpha in parts if alpha is not None]
        masks = self._network.upscale(greys, scale, self.between_steps)
        return [with_alpha(one, _grey(mask), image) for one, mask, image in zip(large, masks, images, strict=True)]

    def _unload(self) -> None:
        del self._network


def _grey(mask: Pixels) -> Pixels:
    grey: Pixels = np.rint(mask.mean(axis=2)).astype(np.uint8)
    return grey


def _sizes(shape: Hashable) -> tuple[int, int, bool, int]:
    assert isinstance(shape, tuple)  # noqa: S101  # of our own `shape`
    height, width, transparent, scale = shape
    return height, width, transparent, scale
