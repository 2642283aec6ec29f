"""Background removal in a thread of this process."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np

from models import package_data
from models.backends.cutout_network import NETWORK, CutoutNetwork, foreground
from models.backends.image_batches import Picture
from models.backends.image_engine import ImageEngine
from models.backends.pixels import picture_of, split_alpha
from models.images import ImageRequest, Pixels
from models.spec import ItemError


def locate(name: str, cache_dir: Path) -> Path:
    """The network's file."""
    del name, cache_dir  # there is one network, and it is read where it was installed
    return NETWORK.locate()


def revision(folder: Path) -> str:
    """Of the network."""
    del folder
    return package_data.revision((NETWORK,))


async def start(folder: Path, cache_dir: Path) -> ImageEngine:
    """Load the network into a new engine."""
    del cache_dir
    return await CutoutEngine.start(folder)


class CutoutEngine(ImageEngine):
    """The network takes one picture at a time, so a batch is one picture: the next of any size follows at once."""

    reproducible = "exact"

    def _load(self, folder: Path) -> None:
        del folder  # located, and its digest checked, as it is read
        self._network = CutoutNetwork()

    def shape(self, request: ImageRequest) -> Hashable | ItemError:
        """Nothing is shared by a batch of one; refused is an item without a picture."""
        picture = picture_of(request)
        return picture if isinstance(picture, ItemError) else None

    def first_size(self, shape: Hashable) -> int:
        """One."""
        del shape
        return 1

    def paint(self, shape: Hashable, pictures: Sequence[Picture]) -> Sequence[Pixels | ItemError]:
        """The subjects, with transparency in place of all else. What was transparent before stays so."""
        del shape
        painted: list[Pixels | ItemError] = []
        for picture in pictures:
            self.between_steps()
            painted.append(self._cut_out(picture.request))
        return painted

    def _cut_out(self, request: ImageRequest) -> Pixels | ItemError:
        assert request.image is not None  # noqa: S101  # `shape` refuses it
        colours, alpha = split_alpha(request.image)
        mask = self._network.mask(colours)
        if mask is None:
            return ItemError("no_subject", "nothing in the picture stands out from its background")
        if alpha is not None:
            mask = np.minimum(mask, alpha)
        cut = np.dstack([foreground(colours, mask), mask])
        cut[mask == 0] = 0
        return cut

    def _unload(self) -> None:
        del self._network
