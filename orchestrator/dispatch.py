"""Offers shards to the workers: marks them dispatched, commits, and only then publishes.

What was committed and not published, or published and lost with Redis, is published again by the reaper. Only a window
of shards per model is outstanding at one time: which shard is next stays SQL's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
from sqlalchemy import Connection, Engine, Select, func, select

from orchestrator import database, guards
from orchestrator.lifecycle import SHARD_OUTSTANDING, JobStatus, ShardStatus
from orchestrator.tables import Execution, Job, Shard
from workers.contracts import ShardTask, SourceRange, TextWork, part_key

JOBS_AT_ONCE = 200
"""Jobs looked at in one round; the rest have their turn when these have nothing left to offer."""

_works = msgspec.json.Decoder(TextWork)
_sources: msgspec.json.Decoder[SourceRange] = msgspec.json.Decoder(SourceRange)


class Shards(Protocol):
    """Where shards are offered: `workers.broker.Publisher`."""

    def shard(self, task: ShardTask) -> None:
        """Offer one."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job in progress, as the dispatcher sees it."""

    job: str
    model: str
    retried: bool


class Dispatcher:
    """One scheduler's dispatcher.

    Args:
        engine: The database.
        shards: Where they are offered.
        forget_stop: Called with a job that was ended and taken up again, before its shards are offered.
        window: Shards of one model that may be outstanding.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        engine: Engine,
        shards: Shards,
        *,
        forget_stop: Callable[[str], None],
        window: int,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._shards = shards
        self._forget_stop = forget_stop
        self._window = window
        self._clock = clock

    def step(self) -> int:
        """Offer as many shards as the windows have room for; returns how many.

        Raises:
            BrokerError: Redis cannot be reached. The shards stay dispatched, and are published again later.
        """
        offered = 0
        candidates, shards = look(self._engine, self._clock())
        for candidate in candidates:
            room = self._window - shards.get(candidate.model, 0)
            if room <= 0:
                continue
            taken = take(self._engine, candidate.job, room, now=self._clock())
            if not taken:
                continue
            shards[candidate.model] = shards.get(candidate.model, 0) + len(taken)
            if candidate.retried:
                self._forget_stop(candidate.job)
            for task in taken:
                self._shards.shard(task)
            offered += len(taken)
        return offered


def look(engine: Engine, now: float) -> tuple[Sequence[Candidate], dict[str, int]]:
    """Jobs that have a shard to dispatch, in order; and the outstanding shards of each model."""
    with database.reading(engine) as connection:
        candidates = [
            Candidate(row.id, row.model, row.manifest_version > 1) for row in connection.execute(with_queued(now))
        ]
        shards = {row.model: int(row.shards) for row in connection.execute(outstanding())} if candidates else {}
    return candidates, shards


def with_queued(now: float) -> Select[str, str, int]:
    """Jobs that have a shard to dispatch: the most urgent first, then the nearest deadline, then the oldest."""
    return (
        select(Job.id, Job.model, Job.manifest_version)
        .where(Job.status == JobStatus.IN_PROGRESS.value)
        .where(
            select(Shard.number)
            .where(Shard.job_id == Job.id, Shard.status == ShardStatus.QUEUED.value, Shard.available_at <= now)
            .exists()
        )
        # A job without a deadline comes after those with one, on both databases.
        .order_by(Job.priority, Job.deadline_at.is_(None), Job.deadline_at, Job.created_at)
        .limit(JOBS_AT_ONCE)
    )


def outstanding() -> Select[str, int]:
    """Shards of each model that wait in Redis or run."""
    return (
        select(Job.model, func.count().label("shards"))
        .join(Shard, Shard.job_id == Job.id)
        .where(Shard.status.in_([status.value for status in sorted(SHARD_OUTSTANDING)]))
        .group_by(Job.model)
    )


def take(engine: Engine, job_id: str, limit: int, *, now: float) -> Sequence[ShardTask]:
    """Mark at most `limit` queued shards of a job dispatched, in order; the messages to publish once this returns."""

    def work(connection: Connection) -> Sequence[ShardTask]:
        # Holds off a cancellation or pause until we have committed.
        job = connection.execute(
            select(Job.work)
            .where(Job.id == job_id, Job.status == JobStatus.IN_PROGRESS.value)
            .with_for_update(read=True)
        ).first()
        if job is None:
            return []
        chosen = [row.number for row in connection.execute(queued(job_id, now, limit))]
        if not chosen:
            return []
        guards.move_shards(
            connection,
            job_id,
            {ShardStatus.QUEUED},
            ShardStatus.DISPATCHED,
            Shard.number.in_(chosen),
            values={"token": Shard.token + 1, "sequence": 0},
        )
        return tasks(connection, job_id, chosen)

    return database.write(engine, work)


def queued(job_id: str, now: float, limit: int) -> Select[int]:
    """Numbers of the shards that are next. Two dispatchers on PostgreSQL pass over each other's."""
    return (
        select(Shard.number)
        .where(Shard.job_id == job_id, Shard.status == ShardStatus.QUEUED.value, Shard.available_at <= now)
        .order_by(Shard.first)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


def tasks(connection: Connection, job_id: str, numbers: Sequence[int]) -> Sequence[ShardTask]:
    """The messages of shards that are dispatched, by their present token."""
    work = connection.execute(select(Job.work).where(Job.id == job_id)).scalar_one()
    decoded = _works.decode(work or "")  # no shard is dispatched before its job is planned
    rows = connection.execute(
        select(
            Shard.number,
            Shard.token,
            Shard.first,
            Shard.count.label("items"),  # a row has a method `count`
            Shard.source,
            Shard.skip,
            Shard.alone,
            Shard.settled_token,
            Shard.carry_from,
        )
        .where(Shard.job_id == job_id, Shard.status == ShardStatus.DISPATCHED.value, Shard.number.in_(numbers))
        .order_by(Shard.first)
    ).all()
    settled = {row.number: row.settled_token for row in rows if row.token > 1}
    earlier = _earlier(connection, job_id, settled)
    return [
        ShardTask(
            job=job_id,
            shard=row.number,
            token=row.token,
            first=row.first,
            count=row.items,
            source=_sources.decode(row.source),
            skip=row.skip,
            alone=row.alone,
            work=decoded,
            earlier=tuple(earlier.get(row.number, ())),
            carry_from=row.carry_from,
        )
        for row in rows
    ]


def _earlier(connection: Connection, job_id: str, settled: dict[int, int]) -> dict[int, list[str]]:
    """Keys at which earlier executions of shards may have left a part, newest first."""
    if not settled:
        return {}
    rows = connection.execute(executions_of(job_id, list(settled)))
    keys: dict[int, list[str]] = {}
    for row in rows:
        if row.token > settled[row.shard]:
            keys.setdefault(row.shard, []).append(part_key(job_id, row.shard, row.token, row.id))
    return keys


def executions_of(job_id: str, numbers: Sequence[int]) -> Select[str, int, int]:
    """Every execution that shards have had, the newest of each first."""
    return (
        select(Execution.id, Execution.shard, Execution.token)
        .where(Execution.job_id == job_id, Execution.shard.in_(numbers))
        .order_by(Execution.shard, Execution.token.desc())
    )
