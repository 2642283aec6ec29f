"""Top-p inside vLLM by `keep_nucleus`: for hosts without GPUs, where vLLM's own sorts the vocabulary.

vLLM takes it as a custom logits processor (https://docs.vllm.ai/en/latest/features/custom_logitsprocs/): it runs after
temperature and min_p, where vLLM's own top-k and top-p would. A request asks for it in its `extra_args`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from models.backends.nucleus import keep_nucleus
from models.backends.vllm_engine import NUCLEUS

Nucleus: TypeAlias = "tuple[float, int]"  # top_p, top_k (0: all tokens)


class NucleusProcessor(LogitsProcessor):  # type: ignore[misc]  # vLLM's types are not followed
    """Limits each row that asked for it to its nucleus."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:  # noqa: FBT001, ARG002  # vLLM's signature
        self._rows: dict[int, Nucleus] = {}
        self._tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def is_argmax_invariant(self) -> bool:
        """The likeliest token is always in the nucleus."""
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests as they join, leave and change rows."""
        if process_dict_updates(self._rows, batch_update, _asked):
            self._tensors = None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Limit the rows that asked for it, in place."""
        if not self._rows:
            return logits
        if self._tensors is None:
            rows = sorted(self._rows)
            top_p = torch.tensor([self._rows[row][0] for row in rows])
            top_k = torch.tensor([self._rows[row][1] or logits.shape[-1] for row in rows])
            self._tensors = torch.tensor(rows), top_p, top_k
        where, top_p, top_k = self._tensors
        if len(where) == len(logits):
            return keep_nucleus(logits, top_p, top_k)
        logits[where] = keep_nucleus(logits[where], top_p, top_k)
        return logits


def _asked(params: SamplingParams, prompt: list[int] | None, output: list[int]) -> Nucleus | None:  # noqa: ARG001  # vLLM's signature
    arguments: dict[str, Any] = params.extra_args or {}  # values are whatever a request brings
    nucleus: Nucleus | None = arguments.get(NUCLEUS)
    return nucleus
