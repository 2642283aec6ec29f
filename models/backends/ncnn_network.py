"""An ncnn network as a torch module: in batches, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.ncnn import Layer, NcnnError

NEAREST = 1
LEAKY_RELU = 2
ADD = 0
SUM = 1

Step: TypeAlias = Callable[..., Tensor]


class NcnnNetwork(nn.Module):
    """Runs the layers one after the other, and lets go of each blob after its last use."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        aliases: dict[str, str] = {}  # a Split's outputs are its input
        self._plan: list[tuple[Step, tuple[str, ...], str]] = []
        for layer in layers:
            inputs = tuple(aliases.get(blob, blob) for blob in layer.inputs)
            if layer.kind == "Split":
                aliases.update(dict.fromkeys(layer.outputs, inputs[0]))
            elif layer.kind == "Input":
                self._input = layer.outputs[0]
            else:
                self._plan.append((self._step(layer), inputs, layer.outputs[0]))
        self._output = self._plan[-1][2]
        last_use = {blob: place for place, (_, inputs, _) in enumerate(self._plan) for blob in inputs}
        self._unused_after: list[list[str]] = [[] for _ in self._plan]
        for blob, place in last_use.items():
            self._unused_after[place].append(blob)

    def forward(self, images: Tensor) -> Tensor:
        """Batch by 3 by height by width, 0 to 1; the same way out, larger."""
        blobs = {self._input: images}
        for (step, inputs, output), unused in zip(self._plan, self._unused_after, strict=True):
            blobs[output] = step(*(blobs[blob] for blob in inputs))
            for blob in unused:
                del blobs[blob]
        return blobs[self._output]

    def _step(self, layer: Layer) -> Step:
        match layer.kind:
            case "Convolution":
                return self._add(layer.name, _Convolution(layer))
            case "PReLU":
                module = nn.PReLU(len(layer.weights[0]))
                module.weight = _parameter(layer, 0)
                return self._add(layer.name, module)
            case "PixelShuffle":
                return nn.PixelShuffle(int(layer.number(0)))
            case "Interp" if layer.number(0) == NEAREST and layer.number(1) == layer.number(2):
                return partial(functional.interpolate, scale_factor=layer.number(1), mode="nearest")
            case "BinaryOp" if layer.number(0) == ADD:
                return torch.add
            case "Eltwise" if layer.number(0) == SUM and len(layer.inputs) == 2:
                return partial(_weighted_sum, layer.numbers(1) or (1.0, 1.0))
            case "Concat" if layer.number(0) == 0:
                return _concatenate
            case _:
                raise NcnnError(f"layer {layer.name}: {layer.kind} {dict(layer.options)} is not known here")

    def _add(self, name: str, module: nn.Module) -> nn.Module:
        self.add_module(name, module)
        return module


class _Convolution(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.weight = _parameter(layer, 0)
        self.bias = _parameter(layer, 1) if len(layer.weights) > 1 else None
        self._padding = int(layer.number(4))
        activation = layer.number(9)
        if activation not in {0, LEAKY_RELU}:
            raise NcnnError(f"layer {layer.name}: activation {activation:g} is not known here")
        self._slope = layer.numbers(10)[0] if activation == LEAKY_RELU else None

    def forward(self, images: Tensor) -> Tensor:
        images = functional.conv2d(images, self.weight, self.bias, padding=self._padding)
        return images if self._slope is None else functional.leaky_relu_(images, self._slope)


def _parameter(layer: Layer, place: int) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(layer.weights[place]), requires_grad=False)


def _weighted_sum(factors: tuple[float, ...], one: Tensor, other: Tensor) -> Tensor:
    first, second = factors
    if second == 1:
        return torch.add(other, one, alpha=first)
    return torch.add(first * one, other, alpha=second)


def _concatenate(*images: Tensor) -> Tensor:
    return torch.cat(images, dim=1)
