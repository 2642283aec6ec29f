"""vLLM's `AsyncLLM`: the engine in processes of its own. For hosts with GPUs.

The processes must not outlive this one: each of them asks the kernel to be killed with its parent (`vllm_child`), and
their ids are told to whoever watches this process from outside.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

from models.backends.chat import Tokenizer
from models.backends.engine import Deliveries, Engine, Finished, Generation
from models.backends.vllm_engine import engine_arguments
from models.backends.vllm_requests import LoraRequests, finished, sampling_params
from models.errors import FailureKind, ModelError
from models.spec import ItemError
from models.weights import first_line

END_SECONDS = 10.0


async def start(folder: Path, *, adapters: bool = False) -> Engine:
    """Load a model into a new engine.

    Raises:
        ModelError: kind ENGINE, a process of the engine died.
        Exception: whatever vLLM raises on a model that it cannot load.
    """
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    arguments = engine_arguments(folder, adapters=adapters)
    config = await asyncio.to_thread(lambda: AsyncEngineArgs(**arguments).create_engine_config())
    # Blocks the event loop while the processes start: AsyncLLM must be made in the loop's thread.
    signs: list[Signs] = []

    def watch(config: VllmConfig, engine_index: int = 0) -> Signs:
        signs.append(Signs(config, engine_index))
        return signs[-1]

    try:
        engine = AsyncLLM.from_vllm_config(config, stat_loggers=[watch], disable_log_stats=False)
    except RuntimeError as error:
        # One of its processes ended while it loaded: killed, or for want of memory. What it died of, it has not told.
        raise ModelError(
            FailureKind.ENGINE, "engine_died", f"vLLM's engine died while it loaded: {first_line(error)}"
        ) from error
    children = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    return AsyncEngine(engine, children, signs[0])


class Signs(StatLoggerBase):  # type: ignore[misc]  # vLLM's types are not followed
    """Notes when the engine last said that it had made a step: its outputs come only when a sequence is finished."""

    def __init__(self, vllm_config: VllmConfig, engine_index: int = 0) -> None:  # noqa: ARG002  # vLLM's signature
        self.last = time.monotonic()

    def record(self, *_: object, **__: object) -> None:
        """Called with the statistics of every step."""
        self.last = time.monotonic()

    def log_engine_initialized(self) -> None:
        """Nothing is logged."""


class AsyncEngine:
    """An AsyncLLM, one task for each sequence."""

    tokenizer: Tokenizer
    context_length: int

    def __init__(self, engine: AsyncLLM, children: Sequence[psutil.Process], signs: Signs) -> None:
        self._engine = engine
        self._signs = signs
        self._children = tuple(children)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loras = LoraRequests()
        self.tokenizer = engine.get_tokenizer()
        self.context_length = engine.model_config.max_model_len

    async def submit(self, generations: Sequence[Generation], deliveries: Deliveries) -> None:
        """Start a task for each sequence."""
        if not self._tasks:
            self._signs.last = time.monotonic()
        for generation in generations:
            task = asyncio.create_task(self._generate(generation, deliveries))
            self._tasks[generation.id] = task

    def abort(self, ids: Sequence[str]) -> None:
        """Cancel tasks; AsyncLLM then aborts their requests in its engine."""
        for key in ids:
            task = self._tasks.pop(key, None)
            if task is not None:
                task.cancel()

    def quiet_seconds(self) -> float:
        """For how long the engine has had sequences and reported no step."""
        return time.monotonic() - self._signs.last if self._tasks else 0.0

    def children(self) -> tuple[tuple[int, float], ...]:
        """The engine's processes."""
        return tuple((child.pid, child.create_time()) for child in self._children)

    async def close(self) -> None:
        """Abort what runs, end the engine, and kill those of its processes that will not."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._engine.shutdown)
        await asyncio.to_thread(_end, self._children)

    async def _generate(self, generation: Generation, deliveries: Deliveries) -> None:
        last: RequestOutput | None = None
        try:
            async for output in self._engine.generate(
                tokens_input(generation.token_ids),
                sampling_params(generation),
                generation.id,
                lora_request=self._loras.of(generation),
            ):
                last = output
        except EngineDeadError as error:
            deliveries.put_nowait(
                ModelError(FailureKind.ENGINE, "engine_died", f"vLLM's engine died: {first_line(error)}")
            )
        except (VLLMClientError, ValueError) as error:
            deliveries.put_nowait([Finished(generation.id, error=ItemError("invalid_request", first_line(error)))])
        else:
            if last is not None:
                deliveries.put_nowait([finished(last, self.tokenizer)])
        finally:
            self._tasks.pop(generation.id, None)


def _end(processes: Sequence[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=END_SECONDS)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=END_SECONDS)
