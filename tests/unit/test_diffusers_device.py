"""Where a pipeline runs and how much of it fits, with a GPU's memory as the test says it is."""

from __future__ import annotations

import pytest
import torch

from models.backends.diffusers_device import CPU_MAX_BATCH, GPU_MAX_BATCH, BatchMemory, choose_offload

GIBIBYTE = 1 << 30


@pytest.mark.parametrize(
    ("parts", "free", "expected"),
    [
        ([2, 5, 1], 24, "none"),
        ([2, 5, 1], 12, "none"),
        ([2, 5, 1], 11, "model"),
        ([9, 24, 1], 40, "model"),
        ([9, 24, 1], 24, "layers"),
    ],
)
def test_what_does_not_fit_is_kept_outside(parts: list[int], free: int, expected: str) -> None:
    assert choose_offload([part * GIBIBYTE for part in parts], free * GIBIBYTE) == expected


class Gpu:
    """A GPU's memory, in bytes; `free` is what no process holds, `reserved` what torch holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        self.free, self.reserved, self.allocated, self.peak = free, 0, 0, 0
        for name, value in {
            "mem_get_info": lambda: (self.free, 80 * GIBIBYTE),
            "memory_reserved": lambda: self.reserved,
            "memory_allocated": lambda: self.allocated,
            "max_memory_allocated": lambda: self.peak,
            "reset_peak_memory_stats": lambda: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)


def test_a_gpus_first_batch_is_guessed_and_the_next_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch, free=10 * GIBIBYTE)
    memory = BatchMemory("cuda")
    assert memory.guess(512 * 512) == 8
    assert memory.guess(64 * 64) == GPU_MAX_BATCH
    assert memory.guess(4096 * 4096) == 1
    gpu.allocated = 4 * GIBIBYTE
    memory.begin()
    # Half a gibibyte a picture; of the 9 that torch holds, 4 are the model's and the rest free to it.
    gpu.peak, gpu.reserved, gpu.free = 8 * GIBIBYTE, 9 * GIBIBYTE, 5 * GIBIBYTE
    assert memory.measured(8) == 17
    gpu.peak = 4 * GIBIBYTE
    assert memory.measured(8) == GPU_MAX_BATCH


def test_a_processors_batch_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchMemory, "_free", lambda _: 8 * GIBIBYTE)
    memory = BatchMemory("cpu")
    assert [memory.guess(side * side) for side in (64, 512, 1024)] == [CPU_MAX_BATCH, 1, 1]
    memory.begin()
    assert memory.measured(8) is None
