"""One row of the matrix: a fault, when it strikes, and what else than a whole job has to come of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.chaos.moments import Moment
from tests.chaos.run import Run
from tests.chaos.stand import Place
from tests.chaos.verdict import Strike
from tests.chaos.workload import Work, Workload

StrikeAt: TypeAlias = Callable[[Run, Moment, random.Random], Strike]
FEW_SEEDS = 5
MANY_SEEDS = 20


def usual_work(moment: Moment, chance: random.Random) -> Workload:
    """A few thousand items in shards of two seconds; where planning is to be hit, many that take long to plan."""
    del chance
    return Workload(shards=24, rows=5000, delay_ms=100.0, lines=True) if moment == "planning" else Workload()


def nothing_more(run: Run, strike: Strike) -> Iterable[str]:
    """No demand beyond those on every job."""
    del run, strike
    return ()


@dataclass(frozen=True)
class Fault:
    """A fault. With each seed come the next of its moments and the next of its places."""

    name: str
    strike: StrikeAt
    """Waits for the moment, does the harm, and where the harm is an outage ends it."""
    seeds: int = FEW_SEEDS
    """How many the matrix runs."""
    moments: tuple[Moment, ...] = ("running",)
    places: tuple[Place, ...] = ("embedded", "services")
    workload: Callable[[Moment, random.Random], Work] = usual_work
    demand: Callable[[Run, Strike], Iterable[str]] = nothing_more
    """What is wrong beside what `verdict.problems` finds."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """More settings of the stack."""
    scenarios: int = FEW_SEEDS
    """How many of its scenarios one stack may see."""
    own_ray: bool = False
    """Whether Ray runs beside the stack, and not in it, so that other nodes can join."""
    within: float = 120.0
    """Seconds in which the job has to end once the fault is over."""

    def moment(self, seed: int) -> Moment:
        """When it strikes with this seed."""
        return self.moments[seed % len(self.moments)]

    def place(self, seed: int) -> Place:
        """Where the stack keeps its state with this seed."""
        return self.places[seed % len(self.places)]
