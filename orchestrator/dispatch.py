"""Offers shards to the workers: marks them dispatched, commits, and only then publishes.

What was committed and not published, or published and lost with Redis, is published again by the reaper. Only a window
of shards per model is outstanding at one time: what there is to offer stays SQL's to say, and whose is next is said by
`orchestrator.fairness`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, Row, Select, func, or_, select

from orchestrator import database, endings, guards
from orchestrator.fairness import FairQueue, Offer, standing
from orchestrator.lifecycle import LONGEST_BACKOFF, SHARD_OUTSTANDING, JobStatus, ShardStatus
from orchestrator.safety_policy import NO_POLICY, SafetyPolicy, restrict
from orchestrator.speeds import (
    COLUMNS,
    RECUT_FACTOR,
    TARGET_SECONDS,
    UNKNOWN_SECONDS,
    Measured,
    items_in,
    joined,
    measured,
    slowest_running,
)
from orchestrator.tables import Execution, Job, Shard
from workers.contracts import Redo, ShardTask, SourceRange, Work
from workers.keys import part_key

JOBS_AT_ONCE = 10_000
"""Jobs looked at in one round, the oldest; the others have their turn when some of these have nothing left to offer."""
SEEN_AT_ONCE = 8
"""Queued shards of a job that are counted for a round; one that has more is asked for more when these are taken."""

_works = msgspec.json.Decoder(Work)
_redos = msgspec.json.Decoder(Redo)
_sources: msgspec.json.Decoder[SourceRange] = msgspec.json.Decoder(SourceRange)


class Shards(Protocol):
    """Where shards are offered: `workers.broker.Publisher`."""

    def shard(self, task: ShardTask) -> None:
        """Offer one."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job in progress that has a shard to dispatch, as the dispatcher sees it."""

    offer: Offer
    queued: int
    """Shards that it has to dispatch, `SEEN_AT_ONCE` standing for so many or more."""
    retried: bool
    speed: Measured

    @property
    def job(self) -> str:
        """Its id."""
        return self.offer.job


@dataclass(frozen=True, slots=True)
class _Charge:
    """What a tenant was charged for a shard that is outstanding."""

    tenant: str
    model: str
    seconds: float
    overlap: float


class Dispatcher:
    """One scheduler's dispatcher.

    Who had how much is remembered here alone, and lost with the process: see `orchestrator.fairness`.

    Args:
        engine: The database.
        shards: Where they are offered.
        forget_stop: Called with a job that was ended and taken up again, before its shards are offered.
        window: Shards of one model that may be outstanding.
        clock: Seconds since the epoch.
        weights: Of tenants; 1 where none is given.
        policy: What no job may make.
    """

    def __init__(
        self,
        engine: Engine,
        shards: Shards,
        *,
        forget_stop: Callable[[str], None],
        window: int,
        clock: Callable[[], float],
        weights: Mapping[str, float] | None = None,
        policy: SafetyPolicy = NO_POLICY,
    ) -> None:
        self._engine = engine
        self._shards = shards
        self._forget_stop = forget_stop
        self._window = window
        self._clock = clock
        self._queue = FairQueue(weights)
        self._policy = policy
        self._charges: dict[tuple[str, int, int], _Charge] = {}

    def step(self) -> int:
        """Offer as many shards as the windows have room for; returns how many.

        Raises:
            BrokerError: Redis cannot be reached. The shards stay dispatched, and are published again later.
        """
        self._settle()
        candidates, shards = look(self._engine, self._clock(), self._window, self._typical())
        by_job = {candidate.job: candidate for candidate in candidates}
        offered = 0
        while turns := self._turns(by_job, shards):
            taken = {job: self._take(by_job[job], count) for job, count in Counter(turns).items()}
            for job, tasks in taken.items():
                model = by_job[job].offer.model
                shards[model] = shards.get(model, 0) + len(tasks)
                offered += len(tasks)
            retried = [job for job, tasks in taken.items() if tasks and by_job[job].retried]
            for job, count in Counter(turns).items():
                # Another dispatcher may have been first.
                if by_job[job].queued < SEEN_AT_ONCE or len(taken[job]) < count:
                    del by_job[job]
            for job in retried:
                self._forget_stop(job)
            waiting = {job: iter(tasks) for job, tasks in taken.items()}
            for job in turns:
                task = next(waiting[job], None)
                if task is not None:
                    self._shards.shard(task)
        return offered

    def _typical(self) -> dict[str, float]:
        """Engine-seconds of an outstanding shard of each model, on average."""
        charged: dict[str, list[float]] = {}
        for charge in self._charges.values():
            charged.setdefault(charge.model, []).append(charge.seconds)
        return {model: sum(seconds) / len(seconds) for model, seconds in charged.items()}

    def _turns(self, by_job: Mapping[str, Candidate], shards: Mapping[str, int]) -> list[str]:
        """Jobs in the order in which their shards are to be offered, until the windows are full."""
        room = {
            model: self._window - shards.get(model, 0)
            for model in {candidate.offer.model for candidate in by_job.values()}
        }
        in_use = {model for model, count in shards.items() if count > 0}
        offers: dict[str, list[Offer]] = {}
        for candidate in by_job.values():
            if room[candidate.offer.model] > 0:
                offers.setdefault(candidate.offer.tenant, []).append(candidate.offer)
        turns: list[str] = []
        had: Counter[str] = Counter()
        while offers:
            chosen = self._queue.choose(offers, in_use)
            turns.append(chosen.job)
            in_use.add(chosen.model)
            had[chosen.job] += 1
            room[chosen.model] -= 1
            if room[chosen.model] == 0:
                offers = {tenant: [offer for offer in of if room[offer.model] > 0] for tenant, of in offers.items()}
            elif had[chosen.job] == by_job[chosen.job].queued:
                offers[chosen.tenant] = [offer for offer in offers[chosen.tenant] if offer.job != chosen.job]
            else:
                continue
            offers = {tenant: of for tenant, of in offers.items() if of}
        return turns

    def _take(self, candidate: Candidate, count: int) -> Sequence[ShardTask]:
        """Take shards of a job, and correct what was charged for them by how large they are."""
        offer, speed = candidate.offer, candidate.speed
        tasks = take(self._engine, offer.job, count, now=self._clock(), per_item=speed.per_item, policy=self._policy)
        total = 0.0
        for task in tasks:
            seconds = speed.engine_seconds(task.count) or UNKNOWN_SECONDS
            total += seconds
            self._charges[task.job, task.shard, task.token] = _Charge(offer.tenant, offer.model, seconds, speed.overlap)
        self._queue.settle(offer.tenant, offer.job, total - count * offer.seconds)
        return tasks

    def _settle(self) -> None:
        """Charge what shards took that have ended since; one that never ran is not charged."""
        if not self._charges:
            return
        numbers: dict[str, list[int]] = {}
        for job, number, _ in self._charges:
            numbers.setdefault(job, []).append(number)
        with database.reading(self._engine) as connection:
            rows = {
                (job, row.number): row
                for job, of_job in numbers.items()
                for row in connection.execute(charged_shards(job, of_job))
            }
        for key, charge in list(self._charges.items()):
            job, number, token = key
            row = rows.get((job, number))
            if row is not None and row.token == token and ShardStatus(row.status) in SHARD_OUTSTANDING:
                continue
            del self._charges[key]
            if row is None or row.started_at is None:
                self._queue.settle(charge.tenant, job, -charge.seconds)
            elif row.token == token and row.status == ShardStatus.DONE and row.generate_seconds > 0:
                self._queue.settle(charge.tenant, job, row.generate_seconds * charge.overlap - charge.seconds)


def look(
    engine: Engine, now: float, window: int, typical: Mapping[str, float]
) -> tuple[Sequence[Candidate], dict[str, int]]:
    """Jobs that have a shard to dispatch and whose model has room, the oldest first; shards outstanding by model.

    `typical` has the engine-seconds of an outstanding shard of a model, where they are known.
    """
    with database.reading(engine) as connection:
        shards = {row.model: int(row.shards) for row in connection.execute(outstanding())}
        full = [model for model, count in shards.items() if count >= window]
        lags = {model: count * typical.get(model, UNKNOWN_SECONDS) for model, count in shards.items()}
        candidates = [
            _candidate(row, now, lags.get(row.model, 0.0)) for row in connection.execute(with_queued(now, full))
        ]
    return candidates, shards


def _candidate(row: Row[*tuple[Any, ...]], now: float, lag: float) -> Candidate:
    speed = measured(row)
    per_shard = min(row.items / max(1, row.shard_count), RECUT_FACTOR * (speed.shard_items() or row.items))
    offer = Offer(
        job=row.id,
        tenant=row.tenant,
        model=row.model,
        priority=row.priority,
        created_at=row.created_at,
        seconds=speed.engine_seconds(per_shard) or UNKNOWN_SECONDS,
        deadline_at=row.deadline_at,
        standing=standing(
            row.deadline_at,
            now,
            predicted_finish_at=row.predicted_finish_at,
            earliest_finish_at=row.earliest_finish_at,
            lag=lag,
        ),
    )
    return Candidate(offer, row.queued, row.manifest_version > 1, speed)


def with_queued(now: float, full: Sequence[str] = ()) -> Select[*tuple[Any, ...]]:
    """Jobs that have a shard to dispatch, the oldest first, but for those whose model is `full`."""
    waiting = (
        select(Shard.number)
        .where(Shard.job_id == Job.id, Shard.status == ShardStatus.QUEUED.value, _due(now))
        .correlate(Job)
    )
    some = waiting.limit(SEEN_AT_ONCE).subquery()
    return (
        joined(
            select(
                Job.id,
                select(func.count()).select_from(some).scalar_subquery().label("queued"),
                Job.tenant,
                Job.model,
                Job.priority,
                Job.items.label("items"),
                Job.shard_count,
                Job.created_at,
                Job.deadline_at,
                Job.predicted_finish_at,
                Job.earliest_finish_at,
                Job.manifest_version,
                *COLUMNS,
            )
        )
        .where(Job.status == JobStatus.IN_PROGRESS.value, Job.blocked.is_(False), Job.model.not_in(full))
        .where(waiting.exists())
        .order_by(Job.created_at, Job.id)
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


def charged_shards(job_id: str, numbers: Sequence[int]) -> Select[int, int, str, float | None, float]:
    """What became of shards of a job."""
    return select(Shard.number, Shard.token, Shard.status, Shard.started_at, Shard.generate_seconds).where(
        Shard.job_id == job_id, Shard.number.in_(numbers)
    )


def take(
    engine: Engine,
    job_id: str,
    limit: int,
    *,
    now: float,
    per_item: float | None = None,
    policy: SafetyPolicy = NO_POLICY,
) -> Sequence[ShardTask]:
    """Mark at most `limit` queued shards of a job dispatched, in order; the messages to publish once this returns.

    Args:
        engine: The database.
        job_id: The job.
        limit: Shards at most.
        now: Seconds since the epoch.
        per_item: Seconds of a shard, as shards run, for an item, where it is known. A shard that would take much too
            long is cut, and only its first piece is offered now.
        policy: What no job may make.
    """

    def work(connection: Connection) -> Sequence[ShardTask]:
        running = slowest_running(connection, job_id)
        known = [seconds for seconds in (per_item, running) if seconds is not None]
        size = items_in(TARGET_SECONDS, max(known)) if known else None
        # A job's own row is only written where a shard is cut.
        cuts = size is not None and connection.execute(oversize(job_id, now, limit, size)).first() is not None
        # Holds off a cancellation or pause until we have committed.
        job = connection.execute(
            select(Job.id)
            .where(Job.id == job_id, Job.status == JobStatus.IN_PROGRESS.value)
            .with_for_update(read=not cuts)
        ).first()
        if job is None:
            return []
        chosen = connection.execute(queued(job_id, now, limit)).all()
        if not chosen:
            return []
        for shard in chosen if cuts else ():
            if size is not None and shard.token == 0 and shard.items > RECUT_FACTOR * size:
                endings.split(connection, job_id, shard.number, keep=size)
        numbers = [shard.number for shard in chosen]
        guards.move_shards(
            connection,
            job_id,
            {ShardStatus.QUEUED},
            ShardStatus.DISPATCHED,
            Shard.number.in_(numbers),
            values={"token": Shard.token + 1, "sequence": 0},
        )
        return tasks(connection, job_id, numbers, policy)

    return database.write(engine, work)


def queued(job_id: str, now: float, limit: int) -> Select[int, int, int]:
    """The shards that are next. Two dispatchers on PostgreSQL pass over each other's."""
    return _next(job_id, now).limit(limit).with_for_update(skip_locked=True)


def oversize(job_id: str, now: float, limit: int, size: int) -> Select[int]:
    """Those of the next shards that are much too large. One that was tried keeps its size: a part may yet come."""
    following = _next(job_id, now).limit(limit).subquery()
    return select(following.c.number).where(following.c.token == 0, following.c["items"] > RECUT_FACTOR * size)


def _due(now: float) -> ColumnElement[bool]:
    """Whether a shard's pause is over. One that seems to be longer than any was written by a clock ahead of ours."""
    return or_(Shard.available_at <= now, Shard.available_at > now + LONGEST_BACKOFF)


def _next(job_id: str, now: float) -> Select[int, int, int]:
    return (
        select(Shard.number, Shard.token, Shard.count.label("items"))
        .where(Shard.job_id == job_id, Shard.status == ShardStatus.QUEUED.value, _due(now))
        .order_by(Shard.first)
    )


def tasks(connection: Connection, job_id: str, numbers: Sequence[int], policy: SafetyPolicy) -> Sequence[ShardTask]:
    """The messages of shards that are dispatched, by their present token, held to the policy as it is now."""
    job = connection.execute(select(Job.work, Job.tenant, Job.flow).where(Job.id == job_id)).one()
    # No shard is dispatched before its job is planned.
    work = restrict(_works.decode(job.work or ""), policy.rules(job.tenant))
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
            Shard.redo,
        )
        .where(Shard.job_id == job_id, Shard.status == ShardStatus.DISPATCHED.value, Shard.number.in_(numbers))
        .order_by(Shard.first)
    ).all()
    settled = {row.number: row.settled_token for row in rows if row.token > 1}
    earlier = _earlier(connection, job_id, settled)
    upstream = UpstreamParts(connection, job.flow, work.upstream)
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
            work=work,
            earlier=tuple(earlier.get(row.number, ())),
            carry_from=row.carry_from,
            upstream=upstream.of(row.first, row.items),
            redo=None if row.redo is None else _redos.decode(row.redo),
        )
        for row in rows
    ]


class UpstreamParts:
    """The parts that nodes of a flow have left, by the items that are in them."""

    def __init__(self, connection: Connection, flow_id: str | None, names: Sequence[str]) -> None:
        self._connection = connection
        self._jobs: dict[str, str] = {}
        if names:
            rows = connection.execute(select(Job.node, Job.id).where(Job.flow == flow_id, Job.node.in_(names)))
            self._jobs = {row.node: row.id for row in rows if row.node is not None}

    def of(self, first: int, count: int) -> dict[str, tuple[str, ...]]:
        """By node, the keys of its parts that hold records of items `first` to `first + count`, in order."""
        return {
            name: tuple(key for key in self._connection.scalars(parts_between(job, first, first + count)) if key)
            for name, job in self._jobs.items()
        }


def parts_between(job_id: str, first: int, end: int) -> Select[str | None]:
    """Keys of the winning parts of a job's shards that hold items `first` to `end`, in order."""
    holds_first = select(func.max(Shard.first)).where(Shard.job_id == job_id, Shard.first <= first).scalar_subquery()
    return (
        select(Shard.part_key)
        .where(Shard.job_id == job_id, Shard.first >= holds_first, Shard.first < end)
        .order_by(Shard.first)
    )


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
