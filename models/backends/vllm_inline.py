"""vLLM's engine in a thread of this process: for hosts without GPUs."""

from __future__ import annotations

from pathlib import Path

import vllm.v1.worker.cpu_worker  # noqa: F401  # and other modules that vLLM itself imports late
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from models.backends.chat import Tokenizer
from models.backends.engine import Engine, Finished, Generation
from models.backends.threaded import ThreadedEngine
from models.backends.vllm_engine import engine_arguments
from models.backends.vllm_requests import LoraRequests, finished, sampling_params
from models.spec import ItemError
from models.weights import first_line


async def start(folder: Path, *, adapters: bool = False) -> Engine:
    """Load a model into a new engine.

    Raises:
        Exception: whatever vLLM raises on a model that it cannot load.
    """
    engine = InlineEngine(adapters=adapters)
    await engine.open(folder)
    return engine


class InlineEngine(ThreadedEngine[Generation, Finished]):
    """vLLM, stepped by a thread."""

    tokenizer: Tokenizer
    context_length: int
    _engine: LLMEngine

    def __init__(self, *, adapters: bool = False) -> None:
        super().__init__()
        self._adapters = adapters
        self._loras = LoraRequests()

    def _load(self, folder: Path) -> None:
        if self._adapters:
            # Imported here: an engine without adapters needs nothing of it.
            from models.backends.vllm_lora import install  # noqa: PLC0415

            install()
        try:
            self._engine = _open(folder, adapters=self._adapters)
        except ValueError as error:
            # Of a model whose layers vLLM cannot change, or whose vocabulary is too large; its words are all it tells.
            if not self._adapters or "LoRA" not in str(error):
                raise
            self._engine = _open(folder, adapters=False)
        self.tokenizer = self._engine.renderer.get_tokenizer()
        self.context_length = self._engine.model_config.max_model_len

    def _take(self, generations: list[Generation]) -> list[Finished]:
        refused: list[Finished] = []
        for generation in generations:
            try:
                self._engine.add_request(
                    generation.id,
                    tokens_input(generation.token_ids),
                    sampling_params(generation),
                    lora_request=self._loras.of(generation),
                )
            except (VLLMClientError, ValueError) as error:
                refused.append(Finished(generation.id, error=ItemError("invalid_request", first_line(error))))
        return refused

    def _busy(self) -> bool:
        busy: bool = self._engine.has_unfinished_requests()
        return busy

    def _step(self) -> list[Finished]:
        return [finished(output, self.tokenizer) for output in self._engine.step() if output.finished]

    def _forget(self, ids: tuple[str, ...]) -> None:
        self._engine.abort_request(list(ids))

    def _unload(self) -> None:
        self._engine.engine_core.shutdown()


def _open(folder: Path, *, adapters: bool) -> LLMEngine:
    arguments = engine_arguments(folder, adapters=adapters)
    # A class, not the name "uni": for the name vLLM starts a process, so as to set the environment that ours has.
    arguments["distributed_executor_backend"] = UniProcExecutor
    config = EngineArgs(**arguments).create_engine_config()
    return LLMEngine(config, UniProcExecutor, log_stats=False, multiprocess_mode=False)
