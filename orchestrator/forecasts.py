"""When jobs will be done. `finish_times` is pure; the forecaster writes what it says into SQL, for all to read.

A prediction takes what is left of each job of a model, in engine-seconds by measured speeds, and lets it flow through
the shares that `orchestrator.fairness` gives, without the jumps of late jobs: these depend on it. So a job is late, and
jumps, for as long as the ordinary way of things would make it late, and no longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, Update, bindparam, case, func, select, update

from orchestrator import database, speeds
from orchestrator.fairness import CLASS_SHARES, UNDATED_SHARES
from orchestrator.lifecycle import SHARD_OPEN, JobStatus
from orchestrator.speeds import ENOUGH_SHARDS, Measured
from orchestrator.tables import Job, Shard

EVERY_SECONDS = 5.0
FIRST_AFTER_SECONDS = 30.0
"""So long after it was planned, or when enough of its own shards were measured, a job's prediction is worth keeping."""
_ROWS_A_SECOND = 20_000
"""Shards are counted again at this pace, those of small jobs more often: five million about every four minutes."""
_BATCH = 500
_COARSE = 0.02
"""Finishes that lie closer together than this, as a part of the time until them, are taken as one step."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is left of a job."""

    job: str
    tenant: str
    priority: int
    created_at: float
    deadline_at: float | None
    seconds: float
    """Engine-seconds."""


def finish_times(loads: Iterable[Load], *, now: float, weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """When each job of one model will be done, if nothing else comes; seconds since the epoch."""
    left = {load.job: load.seconds for load in loads if load.seconds > 0}
    rows: dict[tuple[str, int, bool], list[Load]] = {}
    for load in loads:
        dated = load.deadline_at is not None and now + load.seconds <= load.deadline_at
        rows.setdefault((load.tenant, load.priority, not dated), []).append(load)
    for (_, _, undated), row in rows.items():
        if not undated:
            row.sort(key=lambda load: (load.deadline_at or 0.0, load.created_at, load.job))
    done = {load.job: now for load in loads if load.job not in left}
    passed = 0.0
    while left:
        rows = {key: waiting for key, row in rows.items() if (waiting := [load for load in row if load.job in left])}
        rates = _rates(rows, weights or {})
        soonest = min(_first_end(key, row, left, rates[key]) for key, row in rows.items())
        step = max(soonest, _COARSE * passed)
        for key, row in rows.items():
            for job, after in _flow(key, row, left, rates[key], step):
                done[job] = now + passed + after
        passed += step
    return done


def _rates(rows: Iterable[tuple[str, int, bool]], weights: Mapping[str, float]) -> dict[tuple[str, int, bool], float]:
    """The part of the engines that each row of jobs gets: tenants by weight, then classes, then those with a date."""
    classes: dict[str, dict[int, set[bool]]] = {}
    for tenant, priority, undated in rows:
        classes.setdefault(tenant, {}).setdefault(priority, set()).add(undated)
    total = sum(weights.get(tenant, 1.0) for tenant in classes)
    rates = {}
    for tenant, of_tenant in classes.items():
        for priority, of_class in _parts(of_tenant, CLASS_SHARES).items():
            for rung, part in _parts(of_tenant[priority], UNDATED_SHARES).items():
                rates[tenant, priority, bool(rung)] = weights.get(tenant, 1.0) / total * of_class * part
    return rates


def _parts(waiting: Iterable[int], shares: Mapping[int, float]) -> dict[int, float]:
    first, *below = sorted(waiting)
    parts = {rung: shares[rung] for rung in below}
    return {first: 1.0 - sum(parts.values()), **parts}


def _first_end(key: tuple[str, int, bool], row: Sequence[Load], left: Mapping[str, float], rate: float) -> float:
    """When the first job of a row ends."""
    if key[2]:
        return min(left[load.job] for load in row) * len(row) / rate
    return left[row[0].job] / rate


def _flow(
    key: tuple[str, int, bool], row: Sequence[Load], left: dict[str, float], rate: float, step: float
) -> list[tuple[str, float]]:
    """Let a row run for a step; the jobs that end in it, and how far into it."""
    ended = []
    if key[2]:
        each = rate / len(row)
        for load in row:
            after = left[load.job] / each
            if after <= step * (1 + 1e-9):
                ended.append((load.job, after))
                del left[load.job]
            else:
                left[load.job] -= each * step
        return ended
    passed = 0.0
    for load in row:
        after = passed + left[load.job] / rate
        if after > step * (1 + 1e-9):
            left[load.job] -= max(0.0, step - passed) * rate
            break
        ended.append((load.job, after))
        del left[load.job]
        passed = after
    return ended


@dataclass(frozen=True, slots=True)
class _Open:
    """Items of a job that were not done when they were counted, and when that was."""

    items: float
    counted_at: float


class Forecaster:
    """Predicts for all jobs in progress, every few seconds. `clock` gives seconds since the epoch."""

    def __init__(
        self, engine: Engine, *, clock: Callable[[], float], weights: Mapping[str, float] | None = None
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._weights = weights or {}
        self._open: dict[str, _Open] = {}
        self._not_before = 0.0

    def step(self) -> int:
        """Predict once, where it is time; it never has more to do at once, and says 0."""
        now = self._clock()
        if now < self._not_before:
            return 0
        self._not_before = now + EVERY_SECONDS
        with database.reading(self._engine) as connection:
            jobs = connection.execute(in_progress()).all()
            self._count(connection, jobs, now)
        changes = self._changes(jobs, now)
        if changes:
            database.write(self._engine, lambda connection: connection.execute(_prediction(), changes))
        return 0

    def _count(self, connection: Connection, jobs: Sequence[Row[*tuple[Any, ...]]], now: float) -> None:
        """Count again what is open of each job; of one as often as it and all that are smaller can be counted."""
        before = self._open
        self._open = {}
        due = []
        shards = 0
        for job in sorted(jobs, key=lambda job: int(job.shard_count)):
            known = before.get(job.id)
            shards += job.shard_count
            pause = max(EVERY_SECONDS, shards / _ROWS_A_SECOND)
            if known is not None and now < known.counted_at + pause:
                self._open[job.id] = known
            else:
                due.append(job.id)
        for start in range(0, len(due), _BATCH):
            batch = due[start : start + _BATCH]
            self._open.update(dict.fromkeys(batch, _Open(0.0, now)))
            for row in connection.execute(open_items(batch)):
                self._open[row.job_id] = _Open(float(row.items), now)

    def _changes(self, jobs: Sequence[Row[*tuple[Any, ...]]], now: float) -> list[dict[str, Any]]:  # column values
        """What is to be written, in the order of the jobs' locks."""
        models: dict[str, list[Load]] = {}
        known: dict[str, Measured] = {}
        for job in jobs:
            speed = known[job.id] = speeds.measured(job)
            seconds = speed.engine_seconds(self._open[job.id].items)
            if seconds is not None:
                load = Load(job.id, job.tenant, job.priority, job.created_at, job.deadline_at, seconds)
                models.setdefault(job.model, []).append(load)
        earliest = {load.job: now + load.seconds for loads in models.values() for load in loads}
        finishes: dict[str, float] = {}
        for loads in models.values():
            finishes.update(finish_times(loads, now=now, weights=self._weights))
        changes = []
        for job in sorted(jobs, key=lambda job: str(job.id)):
            finish = finishes.get(job.id)
            if finish is None:
                continue
            first = (
                job.first_prediction is None
                and job.manifest_version == 1
                and (known[job.id].own_shards >= ENOUGH_SHARDS or now >= job.planned_at + FIRST_AFTER_SECONDS)
            )
            if first or _differs(job, finish, earliest[job.id], now):
                changes.append(
                    {
                        "job": job.id,
                        "finish": finish,
                        "earliest": earliest[job.id],
                        "first": finish if first else job.first_prediction,
                        "first_at": now if first else job.first_predicted_at,
                    }
                )
        return changes


def _differs(job: Row[*tuple[Any, ...]], finish: float, earliest: float, now: float) -> bool:
    """Whether a prediction is worth a write."""
    if job.predicted_finish_at is None or job.earliest_finish_at is None:
        return True
    off = max(abs(job.predicted_finish_at - finish), abs(job.earliest_finish_at - earliest))
    return bool(off > max(1.0, 0.01 * (finish - now)))


def in_progress() -> Select[*tuple[Any, ...]]:
    """Jobs in progress, and how fast they are."""
    return speeds.joined(
        select(
            Job.id,
            Job.tenant,
            Job.model,
            Job.priority,
            Job.created_at,
            Job.planned_at,
            Job.deadline_at,
            Job.shard_count,
            Job.manifest_version,
            Job.predicted_finish_at,
            Job.earliest_finish_at,
            Job.first_prediction,
            Job.first_predicted_at,
            *speeds.COLUMNS,
        )
    ).where(Job.status == JobStatus.IN_PROGRESS.value)


def open_items(job_ids: Sequence[str]) -> Select[*tuple[Any, ...]]:
    """Items of jobs that are yet to be done, those of running shards that have ended left out."""
    live = Shard.ok + Shard.failed
    carried = func.coalesce(Shard.part_ok, 0)
    return (
        select(Shard.job_id, func.sum(Shard.count - case((live > carried, live), else_=carried)).label("items"))
        .where(Shard.status.in_([status.value for status in sorted(SHARD_OPEN)]), Shard.job_id.in_(job_ids))
        .group_by(Shard.job_id)
    )


def _prediction() -> Update:
    return (
        update(Job)
        .where(Job.id == bindparam("job"), Job.status == JobStatus.IN_PROGRESS.value)
        .values(
            predicted_finish_at=bindparam("finish"),
            earliest_finish_at=bindparam("earliest"),
            first_prediction=bindparam("first"),
            first_predicted_at=bindparam("first_at"),
        )
    )
