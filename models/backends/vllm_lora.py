"""LoRA inside vLLM on hosts without GPUs: the rows of a batch adapter by adapter, each group in two products.

vLLM's own for such hosts copies an adapter's matrices once for every token. This class is put in its place
(`install`); with no adapter in a batch it does nothing at all.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform

Group: TypeAlias = "tuple[int, torch.Tensor | None]"
"""An adapter's place in the stacked matrices, and its rows; None where all rows are its own."""


def install() -> None:
    """Have vLLM's engines of this process use `GroupedLora`."""
    CpuPlatform.get_punica_wrapper = classmethod(lambda _: f"{__name__}.GroupedLora")


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM's types are not followed
    """What the adapters of a batch add to the outputs of the base's layers."""

    _tokens: tuple[Group, ...] = ()
    _samples: tuple[Group, ...] = ()

    def update_metadata(
        self, mapping: LoRAMapping, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **named: object
    ) -> None:
        """Note which rows of the next batch belong to which adapter."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **named)
        self._tokens = _groups(self.token_lora_indices)
        self._samples = _groups(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: object,  # a buffer, which is not needed
    ) -> None:
        """Add to `y` (tokens, outputs of all slices) in place."""
        for adapter, rows in self._tokens:
            start = 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                _add(y[:, start : start + width], x, a[adapter, 0], b[adapter, 0], rows, scale)
                start += width

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, *_: object, **__: object
    ) -> None:
        """Add to `y` (tokens, width) in place; `x` (tokens, rank) has been looked up."""
        for adapter, rows in self._tokens:
            b = lora_b_stacked[adapter, 0]
            if rows is None:
                y += x @ b.T
            else:
                y.index_add_(0, rows, (x[rows] @ b.T).to(y.dtype))

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: object,  # a buffer, which is not needed
    ) -> None:
        """Add to `y` (sequences, vocabulary) in place."""
        for adapter, rows in self._samples:
            _add(y, x, lora_a_stacked[adapter, 0], lora_b_stacked[adapter, 0], rows, scale)


def _groups(indices: torch.Tensor) -> tuple[Group, ...]:
    found: list[int] = torch.unique(indices).tolist()
    if len(found) == 1:
        return ((found[0], None),) if found[0] >= 0 else ()
    return tuple((adapter, torch.nonzero(indices == adapter).flatten()) for adapter in found if adapter >= 0)


def _add(
    y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, rows: torch.Tensor | None, scale: float
) -> None:
    """y += scale · x aᵀ bᵀ in some rows; a is (rank, inputs), b (outputs, rank)."""
    own = x if rows is None else x[rows]
    added = (own @ a.T) @ b[: y.shape[1]].T
    if rows is None:
        y.add_(added, alpha=scale)
    else:
        y.index_add_(0, rows, added.to(y.dtype), alpha=scale)
