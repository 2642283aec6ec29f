"""A text back-end over any engine: requests become sequences, and sequences results."""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from models import adapters, weights
from models.backends.chat import ChatFormat, load_error
from models.backends.engine import Deliveries, Engine, Finished, Generation
from models.errors import FailureKind, ModelError
from models.spec import ModelInfo, Output, TextRequest, TextResult, Usage, output_seed

SHARDS_IN_FLIGHT = 4
ENCODE_GROUP = 64
"""Requests tokenised at once, in a thread: the first reach the engine while the next are still being read."""


_importing = threading.RLock()


def import_engine(module: str) -> ModuleType:
    """An engine's module, without the warnings of its imports, which neither we nor our caller could act on.

    One at a time: two threads that import packages which import each other find some of them half imported.
    """
    with _importing, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        imported = importlib.import_module(module)
    # Loading a model collects garbage several times: a quarter of a second each, unless what was imported is left out.
    gc.collect()
    gc.freeze()
    return imported


class SequenceBackend:
    """A model in an engine.

    A subclass names the engine and the module that starts it; that is imported by `load`, in a thread.
    """

    def __init__(self, name: str, *, cache_dir: Path, engine: str, module: str) -> None:
        """`module` has a coroutine `start(folder)` that returns an Engine."""
        self._name = name
        self._cache_dir = cache_dir
        self._kind = engine
        self._module = module
        self._engine: Engine | None = None
        self._chat: ChatFormat | None = None
        self._numbers = itertools.count()
        self._folder: Path | None = None
        self._fitting: set[str] = set()
        """Revisions of adapters that were seen to be of this model."""

    def _start(self, module: ModuleType, folder: Path) -> Awaitable[Engine]:
        started: Awaitable[Engine] = module.start(folder)
        return started

    async def load(self) -> ModelInfo:
        """Read the weights into a new engine.

        Raises:
            ModelError: kind MODEL where the model can never be loaded here, ENGINE where another try may help.
        """
        started = time.monotonic()
        try:
            folder, module = await asyncio.gather(
                asyncio.to_thread(weights.locate, self._name, self._cache_dir),
                asyncio.to_thread(import_engine, self._module),
            )
            await asyncio.to_thread(weights.check_whole, folder)
            starting = asyncio.ensure_future(self._start(module, folder))
            revision = await asyncio.to_thread(weights.revision, folder)
            self._engine = engine = await starting
            self._folder = folder
            self._chat = ChatFormat(engine.tokenizer, engine.context_length, self._name)
        except Exception as error:
            # Whatever an engine raises on a model that it cannot read: its own errors, torch's, pydantic's, the OS's.
            await self.close()
            raise load_error(self._name, error) from error
        return ModelInfo(
            model=self._name,
            revision=revision,
            engine=self._kind,
            context_length=engine.context_length,
            reproducible="seeded",
            shards_in_flight=SHARDS_IN_FLIGHT,
            load_seconds=time.monotonic() - started,
            child_pids=engine.children(),
        )

    async def generate(self, requests: Sequence[TextRequest]) -> AsyncIterator[Sequence[TextResult]]:
        """Answer requests in the order in which they finish; other calls share the engine's batches.

        Raises:
            ModelError: kind ENGINE, the engine broke or was closed; kind MODEL, an adapter is none of this model.
        """
        engine, chat = self._engine, self._chat
        if engine is None or chat is None:
            raise ModelError(FailureKind.ENGINE, "engine_closed", f"the engine of {self._name!r} is not loaded")
        await self._check_adapters(requests)
        call = _Call()
        feeding = asyncio.create_task(self._feed(engine, chat, requests, call))
        answered = 0
        try:
            while answered < len(requests):
                delivery = await _next(call.deliveries, feeding)
                if isinstance(delivery, ModelError):
                    raise delivery
                results = [result for finished in delivery if (result := call.collect(finished, engine)) is not None]
                if results:
                    answered += len(results)
                    yield results
        finally:
            feeding.cancel()
            if call.open:
                engine.abort(list(call.open))

    async def _check_adapters(self, requests: Sequence[TextRequest]) -> None:
        if self._folder is None:
            return
        for adapter in {request.adapter for request in requests if request.adapter is not None}:
            if adapter.revision not in self._fitting:
                await asyncio.to_thread(adapters.check_fit, adapter, self._folder)
                self._fitting.add(adapter.revision)

    async def _feed(self, engine: Engine, chat: ChatFormat, requests: Sequence[TextRequest], call: _Call) -> None:
        for start in range(0, len(requests), ENCODE_GROUP):
            prompts, refused = await asyncio.to_thread(chat.encode, requests[start : start + ENCODE_GROUP])
            generations: list[Generation] = []
            for prompt in prompts:
                item = _Item(prompt.request, len(prompt.token_ids))
                for k in range(prompt.request.n):
                    generation = Generation(f"{next(self._numbers)}", prompt.token_ids, prompt.request, k)
                    call.open[generation.id] = item
                    item.ids.append(generation.id)
                    generations.append(generation)
            if refused:
                failed = [Finished(id="", error=error, index=request.index) for request, error in refused]
                call.deliveries.put_nowait(failed)
            if generations:
                await engine.submit(generations, call.deliveries)

    def quiet_seconds(self) -> float:
        """For how long the engine has had sequences and made no step with them."""
        return 0.0 if self._engine is None else self._engine.quiet_seconds()

    async def close(self) -> None:
        """End the engine and its processes. What still generates raises `engine_closed`."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()


@dataclass(slots=True)
class _Item:
    """An item of which some outputs are still being generated."""

    request: TextRequest
    prompt_tokens: int
    ids: list[str] = field(default_factory=list)
    outputs: dict[str, Finished] = field(default_factory=dict)


class _Call:
    """One call of `generate`: what it waits for, and where that arrives."""

    def __init__(self) -> None:
        self.deliveries: Deliveries = asyncio.Queue()
        self.open: dict[str, _Item] = {}

    def collect(self, finished: Finished, engine: Engine) -> TextResult | None:
        """The result that a finished sequence completes, if it does."""
        if finished.index is not None:
            return TextResult(index=finished.index, error=finished.error)
        item = self.open.pop(finished.id, None)
        if item is None:
            return None  # another output of its item has failed
        if finished.error is not None:
            siblings = [key for key in item.ids if self.open.pop(key, None) is not None]
            if siblings:
                engine.abort(siblings)
            return TextResult(index=item.request.index, error=finished.error)
        item.outputs[finished.id] = finished
        return _result(item) if len(item.outputs) == item.request.n else None


def _result(item: _Item) -> TextResult:
    outputs = [item.outputs[key] for key in item.ids]
    return TextResult(
        index=item.request.index,
        outputs=tuple(
            Output(output.text, output.finish_reason, output_seed(item.request.seed, k))
            for k, output in enumerate(outputs)
        ),
        usage=Usage(item.prompt_tokens, sum(output.tokens for output in outputs)),
    )


async def _next(deliveries: Deliveries, feeding: asyncio.Task[None]) -> list[Finished] | ModelError:
    """The next delivery; raises what the feeding task raised, should it fail."""
    if feeding.done():
        feeding.result()
        return await deliveries.get()
    getting = asyncio.ensure_future(deliveries.get())
    try:
        await asyncio.wait({getting, feeding}, return_when=asyncio.FIRST_COMPLETED)
        if feeding.done():
            feeding.result()
        return await getting
    finally:
        getting.cancel()
