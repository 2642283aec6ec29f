"""Input images: what is read, what is converted, and what costs its item."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from workers import pictures
from workers.pictures import PictureError, read_picture


def saved(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def noise(width: int = 24, height: int = 16, channels: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (height, width, channels), dtype=np.uint8))


def animated(form: str) -> bytes:
    frames = [noise(), noise().transpose(Image.Transpose.ROTATE_180)]
    return saved(frames[0], form, save_all=True, append_images=frames[1:])


def header_only(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


BAD: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "nothing": (lambda: b"", "invalid_image", "is empty"),
    "not an image": (lambda: b"<svg></svg>", "invalid_image", "no image that can be read"),
    "another format": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "invalid_image", "no image"),
    "truncated PNG": (lambda: saved(noise())[:300], "invalid_image", "PNG file is damaged or cut off"),
    "truncated JPEG": (lambda: saved(noise(), "JPEG")[:-200], "invalid_image", "JPEG file is damaged or cut off"),
    "truncated WebP": (lambda: saved(noise(), "WEBP")[:-60], "invalid_image", "is"),
    "damaged PNG": (lambda: saved(noise()).replace(b"IDAT\x78", b"IDAT\x00"), "invalid_image", "damaged"),
    "decompression bomb": (lambda: header_only(60_000, 60_000), "image_too_large", "64 megapixels"),
    "a bomb that Pillow lets pass": (lambda: header_only(8_500, 8_500), "image_too_large", "8,500 by 8,500"),
    "20,000 by 20,000": (lambda: saved(Image.new("1", (20_000, 20_000))), "image_too_large", "64 megapixels"),
    "1 by 1": (lambda: saved(noise(1, 1)), "image_too_small", "1 by 1"),
    "a line": (lambda: saved(noise(200, 7)), "image_too_small", "200 by 7"),
    "animated GIF": (lambda: animated("GIF"), "animated_image", "GIF file has 2 frames"),
    "animated WebP": (lambda: animated("WEBP"), "animated_image", "2 frames"),
    "animated PNG": (lambda: animated("PNG"), "animated_image", "2 frames"),
    "several pages": (lambda: animated("TIFF"), "animated_image", "TIFF file has 2 frames"),
    "fractions": (lambda: saved(Image.new("F", (16, 16)), "TIFF"), "invalid_image", "fractions"),
    "32 bits": (
        lambda: saved(Image.fromarray(np.full((16, 16), 1 << 20, np.int32)), "TIFF"),
        "invalid_image",
        "more than 16 bits",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_an_error_of_its_item(name: str) -> None:
    make, code, message = BAD[name]
    with pytest.raises(PictureError) as refused:
        read_picture(make())
    assert refused.value.error.code == code
    assert message in refused.value.error.message


def test_a_bomb_is_refused_by_its_header_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: Any) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(Image.Image, "load", decoded)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with pytest.raises(PictureError, match="megapixels"):
        read_picture(header_only(8_500, 8_500))


def transparent() -> Image.Image:
    picture = Image.new("RGBA", (16, 16), (255, 0, 0, 255))
    picture.paste((0, 255, 0, 0), (0, 0, 8, 16))
    return picture


def palette_with_hole() -> bytes:
    picture = Image.new("P", (16, 16), 1)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.paste(0, (0, 0, 8, 16))
    return saved(picture, "GIF", transparency=0)


RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)
GOOD: dict[str, tuple[Callable[[], bytes], tuple[int, int, int], tuple[int, int, int]]] = {
    # What is read, and its colours at the left and at the right.
    "RGB": (lambda: saved(Image.new("RGB", (16, 16), RED)), RED, RED),
    "CMYK": (lambda: saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"), RED, RED),
    "16-bit grey": (lambda: saved(Image.fromarray(np.full((16, 16), 40_000, np.uint16))), (156,) * 3, (156,) * 3),
    "16-bit grey TIFF": (
        lambda: saved(Image.fromarray(np.full((16, 16), 40_000, np.uint16)), "TIFF"),
        (156,) * 3,
        (156,) * 3,
    ),
    "alpha": (lambda: saved(transparent()), WHITE, RED),
    "grey with alpha": (lambda: saved(Image.new("LA", (16, 16), (9, 0))), WHITE, WHITE),
    "palette with a hole": (palette_with_hole, WHITE, (200, 100, 50)),
    "grey": (lambda: saved(Image.new("L", (16, 16), 77)), (77,) * 3, (77,) * 3),
    "black and white": (lambda: saved(Image.new("1", (16, 16), 1)), WHITE, WHITE),
    "one frame of GIF": (lambda: saved(Image.new("L", (16, 16), 0), "GIF"), BLACK, BLACK),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_can_be_used_is_8_bit_rgb(name: str) -> None:
    make, left, right = GOOD[name]
    pixels = read_picture(make())
    assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)
    assert np.abs(pixels[8, 2].astype(int) - left).max() <= 2
    assert np.abs(pixels[8, 13].astype(int) - right).max() <= 2


def test_16_bit_colour_is_read() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + struct.pack(">HHH", 60_000, 30_000, 10) * 16 for _ in range(16))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
    pixels = read_picture(data + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    assert pixels[0, 0].tolist() == [60_000 >> 8, 30_000 >> 8, 0]


def test_what_a_mask_leaves_open_is_not_painted() -> None:
    pixels = read_picture(saved(transparent()), mask=True)
    assert pixels[8, 2].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (15, 23)), (6, (0, 15)), (8, (23, 0))])
def test_a_picture_stands_as_the_camera_says(orientation: int, corner: tuple[int, int]) -> None:
    picture = Image.new("RGB", (24, 16))
    picture.paste("white", (0, 0, 8, 8))  # whole blocks of JPEG
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read_picture(saved(picture, "JPEG", exif=exif, quality=100))
    assert pixels.shape[:2] == ((16, 24) if orientation in {1, 3} else (24, 16))
    assert pixels[corner].min() > 250
    assert (pixels.min(axis=-1) > 250).mean() == pytest.approx(64 / 384, abs=0.02)


def test_colours_follow_the_files_own_profile() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with_profile = read_picture(saved(noise(), "PNG", icc_profile=lab))
    assert np.abs(with_profile.astype(int) - np.asarray(noise()).astype(int)).max() <= 1
    broken = read_picture(saved(noise(), "PNG", icc_profile=b"no profile"))
    assert (broken == np.asarray(noise())).all()


def test_a_large_photograph_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_SIDE", 64)
    assert read_picture(saved(noise(128, 96))).shape == (48, 64, 3)
    with pytest.raises(PictureError, match="64 by 5"):
        read_picture(saved(noise(800, 64)))
