"""An engine in a thread of this process.

The thread loads the model, takes and forgets sequences (or pictures: whatever has an id) as it is told, and steps while
there is work. It shares nothing with the event loop but a queue one way and scheduled calls the other.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

from models.errors import FailureKind, ModelError
from models.weights import first_line


class Identified(Protocol):
    """What goes into an engine and comes out of it, known by the same id."""

    @property
    def id(self) -> str:
        """Unique in its engine."""
        ...


TaskT = TypeVar("TaskT", bound=Identified)
DoneT = TypeVar("DoneT", bound=Identified)


class ThreadedEngine(ABC, Generic[TaskT, DoneT]):
    """The thread and its two ways of being talked to; what it does is a subclass's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Take these, forget those, or end.
        self._commands: queue.SimpleQueue[list[TaskT] | tuple[str, ...] | None] = queue.SimpleQueue()
        self._waiting: dict[str, asyncio.Queue[list[DoneT] | ModelError]] = {}
        self._death: ModelError | None = None
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._show_life()

    @classmethod
    async def start(cls, folder: Path) -> Self:
        """Start the thread and wait until the model is in memory.

        Raises:
            Exception: whatever the engine raises on a model that it cannot load.
        """
        engine = cls()
        await engine.open(folder)
        return engine

    async def open(self, folder: Path) -> None:
        """What `start` does to an engine that takes arguments of its own. Called once."""
        # A daemon: an engine that hangs must not keep the process from ending.
        threading.Thread(target=self._run, args=(folder,), name="engine", daemon=True).start()
        try:
            await self._loaded
        except asyncio.CancelledError:
            self._commands.put(None)
            raise

    async def submit(self, tasks: Sequence[TaskT], deliveries: asyncio.Queue[list[DoneT] | ModelError]) -> None:
        """Hand sequences to the thread."""
        if self._death is not None:
            deliveries.put_nowait(self._death)
            return
        if not self._waiting:
            self._show_life()
        for task in tasks:
            self._waiting[task.id] = deliveries
        self._commands.put(list(tasks))

    def abort(self, ids: Sequence[str]) -> None:
        """Tell the thread to forget sequences."""
        for sequence in ids:
            self._waiting.pop(sequence, None)
        if self._death is None:
            self._forget_soon(ids)
            self._commands.put(tuple(ids))

    def quiet_seconds(self) -> float:
        """For how long the thread has had sequences and not come back from a step with them.

        A step can take minutes: a long prompt read by a large model on a CPU. So time in which the process computes
        counts a tenth; a step that waits for something that never comes computes nothing.
        """
        if not self._waiting:
            return 0.0
        computed_at_sign, sign = self._sign
        silent = time.monotonic() - sign
        return max(silent - (time.process_time() - computed_at_sign), silent / 10)

    def children(self) -> tuple[tuple[int, float], ...]:
        """None: the engine is in this process and ends with it."""
        return ()

    async def close(self) -> None:
        """End the thread after its present step, which does not finish what it has begun."""
        if not self._ended.is_set():
            self._forget_soon(tuple(self._waiting))
            self._commands.put(None)
            await self._ended.wait()

    # What follows runs in the event loop's thread, called from the engine's.

    def _deliver(self, done: list[DoneT]) -> None:
        by_caller: dict[int, tuple[asyncio.Queue[list[DoneT] | ModelError], list[DoneT]]] = {}
        for task in done:
            deliveries = self._waiting.pop(task.id, None)
            if deliveries is not None:
                by_caller.setdefault(id(deliveries), (deliveries, []))[1].append(task)
        for deliveries, tasks in by_caller.values():
            deliveries.put_nowait(tasks)

    def _die(self, death: ModelError) -> None:
        self._death = death
        for deliveries in {id(waiting): waiting for waiting in self._waiting.values()}.values():
            deliveries.put_nowait(death)
        self._waiting.clear()
        self._ended.set()

    def _end_loading(self, error: Exception | None) -> None:
        if error is not None:
            self._die(ModelError(FailureKind.ENGINE, "engine_closed", "the engine was never loaded"))
        if not self._loaded.cancelled():
            if error is None:
                self._loaded.set_result(None)
            else:
                self._loaded.set_exception(error)

    # What follows runs in the engine's thread.

    def _run(self, folder: Path) -> None:
        try:
            self._load(folder)
        except Exception as error:  # noqa: BLE001  # handed to the caller of `start`, who knows the model's name
            self._loop.call_soon_threadsafe(self._end_loading, error)
            return
        self._loop.call_soon_threadsafe(self._end_loading, None)
        death = ModelError(FailureKind.ENGINE, "engine_closed", "the engine was closed")
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001  # an engine that broke in any way is dead, and its callers are told
            message = f"the engine died: {type(error).__name__}: {first_line(error)}"
            death = ModelError(FailureKind.ENGINE, "engine_died", message)
        finally:
            self._unload()
            self._loop.call_soon_threadsafe(self._die, death)

    def _serve(self) -> None:
        while True:
            while not self._commands.empty() or not self._busy():
                command = self._commands.get()
                if command is None:
                    return
                if isinstance(command, tuple):
                    self._forget(command)
                else:
                    self._done(self._take(command))
            self._done(self._step())
            self._show_life()

    def _show_life(self) -> None:
        """Note that the engine is at work: after every step, and within one that takes long."""
        self._sign = time.process_time(), time.monotonic()

    def _done(self, done: list[DoneT]) -> None:
        if done:
            self._loop.call_soon_threadsafe(self._deliver, done)

    # What a subclass does.

    @abstractmethod
    def _load(self, folder: Path) -> None:
        """Load the model, and set what it says of itself."""

    @abstractmethod
    def _take(self, tasks: list[TaskT]) -> list[DoneT]:
        """Take sequences; returns those that are refused."""

    @abstractmethod
    def _busy(self) -> bool:
        """Whether a step would do something."""

    @abstractmethod
    def _step(self) -> list[DoneT]:
        """Do some work; returns what is finished by it."""

    @abstractmethod
    def _forget(self, ids: tuple[str, ...]) -> None:
        """Drop sequences, between two steps."""

    def _forget_soon(self, ids: Sequence[str]) -> None:  # most engines' steps are short
        """Note, from the event loop's thread, that sequences will be dropped: for an engine whose steps are long."""

    @abstractmethod
    def _unload(self) -> None:
        """Free the model."""
