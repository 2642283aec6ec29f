"""Networks in ncnn's files: a `.param` that names the layers, and a `.bin` with their weights one after the other.

Only what the networks that Nightmill runs are made of is read; anything else is refused, never guessed.
Source: ncnn's own description of the formats, https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

PARAM_MAGIC = "7767517"
FLOAT32_TAG = 0
FLOAT16_TAG = 0x01306B47
FIRST_ARRAY_KEY = -23300
"""An array's key is this minus the key that it has in ncnn's documentation of the layer."""

Value: TypeAlias = float | tuple[float, ...]


class NcnnError(Exception):
    """The files are not those of a network that can be read here."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One step of a network: from named blobs to named blobs."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Mapping[int, Value]
    """By ncnn's numbers."""
    weights: tuple[NDArray[np.float32], ...] = field(default=(), repr=False)

    def number(self, key: int, default: float = 0) -> float:
        """An option that is one number."""
        value = self.options.get(key, default)
        if isinstance(value, tuple):
            raise NcnnError(f"layer {self.name}: option {key} is a list of numbers")
        return value

    def numbers(self, key: int) -> tuple[float, ...]:
        """An option that is a list of numbers, empty where it is not given."""
        value = self.options.get(key, ())
        return value if isinstance(value, tuple) else (value,)


def read(param: Path, weights: Path) -> list[Layer]:
    """The layers of a network in the order in which they run.

    Raises:
        NcnnError: the text is not a `.param`, names a layer that is not known here, or the weights do not fit it.
    """
    layers = _parse(param.read_text(encoding="ascii"))
    stream = _Weights(weights.read_bytes())
    filled = [_fill(layer, stream) for layer in layers]
    if stream.left:
        raise NcnnError(f"{weights.name} has {stream.left} bytes more than {param.name} asks for")
    return filled


def _parse(text: str) -> list[Layer]:
    lines = text.splitlines()
    if len(lines) < 2 or lines[0].strip() != PARAM_MAGIC:
        raise NcnnError("not a text .param file of ncnn")
    layers = [_parse_layer(line.split()) for line in lines[2:] if line.strip()]
    if len(layers) != int(lines[1].split()[0]):
        raise NcnnError(f"{lines[1].split()[0]} layers are announced, {len(layers)} found")
    return layers


def _parse_layer(words: list[str]) -> Layer:
    kind, name, inputs, outputs = words[0], words[1], int(words[2]), int(words[3])
    options: dict[int, Value] = {}
    for word in words[4 + inputs + outputs :]:
        key, _, value = word.partition("=")
        if int(key) <= FIRST_ARRAY_KEY:
            options[FIRST_ARRAY_KEY - int(key)] = tuple(float(part) for part in value.split(",")[1:])
        else:
            options[int(key)] = float(value)
    blobs = words[4 : 4 + inputs + outputs]
    return Layer(kind, name, tuple(blobs[:inputs]), tuple(blobs[inputs:]), options)


class _Weights:
    """Reads a `.bin` from its start to its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def tagged(self, count: int, name: str) -> NDArray[np.float32]:
        """Weights that say themselves how they are stored."""
        tag = int.from_bytes(self._take(4, name), "little")
        if tag == FLOAT16_TAG:
            values = np.frombuffer(self._take(2 * count, name), dtype="<f2").astype(np.float32)
            self._take(-2 * count % 4, name)  # padded to whole words
            return values
        if tag == FLOAT32_TAG:
            return self.plain(count, name)
        raise NcnnError(f"layer {name}: its weights are stored in a way that is not known here (tag 0x{tag:08X})")

    def plain(self, count: int, name: str) -> NDArray[np.float32]:
        return np.frombuffer(self._take(4 * count, name), dtype="<f4").astype(np.float32)

    def _take(self, count: int, name: str) -> bytes:
        if count > self.left:
            raise NcnnError(f"layer {name}: the weights end {count - self.left} bytes too early")
        self._at += count
        return self._data[self._at - count : self._at]


# Options that a layer may have. One that is not listed could change what it does, so it is refused.
KNOWN_OPTIONS: dict[str, frozenset[int]] = {
    "Input": frozenset(),
    "Split": frozenset(),
    "Convolution": frozenset({0, 1, 4, 5, 6, 9, 10}),
    "PReLU": frozenset({0}),
    "PixelShuffle": frozenset({0}),
    "Interp": frozenset({0, 1, 2}),
    "BinaryOp": frozenset({0}),
    "Eltwise": frozenset({0, 1}),
    "Concat": frozenset({0}),
}


def _fill(layer: Layer, stream: _Weights) -> Layer:
    known = KNOWN_OPTIONS.get(layer.kind)
    if known is None or not layer.options.keys() <= known:
        raise NcnnError(f"layer {layer.name}: {layer.kind} {dict(layer.options)} is not known here")
    weights: tuple[NDArray[np.float32], ...] = ()
    if layer.kind == "Convolution":
        count, outputs, side = int(layer.number(6)), int(layer.number(0)), int(layer.number(1))
        kernel = stream.tagged(count, layer.name).reshape(outputs, -1, side, side)
        weights = (kernel, stream.plain(outputs, layer.name)) if layer.number(5) else (kernel,)
    elif layer.kind == "PReLU":
        weights = (stream.plain(int(layer.number(0)), layer.name),)
    return Layer(layer.kind, layer.name, layer.inputs, layer.outputs, layer.options, weights)
