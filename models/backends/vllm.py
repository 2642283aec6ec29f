"""The vLLM back-end.

On GPUs the engine is vLLM's `AsyncLLM`, in processes of its own. On a host without GPUs it runs in this process, in a
thread (`vllm_inline`): there the processes would only take the cores from each other, and each would import vLLM and
torch again before a model is ready. docs/performance.md has the numbers.

vLLM itself is imported by `load` or `prewarm`, never by importing this module.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Awaitable
from pathlib import Path
from types import ModuleType

from models.backends.engine import Engine
from models.backends.sequences import SequenceBackend, import_engine
from models.backends.vllm_environment import runs_inline

# What vLLM imports while it loads a model or sees its first schema. A version without one of them does without it.
LATE_IMPORTS = (
    "vllm.distributed.elastic_ep",
    "vllm.model_executor.layers.quantization.online.base",
    "vllm.model_executor.models.llama",
    "vllm.renderers.hf",
    "vllm.transformers_utils.chat_templates",
    "vllm.utils.cpu_triton_utils",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.v1.structured_output.backend_guidance",
    "vllm.v1.structured_output.backend_lm_format_enforcer",
    "vllm.v1.structured_output.backend_outlines",
    "vllm.v1.structured_output.backend_xgrammar",
)


def prewarm() -> None:
    """Import all that `load` will need, so that it only has to read the weights. Takes seconds; for an idle process."""
    _quiet()
    import_engine(_engine_module())
    for module in LATE_IMPORTS:
        with contextlib.suppress(ModuleNotFoundError):
            import_engine(module)


class VllmBackend(SequenceBackend):
    """A model in vLLM."""

    def __init__(self, name: str, *, cache_dir: Path, module: str | None = None, adapters: bool = False) -> None:
        """`module` overrides the choice between an engine in this process and one in its own.

        Only an engine that is opened with `adapters` can be asked with some; one in this process always is.
        """
        _quiet()
        super().__init__(name, cache_dir=cache_dir, engine="vllm", module=module or _engine_module())
        self._adapters = adapters or runs_inline()

    def _start(self, module: ModuleType, folder: Path) -> Awaitable[Engine]:
        started: Awaitable[Engine] = module.start(folder, adapters=self._adapters)
        return started


def _engine_module() -> str:
    return "models.backends.vllm_inline" if runs_inline() else "models.backends.vllm_async"


def _quiet() -> None:
    """Silence what vLLM and torch say of themselves, to which nobody here could do anything."""
    warnings.filterwarnings("ignore", module=r"vllm\b")
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # says that Triton is missing: a CPU needs none
