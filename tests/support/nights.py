"""Nights in simulated time: jobs of tenants, engines that run their shards, and the scheduler's choices among them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.fairness import FairQueue, Offer, standing
from orchestrator.forecasts import Load, finish_times


@dataclass
class NightJob:
    """A job: `shards` of about `seconds` each, which are estimated to take `estimate` times as long."""

    name: str
    shards: int
    seconds: float = 10.0
    tenant: str = "a"
    model: str = "m"
    priority: int = 1
    arrives: float = 0.0
    deadline: float | None = None
    estimate: float = 1.0
    spread: float = 0.0
    """Shards take up to this part of `seconds` more or less."""
    taken: int = 0
    done: int = 0
    had: float = 0.0
    """Engine-seconds."""
    longest_wait: float = 0.0
    """Between two of its shards' choices, in seconds."""
    chosen_at: float | None = None
    finished_at: float | None = None

    @property
    def left(self) -> float:
        return (self.shards - self.done) * self.seconds


@dataclass
class _Running:
    job: NightJob
    charged: float
    seconds: float


class Night:
    """One engine that runs one shard after the other, behind a window of shards that are on their way."""

    def __init__(
        self,
        jobs: Sequence[NightJob],
        *,
        weights: Mapping[str, float] | None = None,
        window: int = 8,
        affinity: bool = True,
        forecast_seconds: float = 30.0,
        seed: int = 7,
    ) -> None:
        self.now = 0.0
        self.ran = 0
        self.switches = 0
        self._jobs = {job.name: job for job in jobs}
        self._coming = deque(sorted(jobs, key=lambda job: job.arrives))
        self._queue = FairQueue(weights)
        self._weights = weights
        self._window = window
        self._affinity = affinity
        self._forecast_seconds = forecast_seconds
        self._forecast_due = 0.0
        self._chance = random.Random(seed)
        self._running: deque[_Running] = deque()
        self._loaded: str | None = None
        self._offers: dict[str, list[Offer]] = {}
        self._stale = True

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Go on until all is done, or `until` holds."""
        while until is None or not until():
            self._arrive()
            self._choose()
            if self._running:
                self._end(self._running.popleft())
            elif self._coming:
                self.now = self._coming[0].arrives
            else:
                return

    def _arrive(self) -> None:
        while self._coming and self._coming[0].arrives <= self.now:
            job = self._coming.popleft()
            job.chosen_at = self.now
            self._stale = True
            self._forecast_due = self.now

    def _choose(self) -> None:
        while len(self._running) < self._window:
            offers = self._open()
            if not offers:
                return
            in_use = {running.job.model for running in self._running} if self._affinity else set()
            offer = self._queue.choose(offers, in_use)
            job = self._jobs[offer.job]
            assert job.chosen_at is not None
            job.longest_wait = max(job.longest_wait, self.now - job.chosen_at)
            job.chosen_at = self.now
            job.taken += 1
            self._stale = self._stale or job.taken == job.shards
            seconds = job.seconds * (1 + job.spread * self._chance.uniform(-1, 1))
            self._running.append(_Running(job, offer.seconds, seconds))

    def _end(self, running: _Running) -> None:
        job = running.job
        self.switches += job.model != self._loaded
        self._loaded = job.model
        self.now += running.seconds
        self.ran += 1
        job.done += 1
        job.had += running.seconds
        self._queue.settle(job.tenant, job.name, running.seconds - running.charged)
        if job.done == job.shards:
            job.finished_at = self.now

    def _open(self) -> dict[str, list[Offer]]:
        if not self._stale and self.now < self._forecast_due:
            return self._offers
        here = [job for job in self._jobs.values() if job.chosen_at is not None and job.done < job.shards]
        finishes: dict[str, float] = {}
        if any(job.deadline is not None for job in here):
            loads = [Load(job.name, job.tenant, job.priority, job.arrives, job.deadline, job.left) for job in here]
            finishes = finish_times(loads, now=self.now, weights=self._weights)
        self._forecast_due = self.now + self._forecast_seconds
        self._stale = False
        self._offers = {}
        for job in here:
            if job.taken == job.shards:
                continue
            offer = Offer(
                job=job.name,
                tenant=job.tenant,
                model=job.model,
                priority=job.priority,
                created_at=job.arrives,
                seconds=job.seconds * job.estimate,
                deadline_at=job.deadline,
                standing=standing(
                    job.deadline,
                    self.now,
                    predicted_finish_at=finishes.get(job.name),
                    earliest_finish_at=self.now + job.left,
                    lag=sum(running.charged for running in self._running),
                ),
            )
            self._offers.setdefault(job.tenant, []).append(offer)
        return self._offers
