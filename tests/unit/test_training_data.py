"""Training images: idx files, folders, augmentation, the order in which they are learned."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.errors import ModelError
from models.training.data import (
    FASHION_MNIST_FOLDER,
    augmented,
    fashion_mnist,
    image_folder,
    read_idx,
)
from models.training.settings import Augmentation
from tests.support.tiny_models import squares


def write_idx(path: Path, array: np.ndarray, kind: int = 8) -> None:
    head = struct.pack(f">BBBB{array.ndim}i", 0, 0, kind, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


def picture(path: Path, colour: tuple[int, ...], size: tuple[int, int] = (10, 6), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def test_idx_files_are_read(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "a.gz", array)
    assert (read_idx(tmp_path / "a.gz") == array).all()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no gzip", "could not be read"),
        (gzip.compress(b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", mtime=0), "no idx file of unsigned bytes"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x05\0\0", mtime=0), "could not be read"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x05\0\0", mtime=0)[:-9], "could not be read"),
    ],
)
def test_damaged_idx_files_are_named(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "bad.gz").write_bytes(content)
    with pytest.raises(ModelError, match=told) as raised:
        read_idx(tmp_path / "bad.gz")
    assert raised.value.code == "training_data_unreadable"
    assert "bad.gz" in raised.value.message


def test_absent_data_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="apt install dataset-fashion-mnist"):
        fashion_mnist(tmp_path)


@pytest.mark.skipif(not FASHION_MNIST_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_whole() -> None:
    test = fashion_mnist(test=True)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    assert test.license == "MIT"


def test_a_folder_of_folders_is_a_class_each(tmp_path: Path) -> None:
    picture(tmp_path / "red" / "1.png", (255, 0, 0))
    picture(tmp_path / "blue" / "deep" / "2.jpg", (0, 0, 255))
    (tmp_path / "red" / "notes.txt").write_text("no image")
    data = image_folder(tmp_path, size=(4, 8))
    assert data.classes == ("blue", "red")
    assert data.images.shape == (2, 3, 4, 8)
    assert data.labels.tolist() == [0, 1]
    assert data.images[1, 0].min() > 250
    assert image_folder(tmp_path, size=(4, 8), grey=True).images.shape == (2, 1, 4, 8)


def test_a_folder_without_folders_is_one_class_and_transparent_parts_are_white(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", (0, 0, 0, 0), mode="RGBA")
    data = image_folder(tmp_path, size=(4, 4))
    assert data.classes == ("image",)
    assert data.images.min() == 255


def test_folders_that_cannot_be_learned_from_say_why(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no images"):
        image_folder(tmp_path, size=(4, 4))
    picture(tmp_path / "a" / "1.png", (1, 2, 3))
    picture(tmp_path / "2.png", (1, 2, 3))
    with pytest.raises(ModelError, match="in no sub-folder"):
        image_folder(tmp_path, size=(4, 4))
    (tmp_path / "2.png").unlink()
    (tmp_path / "a" / "1.png").write_bytes((b"\x89PNG\r\n\x1a\n") + b"cut")
    with pytest.raises(ModelError, match=r"1\.png could not be read as an image"):
        image_folder(tmp_path, size=(4, 4))


def test_an_epoch_has_each_image_once_and_the_next_another_order() -> None:
    data = squares(12)
    keys = {tuple(image.flatten().tolist()): place for place, image in enumerate(data.images)}

    def epoch(number: int, seed: int) -> list[int]:
        order = []
        for step in range(3 * number, 3 * number + 3):
            images, labels = data.batch(step, 4, seed)
            levels = ((images + 1) * 127.5).round().to(torch.uint8)
            places = [keys[tuple(image.flatten().tolist())] for image in levels]
            assert labels.tolist() == [int(data.labels[place]) for place in places]
            order += places
        return order

    assert sorted(epoch(0, 1)) == list(range(12))
    assert sorted(epoch(1, 1)) == list(range(12))
    assert epoch(0, 1) == epoch(0, 1)
    assert len({tuple(epoch(0, 1)), tuple(epoch(1, 1)), tuple(epoch(0, 2))}) == 3
    with pytest.raises(ValueError, match="batch of 13"):
        data.batch(0, 13, 1)


def test_augmentation_keeps_shape_and_range_and_follows_its_generator() -> None:
    images = torch.linspace(-1, 1, 16 * 8 * 8).reshape(16, 1, 8, 8)
    everything = Augmentation(flip=True, crop=True, jitter=True)

    def made(augmentation: Augmentation, seed: int) -> torch.Tensor:
        return augmented(images, augmentation, torch.Generator().manual_seed(seed))

    assert torch.equal(made(Augmentation(), 1), images)
    assert made(everything, 1).shape == images.shape
    assert made(everything, 1).abs().max() <= 1
    assert torch.equal(made(everything, 1), made(everything, 1))
    assert not torch.equal(made(everything, 1), made(everything, 2))
    flipped = made(Augmentation(flip=True), 1)
    mirrored = [torch.equal(one, image.flip(2)) for one, image in zip(flipped, images, strict=True)]
    as_was = [torch.equal(one, image) for one, image in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, as_was, strict=True))
    assert 0 < sum(mirrored) < 16
