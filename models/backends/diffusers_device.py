"""Where a pipeline runs and in what precision, and how many pictures fit there."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import psutil
import torch

from models.backends.processor import fastest_dtype

Pipeline: TypeAlias = Any  # diffusers' pipelines have no common type for what is used of them here
Offload: TypeAlias = Literal["none", "model", "layers"]

GPU_MAX_BATCH = 32
"""Beyond it a GPU gains nothing, and each picture waits longer for its batch."""
CPU_MAX_BATCH = 8
"""On a processor a larger batch seemed to gain nothing, measured beside other work."""
PICTURE_BYTES = {"cuda": 4 << 10, "cpu": 16 << 10}
"""Memory of one pixel of a picture while its batch is painted: a first guess, on the safe side."""
FILL = 0.85
"""The part of the free memory that is filled; the rest covers what is not measured."""


def device() -> str:
    """`cuda` where there is a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def precision(where: str) -> torch.dtype:
    """What to compute in: bfloat16 where the device multiplies it, else float16 on a GPU, float32 on a processor."""
    if where == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return fastest_dtype()


def choose_offload(parts: list[int], free: int) -> Offload:
    """What of a pipeline's parts, in bytes, to keep in a GPU's `free` bytes: all, the part at work, or its layer.

    A third of the free memory is left to the pictures, as far as the parts allow.
    """
    room = free * 2 // 3
    if sum(parts) <= room:
        return "none"
    return "model" if max(parts) <= room else "layers"


def place(pipeline: Pipeline, offload: Offload) -> None:
    """Bring a pipeline where it runs. Pipelines that share their parts are placed again when another takes its turn."""
    if device() == "cpu":
        return
    if offload == "none":
        pipeline.to("cuda")
    elif offload == "model":
        pipeline.enable_model_cpu_offload()
    else:
        pipeline.enable_sequential_cpu_offload()


def part_bytes(pipeline: Pipeline) -> list[int]:
    """Size of each part of a pipeline, in bytes."""
    return [
        sum(tensor.numel() * tensor.element_size() for tensor in (*part.parameters(), *part.buffers()))
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module)
    ]


class BatchMemory:
    """How many pictures fit: guessed before the first batch of a size, measured with each on a GPU."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._before = 0

    def guess(self, pixels: int) -> int:
        """How many pictures of so many pixels to begin with."""
        limit = GPU_MAX_BATCH if self._where == "cuda" else CPU_MAX_BATCH
        return max(1, min(limit, int(self._free() * FILL) // (pixels * PICTURE_BYTES[self._where])))

    def begin(self) -> None:
        """Called before a batch."""
        if self._where == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()

    def measured(self, size: int) -> int | None:
        """How many pictures would fit by what a batch of `size` took; None where that is not measured."""
        if self._where != "cuda":
            return None
        taken = max(1, (torch.cuda.max_memory_allocated() - self._before) // size)
        return max(1, min(GPU_MAX_BATCH, int(self._free() * FILL) // taken))

    def _free(self) -> int:
        if self._where == "cpu":
            return int(psutil.virtual_memory().available)
        # What torch holds and does not use is free to it.
        return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
