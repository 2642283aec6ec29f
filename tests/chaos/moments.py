"""When a fault strikes: at a random time, or at a point that is made by holding up what comes after it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, get_args

from orchestrator.lifecycle import JobStatus, ShardStatus
from tests.chaos.run import Run

Moment: TypeAlias = Literal["running", "planning", "before the report", "before the commit", "finalising"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)


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
    run.await_running()
    if moment == "running":
        pause.wait(chance.uniform(0.0, 4.0))
        yield
    elif moment == "before the report":
        pause.wait(chance.uniform(0.0, 1.0))
        with run.stand.stopped("worker"):
            _await_unreported_part(run)
            yield
    else:
        pause.wait(chance.uniform(0.0, 1.0))
        with run.stand.writes_locked():
            _await_unreported_part(run)
            pause.wait(0.2)  # the report is on its way, and whoever takes it waits for the lock
            yield


def _await_unreported_part(run: Run) -> None:
    def look() -> bool:
        done = {shard.part_key for shard in run.shards() if shard.status == ShardStatus.DONE}
        return any(key not in done for key in run.parts.whole())

    run.follow(look, "no part appears")
