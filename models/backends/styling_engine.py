"""Style transfer in a thread of this process."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np

from models import package_data
from models.backends.image_batches import Picture
from models.backends.image_engine import ImageEngine
from models.backends.pixels import picture_of, split_alpha, with_alpha
from models.backends.styling_networks import FILES, MULTI_STYLE, SMALLEST_SIDE, StylingNetworks, check_style
from models.images import ImageRequest, ImageSettings, Pixels
from models.spec import ItemError


def locate(name: str, cache_dir: Path) -> Path:
    """The folder of the networks' files."""
    del name, cache_dir  # there is one set of networks, and they are read where they were installed
    return MULTI_STYLE.locate().parent


def revision(folder: Path) -> str:
    """Of all three networks."""
    del folder
    return package_data.revision(FILES)


async def start(folder: Path, cache_dir: Path) -> ImageEngine:
    """Load the networks into a new engine."""
    del cache_dir
    return await StylingEngine.start(folder)


class StylingEngine(ImageEngine):
    """The networks take one picture at a time, so a batch is one picture: the next of any size follows at once."""

    reproducible = "exact"

    def _load(self, folder: Path) -> None:
        del folder  # each file is located, and its digest checked, as it is read
        self._networks = StylingNetworks()

    def shape(self, request: ImageRequest) -> Hashable | ItemError:
        """Nothing is shared by a batch of one; what is refused: no picture, a tiny one, no style, an unknown one."""
        picture = picture_of(request, SMALLEST_SIDE)
        if isinstance(picture, ItemError):
            return picture
        if request.style_image is not None:
            return None
        return check_style(request.settings.style)

    def settings(self, request: ImageRequest, shape: Hashable) -> ImageSettings:
        """The strength, and the style's name where it has one."""
        del shape
        asked, strength = request.settings, request.settings.style_strength
        if request.style_image is not None:
            return ImageSettings(style_strength=strength)
        return ImageSettings(style=asked.style, style_strength=strength)

    def first_size(self, shape: Hashable) -> int:
        """One."""
        del shape
        return 1

    def paint(self, shape: Hashable, pictures: Sequence[Picture]) -> Sequence[Pixels | ItemError]:
        """Transparency stays as it is; `style_strength` goes from the picture itself, 0, to the styled one, 1."""
        del shape
        painted: list[Pixels | ItemError] = []
        for picture in pictures:
            self.between_steps()
            painted.append(self._style(picture.request))
        return painted

    def _style(self, request: ImageRequest) -> Pixels:
        image, style, strength = request.image, request.settings.style, np.float32(request.settings.style_strength)
        assert image is not None  # noqa: S101  # `shape` refuses it
        colours, alpha = split_alpha(image)
        if strength == 0:
            return image
        if request.style_image is not None:
            styled = self._networks.like_picture(colours, request.style_image)
        else:
            assert style is not None  # noqa: S101
            styled = self._networks.in_style(colours, style)
        if strength < 1:
            styled = (colours * (1 - strength) + styled * strength + np.float32(0.5)).astype(np.uint8)
        return with_alpha(styled, alpha, image)

    def _unload(self) -> None:
        del self._networks
