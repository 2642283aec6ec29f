"""Input images: from whatever bytes a client gives to pixels, or to an error of that one item.

What comes out is always 8-bit RGB, upright, without any of the file's metadata:

- Colours are taken to sRGB by the file's own profile, where it has a good one; CMYK without one by Pillow's formula.
- 16-bit grey is brought to 8 bits; 16-bit colour is read as 8 bits by Pillow itself.
- What is transparent is laid on white; of a mask, on black, which keeps what is below it.
- The orientation that a camera noted (EXIF) is applied, and then forgotten like the rest of EXIF.
- A picture of up to 64 megapixels is shrunk until no side is above 4,096.

Refused: what is no image or is cut off, more than 64 megapixels, a side below 8 pixels, more than one frame or page.
The size is read from the header, before anything is decoded, so a decompression bomb costs nothing.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms, ImageOps

from models.images import MAX_SIDE, Pixels
from models.spec import ItemError

logger = logging.getLogger(__name__)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is read. A reader that starts another program, or runs what a file says, is not among them."""
MIN_SIDE = 8
MAX_PIXELS = 64_000_000
_ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}
_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    MemoryError,
    NotImplementedError,
    EOFError,
    struct.error,
    zlib.error,
)
"""What Pillow's readers raise over a file that is broken: nearly anything, by their own documentation and in fact."""


class PictureError(Exception):
    """An image cannot be used; it costs its item alone."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.error = ItemError(code, message)


def read_picture(data: bytes, *, mask: bool = False) -> Pixels:
    """The pixels of an image file, height by width by 3.

    Args:
        data: The file.
        mask: Whether it says where to paint: white is painted, and so what is transparent is black.

    Raises:
        PictureError: it is no image, or none that can be used; `error.code` is `invalid_image`, `image_too_large`,
            `image_too_small` or `animated_image`.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("image_too_large", f"the image has over {MAX_PIXELS // 1_000_000} megapixels") from error
    except _FAULTS as error:
        shown = "is empty" if not data else "is no image that can be read"
        raise PictureError("invalid_image", f"the file {shown}; give one of {', '.join(FORMATS)}") from error
    with picture:
        _check_size(*picture.size)
        try:
            _check_frames(picture)
            picture.load()
            return _pixels(picture, mask=mask)
        except _FAULTS as error:
            raise PictureError(
                "invalid_image",
                f"the {picture.format} file is damaged or cut off: {str(error) or type(error).__name__}",
            ) from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(
            "image_too_large",
            f"the image is {width:,} by {height:,} pixels; {MAX_PIXELS // 1_000_000} megapixels are the most",
        )
    if min(width, height) < MIN_SIDE:
        raise PictureError(
            "image_too_small", f"the image is {width} by {height} pixels; each side needs {MIN_SIDE} at least"
        )


def _check_frames(picture: Image.Image) -> None:
    # Many phones' JPEGs hold a second picture (MPO), a depth map or preview; the first is the one that is shown.
    frames = 1 if picture.format in {"JPEG", "MPO"} else getattr(picture, "n_frames", 1)
    if frames > 1:
        raise PictureError("animated_image", f"the {picture.format} file has {frames} frames; give a single picture")


def _pixels(picture: Image.Image, *, mask: bool) -> Pixels:
    profile = picture.info.get("icc_profile")
    upright = ImageOps.exif_transpose(picture)
    flat = _eight_bits(upright)
    if flat.mode in _ALPHA or "transparency" in flat.info:
        flat = _flattened(flat, "black" if mask else "white")
    elif flat.mode != "RGB" or profile:
        flat = _in_srgb(flat, profile)
    if max(flat.size) > MAX_SIDE:
        flat.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        _check_size(*flat.size)
    return np.array(flat, dtype=np.uint8)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Pillow clips 16 bits where it converts them, and so loses nearly all of the picture."""
    if picture.mode == "F":
        raise PictureError("invalid_image", "the image's pixels are fractions; give one of whole numbers")
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise PictureError("invalid_image", "the image has more than 16 bits a channel")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _flattened(picture: Image.Image, ground: str) -> Image.Image:
    layers = picture.convert("RGBA")
    whole = Image.new("RGBA", layers.size, ground)
    whole.alpha_composite(layers)
    return whole.convert("RGB")


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    if profile and picture.mode in {"RGB", "CMYK", "L"}:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            # A broken profile says nothing; the picture is as good as one without any.
            logger.info("an image's colour profile is not used: %s", error)
    return picture.convert("RGB")
