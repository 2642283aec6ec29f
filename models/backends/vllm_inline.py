"""vLLM's engine in a thread of this process: for hosts without GPUs.

The thread loads the model, adds and aborts what it is told to, and steps the engine while there is work. It shares
nothing with the event loop but two queues.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import vllm.v1.worker.cpu_worker  # noqa: F401  # and other modules that vLLM itself imports late
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from models.backends.chat import Tokenizer
from models.backends.vllm_engine import Deliveries, Engine, Finished, Generation, engine_arguments
from models.backends.vllm_requests import finished, sampling_params
from models.errors import FailureKind, ModelError
from models.spec import ItemError
from models.weights import first_line

_Command: TypeAlias = "list[Generation] | tuple[str, ...] | None"  # add these, abort those, or end


async def start(folder: Path) -> Engine:
    """Load a model into a new engine.

    Raises:
        Exception: whatever vLLM raises on a model that it cannot load.
    """
    engine = InlineEngine(asyncio.get_running_loop())
    await engine.load(folder)
    return engine


class InlineEngine:
    """An engine and the thread that runs it."""

    tokenizer: Tokenizer
    context_length: int

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._waiting: dict[str, Deliveries] = {}
        self._death: ModelError | None = None
        self._loaded: asyncio.Future[None] = loop.create_future()
        self._ended = asyncio.Event()
        self._thread: threading.Thread | None = None

    async def load(self, folder: Path) -> None:
        """Start the thread and wait until the model is in memory."""
        self._thread = threading.Thread(target=self._run, args=(folder,), name="vllm-engine", daemon=True)
        self._thread.start()
        await self._loaded

    async def submit(self, generations: Sequence[Generation], deliveries: Deliveries) -> None:
        """Hand sequences to the thread."""
        if self._death is not None:
            deliveries.put_nowait(self._death)
            return
        for generation in generations:
            self._waiting[generation.id] = deliveries
        self._commands.put(list(generations))

    def abort(self, ids: Sequence[str]) -> None:
        """Tell the thread to forget sequences."""
        for sequence in ids:
            self._waiting.pop(sequence, None)
        if self._death is None:
            self._commands.put(tuple(ids))

    def children(self) -> tuple[tuple[int, float], ...]:
        """None: the engine is in this process and ends with it."""
        return ()

    async def close(self) -> None:
        """End the thread after its present step."""
        if self._thread is not None and not self._ended.is_set():
            self._commands.put(None)
            await self._ended.wait()

    # What follows runs in the event loop's thread, called from the engine's.

    def _deliver(self, done: list[Finished]) -> None:
        by_caller: dict[int, tuple[Deliveries, list[Finished]]] = {}
        for sequence in done:
            deliveries = self._waiting.pop(sequence.id, None)
            if deliveries is not None:
                by_caller.setdefault(id(deliveries), (deliveries, []))[1].append(sequence)
        for deliveries, sequences in by_caller.values():
            deliveries.put_nowait(sequences)

    def _die(self, death: ModelError) -> None:
        self._death = death
        for deliveries in {id(waiting): waiting for waiting in self._waiting.values()}.values():
            deliveries.put_nowait(death)
        self._waiting.clear()
        self._ended.set()

    def _fail_loading(self, error: Exception) -> None:
        self._loaded.set_exception(error)
        self._die(ModelError(FailureKind.ENGINE, "engine_closed", "the engine was never loaded"))

    def _finish_loading(self) -> None:
        if not self._loaded.cancelled():
            self._loaded.set_result(None)

    # What follows runs in the engine's thread.

    def _run(self, folder: Path) -> None:
        try:
            engine = _build(folder)
            self.tokenizer = engine.renderer.get_tokenizer()
            self.context_length = engine.model_config.max_model_len
        except Exception as error:  # noqa: BLE001  # handed to the caller of `load`, who knows the model's name
            self._loop.call_soon_threadsafe(self._fail_loading, error)
            return
        self._loop.call_soon_threadsafe(self._finish_loading)
        death = ModelError(FailureKind.ENGINE, "engine_closed", "the engine was closed")
        try:
            self._serve(engine)
        except Exception as error:  # noqa: BLE001  # an engine that broke in any way is dead, and its callers are told
            death = ModelError(
                FailureKind.ENGINE, "engine_died", f"vLLM's engine died: {type(error).__name__}: {first_line(error)}"
            )
        finally:
            engine.engine_core.shutdown()
            self._loop.call_soon_threadsafe(self._die, death)

    def _serve(self, engine: LLMEngine) -> None:
        while True:
            while not self._commands.empty() or not engine.has_unfinished_requests():
                command = self._commands.get()
                if command is None:
                    return
                if isinstance(command, tuple):
                    engine.abort_request(list(command))
                else:
                    self._add(engine, command)
            done = [finished(output, self.tokenizer) for output in engine.step() if output.finished]
            if done:
                self._loop.call_soon_threadsafe(self._deliver, done)

    def _add(self, engine: LLMEngine, generations: list[Generation]) -> None:
        refused: list[Finished] = []
        for generation in generations:
            try:
                engine.add_request(generation.id, tokens_input(generation.token_ids), sampling_params(generation))
            except (VLLMClientError, ValueError) as error:
                refused.append(Finished(generation.id, error=ItemError("invalid_request", first_line(error))))
        if refused:
            self._loop.call_soon_threadsafe(self._deliver, refused)


def _build(folder: Path) -> LLMEngine:
    arguments = engine_arguments(folder)
    # A class, not the name "uni": for the name vLLM starts a process, so as to set the environment that ours has.
    arguments["distributed_executor_backend"] = UniProcExecutor
    config = EngineArgs(**arguments).create_engine_config()
    return LLMEngine(config, UniProcExecutor, log_stats=False, multiprocess_mode=False)
