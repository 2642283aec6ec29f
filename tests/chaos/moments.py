"""When a fault strikes: at a random time, or at a point that is made by holding up what comes after it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, TypeAlias

from orchestrator import passes
from orchestrator.lifecycle import JobStatus, ShardStatus
from tests.chaos.run import FOLLOW_SECONDS, STEP_SECONDS, Run
from tests.chaos.stand import ACTOR, LEASE_SECONDS

Moment: TypeAlias = Literal[
    "running",
    "planning",
    "before the report",
    "before the commit",
    "finalising",
    "drawing",
    "in a pass",
    "drawing again",
]
MOMENTS: tuple[Moment, ...] = ("running", "planning", "before the report", "before the commit", "finalising")
PASS_MOMENTS: tuple[Moment, ...] = ("drawing", "in a pass", "drawing again")
"""Of a job over whose rows passes go."""
HOLD_SECONDS = 0.8 * LEASE_SECONDS
"""How long reports are held up for a part at the most: no lease runs out for it."""


@contextmanager
def reached(moment: Moment, run: Run, chance: random.Random) -> Iterator[None]:
    """Wait until a job is at a moment; what was held up for it goes on when the context ends.

    Raises:
        AssertionError: the moment did not come.
    """
    pause = threading.Event()
    if moment == "planning":
        run.follow(lambda: run.row().planner is not None, "nobody plans the job")
        pause.wait(chance.uniform(0.0, 0.2))
        yield
        return
    if moment == "finalising":
        done = {JobStatus.FINALIZING.value, JobStatus.COMPLETED.value}
        run.await_running()
        run.follow(lambda: run.row().status in done, "the job does not end")
        yield
        return
    if moment in {"in a pass", "drawing again"}:
        with _with_a_pass_held_up(moment, run):
            pause.wait(chance.uniform(0.0, 0.5))
            yield
        return
    run.await_running()
    if moment == "drawing":
        pause.wait(chance.uniform(0.0, 2.0))
        yield
    elif moment == "running":
        pause.wait(chance.uniform(0.0, 4.0))
        yield
    elif moment == "before the report":
        with _with_a_part_held_up(lambda: run.stand.stopped("worker"), run, chance):
            yield
    else:
        with _with_a_part_held_up(run.stand.writes_locked, run, chance):
            pause.wait(0.2)  # the report is on its way, and whoever takes it waits for the lock
            yield


@contextmanager
def _with_a_pass_held_up(moment: Moment, run: Run) -> Iterator[None]:
    """Hold up the actors once a pass, or what one has rejected, is due, until a worker has begun with it.

    Either is over in less time than it takes to see it run.
    """
    at, what = (passes.PASS, "no pass runs") if moment == "in a pass" else (passes.REDO, "nothing is drawn again")
    run.follow(lambda: run.passing()[0] == at, what)
    with run.stand.stopped(ACTOR):
        if moment == "in a pass":
            run.follow(lambda: run.passing() == (at, True), what)
        else:
            run.await_running()
        yield


@contextmanager
def _with_a_part_held_up(
    hold: Callable[[], AbstractContextManager[None]], run: Run, chance: random.Random
) -> Iterator[None]:
    """Hold up what reports, until a part appears that nobody has reported; let go and try again where none does."""
    pause = threading.Event()
    deadline = time.monotonic() + FOLLOW_SECONDS
    while time.monotonic() < deadline:
        pause.wait(chance.uniform(0.0, 1.0))
        with hold():
            if _unreported_part_appears(run):
                yield
                return
    raise AssertionError(f"not within {FOLLOW_SECONDS:g} s: no part appears while its report is held up")


def _unreported_part_appears(run: Run) -> bool:
    until = time.monotonic() + HOLD_SECONDS
    pause = threading.Event()
    while time.monotonic() < until:
        done = {shard.part_key for shard in run.shards() if shard.status == ShardStatus.DONE}
        if any(key not in done for key in run.parts.whole()):
            return True
        pause.wait(STEP_SECONDS)
    return False
