"""Items that break the engine which answers them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable
from typing import Literal

from tests.chaos.moments import Moment
from tests.chaos.run import Run
from tests.chaos.verdict import Strike
from tests.chaos.workload import Workload

LOADED = "loaded echo with echo"


def poisoned(fault: Literal["crash_on", "hang_on"], count: int) -> Callable[[Moment, random.Random], Workload]:
    """A job with some such items among its own."""

    def workload(moment: Moment, chance: random.Random) -> Workload:
        del moment
        clean = Workload(delay_ms=200.0)
        bad = frozenset(chance.sample(range(clean.items), count))
        return Workload(delay_ms=200.0, options={fault: sorted(bad)}, bad=bad)

    return workload


def wait(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """The fault lies in the job itself."""
    del run, moment, chance
    now = time.time()
    return Strike(now, now)


def few_restarts(run: Run, strike: Strike) -> Iterable[str]:
    """At most ceil(log2 n) + 2 restarts of an actor for each bad item among n."""
    broken = len({one.id for one in run.executions() if one.ending in {"actor_lost", "engine_hung"}})
    loads = run.stand.log("worker").count(LOADED)
    bound = (math.ceil(math.log2(run.workload.items)) + 2) * len(run.workload.bad)
    # The first load of each actor that works side by side is no restart.
    restarts = loads - len(run.stand.pids("ray:ModelActor"))
    if not broken:
        yield "no engine broke"
    if restarts > bound:
        yield f"actors were started again {restarts} times; {bound} would do"
