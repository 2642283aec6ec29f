"""What the vLLM back-end asks of an engine, wherever that runs, and the settings that both kinds share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from models.backends.chat import Tokenizer
from models.backends.vllm_environment import is_cpu_build
from models.errors import ModelError
from models.spec import FinishReason, ItemError, TextRequest


@dataclass(frozen=True, slots=True)
class Generation:
    """One sequence for an engine to generate: output `k` of a request."""

    id: str
    token_ids: list[int]
    request: TextRequest
    k: int


@dataclass(frozen=True, slots=True)
class Finished:
    """One sequence that an engine has finished, or an item that it could not start."""

    id: str
    text: str = ""
    tokens: int = 0
    finish_reason: FinishReason = "stop"
    error: ItemError | None = None
    index: int | None = None
    """Of an item that was refused before it became a sequence."""


Deliveries: TypeAlias = "asyncio.Queue[list[Finished] | ModelError]"


class Engine(Protocol):
    """A loaded engine. Its methods are called from the event loop's thread alone."""

    tokenizer: Tokenizer
    context_length: int

    async def submit(self, generations: Sequence[Generation], deliveries: Deliveries) -> None:
        """Begin to generate; what is finished, or the engine's death, is put into `deliveries`."""
        ...

    def abort(self, ids: Sequence[str]) -> None:
        """Forget sequences that are not finished."""
        ...

    def children(self) -> tuple[tuple[int, float], ...]:
        """(process id, start time) of each process that the engine started."""
        ...

    async def close(self) -> None:
        """End the engine."""
        ...


GIB = 1 << 30
NUCLEUS = "nightmill_nucleus"
"""The extra argument of a request that asks `vllm_nucleus` for top-p, in place of vLLM's own."""


def engine_arguments(folder: Path) -> dict[str, Any]:  # keyword arguments of vLLM's EngineArgs, of any type
    """Our settings for vLLM. docs/performance.md has the measurements behind them."""
    shared: dict[str, Any] = {
        "model": str(folder),
        "load_format": "safetensors",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        # The grammar library of the transformers back-end and of the check before a job starts, so that all three
        # accept the same schemas. Compact JSON: a small model that may write white space writes little else.
        "structured_outputs_config": {
            "backend": "guidance",
            "disable_any_whitespace": True,
            "disable_additional_properties": True,
        },
    }
    if not is_cpu_build():
        return shared
    return shared | {
        "dtype": "bfloat16",
        "enforce_eager": True,  # compiling takes longer than most jobs on such a host
        "max_num_seqs": 256,
        "kv_cache_memory_bytes": GIB,
        "max_model_len": -1,  # as much of the model's context as fits that cache
        "logits_processors": ["models.backends.vllm_nucleus:NucleusProcessor"],
        # A seeded request whose prompt is read in two steps kills the engine: CPU generators have no offset to set
        # back. Unless told otherwise, vLLM then reads as many tokens in a step as the context has, at least.
        "enable_chunked_prefill": False,
    }
