"""Training images in memory: from idx files (the format of MNIST and Fashion-MNIST) or from a folder of images."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from models.errors import FailureKind, ModelError
from models.training.settings import Augmentation

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts its files."""
FASHION_MNIST_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
IDX_BYTES = 0x08  # the idx format's code for unsigned bytes


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Images of one size with their classes."""

    images: Tensor
    """Count by channels by height by width, unsigned bytes."""
    labels: Tensor
    """One index into `classes` an image."""
    classes: tuple[str, ...]
    source: str
    """What the data is, for the model's card."""
    license: str

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8  # noqa: S101  # an invariant of whoever makes one
        assert len(self.images) == len(self.labels) > 0  # noqa: S101

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[2], self.images.shape[3]

    def batch(self, step: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Images (-1 to 1) and labels of one step: each epoch is an order of its own, made from `seed` alone.

        An epoch's last images, too few for a batch, are left to the next epoch's order.
        """
        if size > len(self):
            raise ValueError(f"a batch of {size} is more than the {len(self)} images that there are")
        chosen = batch_places(len(self), step, size, seed)
        return scaled(self.images[chosen]), self.labels[chosen]

    def examples(self, count: int) -> Tensor:
        """Conditions for a sheet of samples, at most so many: a class each."""
        return torch.arange(min(count, len(self.classes)))


def batch_places(count: int, step: int, size: int, seed: int) -> Tensor:
    """Which of `count` examples make the batch of a step: as `ImageData.batch`."""
    epoch, place = divmod(step, count // size)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(seed, epoch + 1)))
    return order[place * size : (place + 1) * size]


def scaled(images: Tensor) -> Tensor:
    """Unsigned bytes as floats from -1 to 1."""
    return images.float() / 127.5 - 1


def augmented(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Images (batch, channels, height, width; -1 to 1) made different with draws from `generator`."""
    count, _, height, width = images.shape
    if augmentation.flip:
        chosen = torch.rand(count, generator=generator) < 0.5
        images = torch.where(chosen[:, None, None, None], images.flip(3), images)
    if augmentation.crop:
        reach = max(1, min(height, width) // 8)
        padded = functional.pad(images, (reach,) * 4, mode="replicate")
        offsets = torch.randint(0, 2 * reach + 1, (count, 2), generator=generator).tolist()
        moved = [padded[row, :, y : y + height, x : x + width] for row, (y, x) in enumerate(offsets)]
        images = torch.stack(moved)
    if augmentation.jitter:
        contrast, brightness = 0.4 * torch.rand(2, count, 1, 1, 1, generator=generator) - 0.2
        images = (images * (1 + contrast) + brightness).clamp(-1, 1)
    return images


def seed_of(seed: int, number: int) -> int:
    """The seed of one epoch or one step of a training."""
    return (seed * 0x9E3779B97F4A7C15 + number) & 0x7FFF_FFFF_FFFF_FFFF


def fashion_mnist(folder: Path = FASHION_MNIST_FOLDER, *, test: bool = False) -> ImageData:
    """Fashion-MNIST: 60,000 grey photographs of products, 28 by 28, or with `test` its 10,000 test images.

    Source: Xiao, Rasul and Vollgraf, 2017, https://arxiv.org/abs/1708.07747; the data are under the MIT licence.

    Raises:
        ModelError: kind MODEL, the files are not there or are damaged.
    """
    part = "t10k" if test else "train"
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
    return ImageData(
        images=torch.from_numpy(images).unsqueeze(1),
        labels=torch.from_numpy(labels).long(),
        classes=FASHION_MNIST_CLASSES,
        source=f"Fashion-MNIST, {'test' if test else 'training'} images (Xiao, Rasul and Vollgraf, 2017)",
        license="MIT",
    )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of a gzipped idx file of bytes.

    The format: two zero bytes, the type's code, the number of axes, each axis as a big-endian 32-bit number, the data.

    Raises:
        ModelError: kind MODEL, code `training_data_unreadable`.
    """
    try:
        content = gzip.decompress(path.read_bytes())
        if content[:3] != bytes((0, 0, IDX_BYTES)):
            raise unreadable(f"{path} is no idx file of unsigned bytes")
        shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
        data = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        hint = "" if path.exists() else "; on Debian, `apt install dataset-fashion-mnist` brings it"
        raise unreadable(f"{path} could not be read: {error}{hint}") from error
    return data.copy()  # of its own memory, which torch may write to


def image_folder(folder: Path, *, size: tuple[int, int], grey: bool = False, license: str = "unknown") -> ImageData:  # noqa: A002
    """Every image below a folder, fitted to `size` (height, width); the class is its sub-folder's name.

    Images that lie in the folder itself, where there are no sub-folders with images, are of one class, `image`.
    Transparent parts become white; a picture of another shape is cropped in its middle.

    Raises:
        ModelError: kind MODEL, code `training_data_unreadable`: no images, one that cannot be read, or both images in
            the folder and in sub-folders.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not found:
        raise unreadable(f"the folder {folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    parents = [path.relative_to(folder).parts[:-1] for path in found]
    loose = sum(not parent for parent in parents)
    if 0 < loose < len(found):
        raise unreadable(f"of the images in {folder}, {loose} are in no sub-folder: which class are they of?")
    names = [parent[0] if parent else "image" for parent in parents]
    classes = tuple(sorted(set(names)))
    pictures = np.stack([fitted(path, size, grey=grey) for path in found])
    return ImageData(
        images=torch.from_numpy(pictures),
        labels=torch.tensor([classes.index(name) for name in names]),
        classes=classes,
        source=f"the folder {folder.name}: {len(found)} images",
        license=license,
    )


def fitted(path: Path, size: tuple[int, int], *, grey: bool) -> NDArray[np.uint8]:
    """An image file as channels by height by width, as `image_folder` has them.

    Raises:
        ModelError: as `image_folder`.
    """
    try:
        with PillowImage.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, UnidentifiedImageError, ValueError, PillowImage.DecompressionBombError) as error:
        raise unreadable(f"{path} could not be read as an image: {error}") from error
    return on_white(picture, size, grey=grey)


def on_white(picture: PillowImage.Image, size: tuple[int, int], *, grey: bool) -> NDArray[np.uint8]:
    """An RGBA picture as channels by height by width: transparent parts white, cropped in its middle to fit."""
    white = PillowImage.new("RGBA", picture.size, "white")
    flat = PillowImage.alpha_composite(white, picture).convert("L" if grey else "RGB")
    array = np.asarray(ImageOps.fit(flat, (size[1], size[0])))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def unreadable(message: str) -> ModelError:
    """Training data that cannot be used."""
    return ModelError(FailureKind.MODEL, "training_data_unreadable", message)
