"""An engine in a thread: what shows that it works, and what shows that it hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.backends import threaded
from models.backends.engine import Deliveries, Finished, Generation
from models.backends.threaded import ThreadedEngine
from models.spec import Message, Sampling, TextRequest


class Stuck(ThreadedEngine):
    """Finishes a sequence with each step, but does not come back from one before it may."""

    may_go_on = threading.Event()
    in_a_step = threading.Event()

    def _load(self, folder: Path) -> None:
        self._sequences: list[Generation] = []

    def _take(self, generations: list[Generation]) -> list[Finished]:
        self._sequences += generations
        return []

    def _busy(self) -> bool:
        return bool(self._sequences)

    def _step(self) -> list[Finished]:
        self.in_a_step.set()
        self.may_go_on.wait(30)
        return [Finished(self._sequences.pop(0).id)]

    def _forget(self, ids: tuple[str, ...]) -> None:
        self._sequences = [sequence for sequence in self._sequences if sequence.id not in ids]

    def _unload(self) -> None:
        self._sequences = []


class Clocks:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.computed = time.monotonic(), time.process_time()
        monkeypatch.setattr(threaded, "time", self)

    def monotonic(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.computed


@pytest.fixture
def stuck() -> Iterator[type[Stuck]]:
    Stuck.may_go_on.clear()
    Stuck.in_a_step.clear()
    yield Stuck
    Stuck.may_go_on.set()


def sequence() -> Generation:
    request = TextRequest(index=0, messages=(Message("user", "x"),), sampling=Sampling(), seed=1)
    return Generation("1", [1], request, 0)


async def test_only_time_in_which_nothing_is_computed_is_held_against_it(
    stuck: type[Stuck], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await stuck.start(tmp_path)
    clocks = Clocks(monkeypatch)
    clocks.now += 500.0
    assert engine.quiet_seconds() == 0  # it has nothing to do
    deliveries: Deliveries = asyncio.Queue()
    await engine.submit([sequence()], deliveries)
    await asyncio.to_thread(stuck.in_a_step.wait, 30)
    assert engine.quiet_seconds() == 0
    clocks.now, clocks.computed = clocks.now + 100, clocks.computed + 190  # on two cores
    assert engine.quiet_seconds() == pytest.approx(10)
    clocks.now += 400
    assert engine.quiet_seconds() == pytest.approx(310)
    stuck.may_go_on.set()
    assert [finished.id for finished in await deliveries.get()] == ["1"]  # type: ignore[union-attr]
    assert engine.quiet_seconds() == 0
    await engine.close()
