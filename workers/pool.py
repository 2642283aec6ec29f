"""The models of one worker: which are loaded, who uses them, which must make room.

A host has a number of *places* for models: one per GPU, or a single one where there is none (an engine on a CPU takes
all its cores). A model that is asked for and not loaded takes a free place, else that of the idle model that was used
least recently. A model in steady use would never be idle: once somebody has waited `patience` seconds for its place it
takes no more shards, drains, and makes room. Models that need no place (`echo`) are loaded beside the others.

What an actor is and how it is started is the `Starter`'s (`workers.ray_actors`); the pool knows neither Ray nor
engines, so that its rules can be tested without them.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from models.errors import FailureKind, ModelError
from models.spec import ModelInfo
from workers.contracts import MODEL_NOT_LOADED, ShardTask
from workers.execute import Outcome, Progress

logger = logging.getLogger(__name__)


FIRST_PAUSE = 1.0
"""Seconds before a model that could not be loaded is tried again; they double with each time in a row."""
LOAD_TRIES = 5
"""A model that cannot be loaded so often in a row is given up, for those that wait for it."""


class ActorLostError(Exception):
    """The actor's process ended while it was asked something."""


class NoLongerWantedError(Exception):
    """Whoever waited for a model needs it no longer."""


class Actor(Protocol):
    """A process that holds a model, or is about to."""

    def load(self, model: str, engine: str) -> ModelInfo:
        """Load a model; raises ModelError or ActorLostError."""
        ...

    def run(self, task: ShardTask, execution: str) -> Outcome:
        """Run a shard to its end; raises ActorLostError."""
        ...

    def exchange(self, granted: Sequence[str], stops: Mapping[str, str]) -> Mapping[str, Progress]:
        """One beat; raises ActorLostError."""
        ...

    def end(self) -> None:
        """End the process and every child that its engine started."""
        ...


class Starter(Protocol):
    """Starts actors."""

    def start(self, *, needs_place: bool) -> Actor:
        """A fresh actor, on a GPU where `needs_place` and there are some."""
        ...


Model: TypeAlias = tuple[str, str]
"""Name and engine."""


@dataclass(eq=False)
class _Slot:
    model: Model
    needs_place: bool
    actor: Actor | None = None
    info: ModelInfo | None = None
    users: int = 0
    used_at: float = 0.0
    draining: bool = False
    evicted: bool = False
    alone: bool = False
    """Its one user must be the only one."""
    retired: bool = False
    """Its engine broke: it ends with its last user."""


@dataclass(frozen=True)
class _Trouble:
    """A model that could not be loaded: how often in a row, when it was last tried, and why."""

    tries: int
    failed_at: float
    error: ModelError


class ActorPool:
    """Lends loaded models to the threads that run shards.

    Args:
        starter: starts actors.
        places: how many models that need a place can be loaded at once.
        cores: how many actors of a model that needs no place are worth having.
        needs_place: says of a model's name and its engine whether they need one.
        clock: seconds that only grow.
        patience: seconds for which a model in steady use may keep another waiting.
        spare: an actor that was started beforehand, with its engine imported, for the first model that needs a place.
    """

    def __init__(
        self,
        starter: Starter,
        *,
        places: int,
        cores: int = 1,
        needs_place: Callable[[str, str], bool],
        clock: Callable[[], float],
        patience: float = 30.0,
        spare: Actor | None = None,
    ) -> None:
        self._starter = starter
        self._places = places
        self._cores = cores
        self._needs_place = needs_place
        self._clock = clock
        self._patience = patience
        self._spare = spare
        self._slots: list[_Slot] = []
        self._waiting: dict[Model, float] = {}
        """Models that wait for a place: since when."""
        self._alone: Counter[Model] = Counter()
        """How many wait to have a model for themselves; nobody else is let in before them."""
        self._troubles: dict[Model, _Trouble] = {}
        self._changed = threading.Condition()
        self._closed = False

    @contextmanager
    def lend(
        self, model: str, engine: str, *, alone: bool = False, wanted: Callable[[], bool] = lambda: True
    ) -> Iterator[Actor]:
        """A loaded actor for the time of a `with` block; waits for one, and loads the model where it must.

        Args:
            model: the model's name.
            engine: its engine.
            alone: whether nobody else may use the actor meanwhile.
            wanted: says whether the caller still wants it.

        Raises:
            ModelError: the model cannot be loaded.
            ActorLostError: the actor died inside the block, and is replaced at the next call; or the pool was closed.
            NoLongerWantedError: `wanted` became false while this waited.
        """
        slot = self._take((model, engine), wanted, alone=alone)
        try:
            if slot.actor is None:
                raise AssertionError("a slot is lent only after it was loaded")
            yield slot.actor
        except ActorLostError:
            self._discard(slot)
            raise
        finally:
            self._give_back(slot)

    def retire(self, actor: Actor) -> None:
        """Lend an actor to nobody any more: its engine is broken. It ends when its last user has given it back."""
        with self._changed:
            for slot in self._slots:
                if slot.actor is actor:
                    slot.retired = slot.draining = True

    def exchange(self, granted: Sequence[str], stops: Mapping[str, str]) -> dict[str, Progress]:
        """One beat with every loaded actor; one that has died answers nothing (its callers are told by themselves)."""
        with self._changed:
            actors = [slot.actor for slot in self._slots if slot.actor is not None and slot.info is not None]
        progress: dict[str, Progress] = {}
        for actor in actors:
            try:
                progress.update(actor.exchange(granted, stops))
            except ActorLostError:
                logger.warning("an actor did not answer; its shards will be tried again")
        return progress

    def loaded(self) -> list[ModelInfo]:
        """The models that are loaded now."""
        with self._changed:
            return [slot.info for slot in self._slots if slot.info is not None]

    def close(self) -> None:
        """End every actor. Those who wait for one are told that it is lost."""
        with self._changed:
            self._closed = True
            slots, self._slots = self._slots, []
            spare, self._spare = self._spare, None
            self._changed.notify_all()
        for actor in [slot.actor for slot in slots] + [spare]:
            if actor is not None:
                actor.end()

    def _take(self, model: Model, wanted: Callable[[], bool], *, alone: bool) -> _Slot:
        with self._changed:
            self._alone[model] += alone
        try:
            return self._wait_for(model, wanted, alone=alone)
        finally:
            with self._changed:
                self._alone[model] -= alone
                self._changed.notify_all()

    def _wait_for(self, model: Model, wanted: Callable[[], bool], *, alone: bool) -> _Slot:
        needs_place = self._needs_place(*model)
        since = self._clock()
        while True:
            with self._changed:
                self._check(model, since, wanted)
                ready = self._ready(model, alone=alone)
                if ready is not None:
                    self._waiting.pop(model, None)
                    ready.users += 1
                    ready.alone = alone
                    ready.used_at = self._clock()
                    return ready
                if any(slot.model == model and slot.info is None for slot in self._slots) or self._rests(model):
                    self._changed.wait(1.0)  # another thread is loading it, or it was tried a moment ago
                    continue
                if not self._make_room(model, needs_place=needs_place):
                    if not self._usable(model):
                        self._waiting.setdefault(model, since)
                    self._changed.wait(1.0)
                    continue
                self._waiting.pop(model, None)
                fresh = _Slot(model, needs_place)
                evicted = [slot for slot in self._slots if slot.evicted]
                self._slots = [slot for slot in self._slots if not slot.evicted]
                self._slots.append(fresh)
            for slot in evicted:
                logger.info("unloading %s to make room for %s", slot.model[0], model[0])
                if slot.actor is not None:
                    slot.actor.end()
            self._load(fresh)

    def _check(self, model: Model, since: float, wanted: Callable[[], bool]) -> None:
        """Raise where waiting any longer makes no sense."""
        if self._closed:
            raise ActorLostError("this worker is stopping")
        if not wanted():
            self._waiting.pop(model, None)
            raise NoLongerWantedError
        trouble = self._troubles.get(model)
        if trouble is None or trouble.failed_at < since:
            return  # whoever asks anew may find it mended
        if trouble.error.kind is not FailureKind.ENGINE:
            raise trouble.error  # somebody else tried while this waited; one try is enough for all of them
        if trouble.tries >= LOAD_TRIES:
            message = f"the model could not be loaded {trouble.tries} times in a row: {trouble.error.message}"
            raise ModelError(FailureKind.PLATFORM, MODEL_NOT_LOADED, message)

    def _rests(self, model: Model) -> bool:
        trouble = self._troubles.get(model)
        if trouble is None or trouble.tries >= LOAD_TRIES:
            return False
        return self._clock() - trouble.failed_at < FIRST_PAUSE * 2.0 ** (trouble.tries - 1)

    def _usable(self, model: Model) -> list[_Slot]:
        return [slot for slot in self._slots if slot.model == model and slot.info is not None and not slot.draining]

    def _ready(self, model: Model, *, alone: bool) -> _Slot | None:
        """The loaded slot of this model with the fewest users, unless it has to make room or another can be added."""
        others = [since for other, since in self._waiting.items() if other != model]
        if others and self._clock() - min(others) > self._patience:
            for slot in self._slots:
                slot.draining = slot.draining or (slot.needs_place and slot.model == model)
        mine = [slot for slot in self._usable(model) if not slot.alone]
        if alone:
            return next((slot for slot in mine if slot.users == 0), None)
        if not mine or self._alone[model]:
            return None
        slot = min(mine, key=lambda slot: slot.users)
        full = slot.info is not None and slot.users >= slot.info.shards_in_flight
        growing = any(other.model == model and other.info is None for other in self._slots)
        return None if full and not growing and self._has_room(model, needs_place=slot.needs_place) else slot

    def _has_room(self, model: Model, *, needs_place: bool) -> bool:
        if needs_place:
            return sum(slot.needs_place for slot in self._slots) < self._places
        return sum(slot.model == model for slot in self._slots) < self._cores

    def _make_room(self, model: Model, *, needs_place: bool) -> bool:
        """Whether there is a place, if need be that of an idle model, which is then marked as evicted."""
        if self._has_room(model, needs_place=needs_place):
            return True
        first = min(self._waiting, key=self._waiting.__getitem__, default=model)
        idle = [slot for slot in self._slots if slot.needs_place and slot.users == 0 and slot.info is not None]
        if not needs_place or first != model or not idle or self._usable(model):
            return False
        min(idle, key=lambda slot: slot.used_at).evicted = True
        return True

    def _load(self, slot: _Slot) -> None:
        try:
            with self._changed:
                spare = self._spare if slot.needs_place else None
                if spare is not None:
                    self._spare = None
            slot.actor = spare or self._starter.start(needs_place=slot.needs_place)
            info = slot.actor.load(*slot.model)
        except (ModelError, ActorLostError) as error:
            self._note_trouble(slot.model, error)
            self._discard(slot)
            return  # whoever waits looks again, and is told
        except BaseException:
            # Whatever went wrong, the place must not stay taken by a model that is not there.
            self._discard(slot)
            raise
        logger.info("loaded %s with %s in %.1f s", info.model, info.engine, info.load_seconds)
        with self._changed:
            slot.info, slot.used_at = info, self._clock()
            self._troubles.pop(slot.model, None)
            self._changed.notify_all()

    def _note_trouble(self, model: Model, error: ModelError | ActorLostError) -> None:
        if isinstance(error, ActorLostError):
            error = ModelError(FailureKind.ENGINE, "actor_lost", f"it died while it loaded the model: {error}")
        logger.warning("%s was not loaded: %s", model[0], error.message)
        now = self._clock()
        with self._changed:
            before = self._troubles.get(model)
            # Those that gave it up have gone; what comes now begins to count anew.
            tries = before.tries if before is not None and before.tries < LOAD_TRIES else 0
            self._troubles[model] = _Trouble(tries + 1, now, error)

    def _discard(self, slot: _Slot) -> None:
        with self._changed:
            if slot in self._slots:
                self._slots.remove(slot)
            actor, slot.actor = slot.actor, None
            self._changed.notify_all()
        if actor is not None:
            actor.end()

    def _give_back(self, slot: _Slot) -> None:
        with self._changed:
            slot.users -= 1
            slot.alone = False
            slot.used_at = self._clock()
            over = slot.retired and slot.users == 0
            self._changed.notify_all()
        if over:
            self._discard(slot)
