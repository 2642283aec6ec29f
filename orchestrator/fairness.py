"""Whose shard is next. Pure: no SQL, no clock of its own; all seconds are engine-seconds unless they say otherwise.

An engine-second is a second of all engines of a model together while they are busy. A shard is charged what it is
estimated to take when it is chosen, and settled to what it took once it is done.

1. Between tenants: deficit round robin (Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round Robin",
   1995), in its surplus form: a tenant is served while it has credit, and its last shard may put it into debt. So what
   a shard costs need not be known beforehand, and a correction is just more credit or more debt.
2. Inside a tenant: the classes urgent, normal and low. The first that waits is served, but each that waits below it is
   sure of a minimum share. While a job is projected to be late, the tenant's jobs with a deadline go before all
   classes, the earliest first; the classes then keep their minimum shares, the first one too. Strict priority, of a
   class or a deadline, would starve the rest.
3. Inside a class: jobs with a deadline that can still be met, the earliest first. The others are sure of a share.
4. Those others, of equal standing, share by turns rather than the oldest to its end: a job of ten million items must
   not hold back one of ten. A turn is short, and goes on with the same job, then to one whose model is in use, while
   that puts nobody behind by more than a turn: so models are seldom switched, and a job's shards, whose prompts begin
   alike, run near each other.

The memory of it dies with the process. A new one begins as if all tenants and jobs had had the same so far, which costs
at most what one of them was owed at that moment; nothing is ever dispatched by it that SQL does not allow.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

QUANTUM_SECONDS = 60.0
"""Credit of a tenant of weight 1 in a round: about a shard, so that rounds are short."""
TURN_SECONDS = 60.0
"""How far a job may get ahead of one of equal standing for the sake of its model and its prefix."""
CLASS_SHARES: Mapping[int, float] = {0: 0.1, 1: 0.2, 2: 0.05}
"""Minimum shares of the classes, of what their tenant gets, while a class above them waits, or late jobs jump."""
UNDATED_SHARES: Mapping[int, float] = {1: 0.1}
"""Minimum share of a class's jobs without a deadline (or with one that is out of reach), while it has others."""
_LATE, _HOPELESS = 0.9, 1.2
"""Predictions are that far from exact: parts of the time until the deadline."""
_DATED, _UNDATED = 0, 1


class Standing(Enum):
    """How a job stands to its deadline."""

    FREE = "free"
    """It has none."""
    DATED = "dated"
    """It will meet it as things go."""
    LATE = "late"
    """It is projected to miss it, unless it jumps ahead."""
    HOPELESS = "hopeless"
    """It would miss it even if it had the engines for itself: nobody is to miss his own for it."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A job that has a shard to dispatch."""

    job: str
    tenant: str
    model: str
    priority: int
    """0 urgent, 1 normal, 2 low."""
    created_at: float
    seconds: float
    """What its next shard is estimated to take: above 0."""
    deadline_at: float | None = None
    standing: Standing = Standing.FREE


def standing(
    deadline_at: float | None,
    now: float,
    *,
    predicted_finish_at: float | None,
    earliest_finish_at: float | None,
    lag: float,
) -> Standing:
    """How a job stands to its deadline; the predictions are those of `orchestrator.forecasts`, where it made some.

    `lag` is how long a shard that is chosen now waits for those that were chosen before it. A prediction knows nothing
    of it, and a small job would jump too late.
    """
    if deadline_at is None:
        return Standing.FREE
    left = deadline_at - now
    if left <= 0 or (earliest_finish_at is not None and earliest_finish_at - now > _HOPELESS * left):
        return Standing.HOPELESS
    if predicted_finish_at is not None and predicted_finish_at - now + lag > _LATE * left:
        return Standing.LATE
    return Standing.DATED


class FairQueue:
    """Chooses among offers, and remembers who had how much. `weights` of tenants are 1 where they are not given."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        if any(weight <= 0 for weight in self._weights.values()):
            raise ValueError("the weight of a tenant is above 0")
        self._ring: deque[str] = deque()
        self._credit: dict[str, float] = {}
        self._tenants: dict[str, _Tenant] = {}

    def choose(self, offers: Mapping[str, Sequence[Offer]], in_use: Collection[str]) -> Offer:
        """The offer that is next, already charged.

        Args:
            offers: By tenant; at least one tenant, and of each at least one.
            in_use: Models that have shards on their way or running.
        """
        tenant = self._next_tenant(offers)
        offer = self._tenants[tenant].choose(offers[tenant], in_use)
        self._credit[tenant] -= offer.seconds
        return offer

    def settle(self, tenant: str, job: str, seconds: float) -> None:
        """Charge a tenant what a shard of a job took beyond its estimate; give back where `seconds` is negative."""
        if tenant in self._credit:
            self._credit[tenant] -= seconds
            self._tenants[tenant].settle(job, seconds)

    def _next_tenant(self, offers: Mapping[str, Sequence[Offer]]) -> str:
        for tenant in offers:
            if tenant not in self._credit:
                self._credit[tenant] = 0.0
                self._tenants[tenant] = _Tenant()
                self._ring.append(tenant)
        while True:
            for _ in range(len(self._ring)):
                tenant = self._ring[0]
                if tenant in offers:
                    if self._credit[tenant] > 0:
                        return tenant
                    self._credit[tenant] += self._quantum(tenant)
                self._ring.rotate(-1)
            # Where all are deep in debt, whole rounds are given at once.
            rounds = min(math.floor(-self._credit[tenant] / self._quantum(tenant)) for tenant in offers)
            for tenant in offers if rounds > 0 else ():
                self._credit[tenant] += rounds * self._quantum(tenant)

    def _quantum(self, tenant: str) -> float:
        return QUANTUM_SECONDS * self._weights.get(tenant, 1.0)


class _Tenant:
    """What a tenant's classes and jobs had."""

    def __init__(self) -> None:
        self._classes = _Ladder(CLASS_SHARES)
        self._rows = {priority: _Ladder(UNDATED_SHARES) for priority in range(3)}
        self._turns = {priority: _Turns() for priority in range(3)}

    def choose(self, offers: Sequence[Offer], in_use: Collection[str]) -> Offer:
        """The tenant's next offer, charged to its class and job."""
        classes = {offer.priority for offer in offers}
        late = any(offer.standing is Standing.LATE for offer in offers)
        first = None if late else min(classes)
        owed = self._classes.owed(classes, first)
        priority = first if owed is None else owed
        if priority is None:
            chosen = min((offer for offer in offers if _row(offer) == _DATED), key=_earliest)
        else:
            chosen = self._of_class(priority, [offer for offer in offers if offer.priority == priority], in_use)
        # What jumps is not its class's turn, or the others of the class would pay for it.
        self._classes.charge(classes, first, priority, chosen.seconds)
        rows = {_row(offer) for offer in offers if offer.priority == chosen.priority}
        self._rows[chosen.priority].charge(rows, min(rows), _row(chosen), chosen.seconds)
        self._turns[chosen.priority].charge(chosen.job, chosen.seconds)
        return chosen

    def settle(self, job: str, seconds: float) -> None:
        """Charge a job what it took beyond the estimate."""
        for turns in self._turns.values():
            turns.settle(job, seconds)

    def _of_class(self, priority: int, offers: Sequence[Offer], in_use: Collection[str]) -> Offer:
        rows = {_row(offer) for offer in offers}
        owed = self._rows[priority].owed(rows, min(rows))
        row = min(rows) if owed is None else owed
        of_row = [offer for offer in offers if _row(offer) == row]
        return min(of_row, key=_earliest) if row == _DATED else self._turns[priority].choose(of_row, in_use)


class _Ladder:
    """Rungs, of which one goes first; each other that waits is sure of a share of what is served meanwhile."""

    def __init__(self, shares: Mapping[int, float]) -> None:
        self._shares = shares
        self._owed: dict[int, float] = {}

    def owed(self, waiting: Collection[int], first: int | None) -> int | None:
        """The rung that is furthest behind its share, by a quantum at least; None where none is."""
        behind = [rung for rung in waiting if rung != first and self._owed.get(rung, 0.0) >= QUANTUM_SECONDS]
        return max(behind, key=lambda rung: (self._owed[rung], rung), default=None)

    def charge(self, waiting: Collection[int], first: int | None, served: int | None, seconds: float) -> None:
        """Note that while these waited, and `first` of them went first, one was served; None stands for none."""
        for rung in waiting:
            if rung == first:
                continue
            share = self._shares[rung] * seconds
            self._owed[rung] = self._owed.get(rung, 0.0) + share - (seconds if rung == served else 0.0)


class _Turns:
    """Jobs of equal standing, and how much each has had since it joined the others."""

    def __init__(self) -> None:
        self._had: dict[str, float] = {}
        self._last: str | None = None

    def choose(self, offers: Sequence[Offer], in_use: Collection[str]) -> Offer:
        """The job whose turn it is."""
        # A job that is new begins where the one that had least stands: it neither waits for the others nor catches up.
        least = min((self._had[offer.job] for offer in offers if offer.job in self._had), default=0.0)
        self._had = {offer.job: self._had.get(offer.job, least) - least for offer in offers}
        near = [offer for offer in offers if self._had[offer.job] < TURN_SECONDS]

        def order(offer: Offer) -> tuple[bool, bool, float, float, str]:
            another, switch = offer.job != self._last, offer.model not in in_use
            return another, switch, self._had[offer.job], offer.created_at, offer.job

        return min(near, key=order)

    def charge(self, job: str, seconds: float) -> None:
        self._last = job
        self.settle(job, seconds)

    def settle(self, job: str, seconds: float) -> None:
        """Note what a job had; one that is not among them is of no account."""
        if job in self._had:
            self._had[job] += seconds


def _row(offer: Offer) -> int:
    return _DATED if offer.standing in {Standing.DATED, Standing.LATE} else _UNDATED


def _earliest(offer: Offer) -> tuple[float, float, str]:
    return offer.deadline_at or 0.0, offer.created_at, offer.job
