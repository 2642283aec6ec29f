"""The vLLM back-end: batches of chat requests through one engine.

On GPUs the engine is vLLM's `AsyncLLM`, in processes of its own. On a host without GPUs it runs in this process, in a
thread (`vllm_inline`): there the processes would only take the cores from each other, and each would import vLLM and
torch again before a model is ready. docs/performance.md has the numbers.

vLLM itself is imported by `load` or `prewarm`, never by importing this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import itertools
import logging
import time
import warnings
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import ModuleType

import msgspec

from models import weights
from models.backends import vllm_environment
from models.backends.chat import ChatFormat, load_error
from models.backends.vllm_engine import Deliveries, Engine, Finished, Generation
from models.errors import FailureKind, ModelError
from models.spec import ModelInfo, Output, TextRequest, TextResult, Usage, output_seed

SHARDS_IN_FLIGHT = 4
ENCODE_GROUP = 64
"""Requests tokenised at once, in a thread: the first reach the engine while the next are still being read."""


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
    _import(_engine_module())
    for module in LATE_IMPORTS:
        with contextlib.suppress(ModuleNotFoundError):
            _import(module)
    _freeze()


def _freeze() -> None:
    """Take what is imported out of garbage collection: loading a model collects five times, a quarter second each."""
    gc.collect()
    gc.freeze()


def _import(module: str) -> ModuleType:
    """An engine module, and with it vLLM, without the warnings that neither we nor our caller could act on."""
    warnings.filterwarnings("ignore", module=r"vllm\b")
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # says that Triton is missing: a CPU needs none
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def _engine_module() -> str:
    return "models.backends.vllm_inline" if vllm_environment.is_cpu_build() else "models.backends.vllm_async"


class VllmBackend:
    """A model in vLLM."""

    def __init__(self, name: str, *, cache_dir: Path, engine_module: str | None = None) -> None:
        """`engine_module` overrides the choice between an engine in this process and one in its own."""
        self._name = name
        self._cache_dir = cache_dir
        self._module = engine_module or _engine_module()
        self._engine: Engine | None = None
        self._chat: ChatFormat | None = None
        self._numbers = itertools.count()

    async def load(self) -> ModelInfo:
        """Read the weights into a new engine.

        Raises:
            ModelError: kind MODEL where the model can never be loaded here, ENGINE where another try may help.
        """
        started = time.monotonic()
        try:
            folder, module = await asyncio.gather(
                asyncio.to_thread(weights.locate, self._name, self._cache_dir),
                asyncio.to_thread(_import, self._module),
            )
            await asyncio.to_thread(_freeze)
            hashing = asyncio.create_task(asyncio.to_thread(weights.revision, folder))
            self._engine = engine = await module.start(folder)
            self._chat = ChatFormat(engine.tokenizer, engine.context_length, self._name)
            revision = await hashing
        except Exception as error:
            # Whatever vLLM raises on a model that it cannot read: its own errors, torch's, pydantic's, the OS's.
            await self.close()
            raise load_error(self._name, error) from error
        return ModelInfo(
            model=self._name,
            revision=revision,
            engine="vllm",
            context_length=engine.context_length,
            reproducible="seeded",
            shards_in_flight=SHARDS_IN_FLIGHT,
            load_seconds=time.monotonic() - started,
            child_pids=engine.children(),
        )

    async def generate(self, requests: Sequence[TextRequest]) -> AsyncIterator[Sequence[TextResult]]:
        """Answer requests in the order in which they finish; other calls share the engine's batches.

        Raises:
            ModelError: kind ENGINE, the engine broke or was closed.
        """
        engine, chat = self._engine, self._chat
        if engine is None or chat is None:
            raise ModelError(FailureKind.ENGINE, "engine_closed", f"the engine of {self._name!r} is not loaded")
        deliveries: Deliveries = asyncio.Queue()
        open_items: dict[str, _OpenItem] = {}
        feeding = asyncio.create_task(self._feed(engine, chat, requests, deliveries, open_items))
        answered = 0
        try:
            while answered < len(requests):
                delivery = await _next(deliveries, feeding)
                if isinstance(delivery, ModelError):
                    raise delivery
                results = [result for finished in delivery if (result := _collect(finished, open_items)) is not None]
                if results:
                    answered += len(results)
                    yield results
        finally:
            feeding.cancel()
            if open_items:
                engine.abort(list(open_items))

    async def _feed(
        self,
        engine: Engine,
        chat: ChatFormat,
        requests: Sequence[TextRequest],
        deliveries: Deliveries,
        open_items: dict[str, _OpenItem],
    ) -> None:
        for start in range(0, len(requests), ENCODE_GROUP):
            prompts, refused = await asyncio.to_thread(chat.encode, requests[start : start + ENCODE_GROUP])
            generations: list[Generation] = []
            for prompt in prompts:
                request = prompt.request
                item = _OpenItem(request=request, prompt_tokens=len(prompt.token_ids))
                for k in range(request.n):
                    generation = Generation(
                        id=f"{next(self._numbers)}", token_ids=prompt.token_ids, request=request, k=k
                    )
                    open_items[generation.id] = item
                    item.ids.append(generation.id)
                    generations.append(generation)
            if refused:
                failed = [Finished(id="", error=error, index=request.index) for request, error in refused]
                deliveries.put_nowait(failed)
            if generations:
                await engine.submit(generations, deliveries)

    async def close(self) -> None:
        """End the engine and its processes. What still generates raises `engine_closed`."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()


class _OpenItem(msgspec.Struct, kw_only=True):
    """An item of which some outputs are still being generated."""

    request: TextRequest
    prompt_tokens: int
    ids: list[str] = msgspec.field(default_factory=list)
    outputs: dict[str, Finished] = msgspec.field(default_factory=dict)


async def _next(deliveries: Deliveries, feeding: asyncio.Task[None]) -> list[Finished] | ModelError:
    """The next delivery; raises what the feeding task raised, should it fail."""
    if feeding.done():
        feeding.result()
        return await deliveries.get()
    getting = asyncio.ensure_future(deliveries.get())
    try:
        await asyncio.wait({getting, feeding}, return_when=asyncio.FIRST_COMPLETED)
        if feeding.done() and not feeding.cancelled():
            feeding.result()
        return await getting
    finally:
        getting.cancel()


def _collect(finished: Finished, open_items: dict[str, _OpenItem]) -> TextResult | None:
    """The result that a finished sequence completes, if it does."""
    if finished.index is not None:
        return TextResult(index=finished.index, error=finished.error)
    item = open_items.pop(finished.id, None)
    if item is None:
        return None  # aborted meanwhile, or a sibling failed
    request = item.request
    if finished.error is not None:
        for sibling in item.ids:
            open_items.pop(sibling, None)
        return TextResult(index=request.index, error=finished.error)
    item.outputs[finished.id] = finished
    if len(item.outputs) < request.n:
        return None
    ordered = [item.outputs[key] for key in item.ids]
    return TextResult(
        index=request.index,
        outputs=tuple(
            Output(output.text, output.finish_reason, output_seed(request.seed, k)) for k, output in enumerate(ordered)
        ),
        usage=Usage(item.prompt_tokens, sum(output.tokens for output in ordered)),
    )
