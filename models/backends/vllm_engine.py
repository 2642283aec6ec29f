"""Our settings for vLLM, the same wherever its engine runs. docs/performance.md has the measurements behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.backends.vllm_environment import is_cpu_build
from models.training.settings import MAX_RANK

GIB = 1 << 30
NUCLEUS = "nightmill_nucleus"
"""The extra argument of a request that asks `vllm_nucleus` for top-p, in place of vLLM's own."""


MAX_ADAPTERS = 4
"""In one batch; what names a fifth waits. Each takes room in every layer."""
KEPT_ADAPTERS = 32
"""In memory. The one that was not used for longest goes first, and is read again when it is asked for."""


def engine_arguments(folder: Path, *, adapters: bool = False) -> dict[str, Any]:  # of vLLM's EngineArgs, of any type
    """Our settings for a model in a folder."""
    shared: dict[str, Any] = {
        "model": str(folder),
        "load_format": "safetensors",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        # The grammar library of the transformers back-end and of the check before a job starts, so that all three
        # accept the same schemas. Compact JSON: a small model that may write white space writes little else.
        "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
    }
    if adapters:
        shared |= {
            "enable_lora": True,
            "max_loras": MAX_ADAPTERS,
            "max_cpu_loras": KEPT_ADAPTERS,
            "max_lora_rank": MAX_RANK,
        }
    if not is_cpu_build():
        return shared
    from models.backends.processor import fastest_dtype  # noqa: PLC0415 - torch, after its environment is set

    dtype = fastest_dtype()
    return shared | {
        "dtype": dtype,
        "enforce_eager": True,  # compiling takes longer than most jobs on such a host
        "max_num_seqs": 256,
        "block_size": 32,  # the least that a CPU's attention takes: prompts that begin alike share more of it
        "kv_cache_memory_bytes": GIB // 2 * dtype.itemsize,  # as many tokens in either type
        "max_model_len": -1,  # as much of the model's context as fits that cache
        "logits_processors": ["models.backends.vllm_nucleus:NucleusProcessor"],
        # A seeded request whose prompt is read in two steps kills the engine: CPU generators have no offset to set
        # back. Unless told otherwise, vLLM then reads as many tokens in a step as the context has, at least.
        "enable_chunked_prefill": False,
    }
