"""Ends jobs: those whose shards have all ended, those whose deadline passed, those that were cancelled or failed.

A job on its way to an end is `finalizing` or `cancelling`, with its `outcome` written down; once none of its shards is
open its manifest is written, and then one guarded write, on the generation that was read before, freezes its totals.
Two finalisers may write the same manifest; only one of them ends the job. One that dies is followed by the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Engine, Select, delete, select
from sqlalchemy.orm import aliased

from orchestrator import database, flows, guards, passes
from orchestrator.endings import NO_FIGURES, lock_jobs
from orchestrator.lifecycle import JOB_LIVE, JOB_TERMINAL, SHARD_OPEN, SHARD_WAITING, JobStatus, ShardStatus
from orchestrator.manifest import write_manifest
from orchestrator.model_catalog import publish_model
from orchestrator.tables import Job, Shard
from orchestrator.totals import Totals
from workers.store import ObjectStore, delete_prefix

logger = logging.getLogger(__name__)
_OPEN = [status.value for status in sorted(SHARD_OPEN)]


class Stops(Protocol):
    """Where workers are told that a job is not wanted any more: `workers.broker.Hints`."""

    def stop_job(self, job: str, reason: str) -> None:
        """Tell them."""
        ...


@dataclass(frozen=True, slots=True)
class Ending:
    """A job on its way to an end."""

    job: str
    status: JobStatus
    outcome: JobStatus
    generation: int
    planned: bool
    open: bool
    """Whether one of its shards still is, or of a flow one of its nodes, or one of its passes."""
    kind: str = "text"


def staged_prefix(job_id: str) -> str:
    """Where copies of a job's input lie, those that planning made."""
    return f"jobs/{job_id}/input/"


class Finaliser:
    """One scheduler's finaliser. `clock` gives seconds since the epoch."""

    def __init__(self, engine: Engine, store: ObjectStore, stops: Stops, *, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._store = store
        self._stops = stops
        self._clock = clock
        self._stopped: set[tuple[str, int]] = set()

    def step(self) -> int:
        """Take every job one step nearer to the end that it has reached; returns how many ended.

        Raises:
            BrokerError: Redis cannot be reached.
            StoreError: the store cannot be reached.
        """
        expire(self._engine, now=self._clock())
        flows.step(self._engine, now=self._clock())
        for job in followed_jobs(self._engine):
            passes.advance(self._engine, self._store, job, now=self._clock())
        for job_id in finished_jobs(self._engine):
            close(self._engine, job_id)
        endings = jobs_ending(self._engine)
        self._tell(endings)
        return sum(self._end(ending) for ending in endings if not ending.open)

    def _tell(self, endings: Sequence[Ending]) -> None:
        """Say once of each job, and again after a restart, that its shards are not wanted any more."""
        current = {(ending.job, ending.generation) for ending in endings}
        self._stopped &= current
        for ending in endings:
            key = (ending.job, ending.generation)
            if ending.outcome is not JobStatus.COMPLETED and key not in self._stopped:
                self._stops.stop_job(ending.job, f"the job is {ending.outcome.value}")
                self._stopped.add(key)

    def _end(self, ending: Ending) -> bool:
        if not ending.planned:
            # Its planner deletes them as well once it notices; this is for one that died.
            delete_prefix(self._store, staged_prefix(ending.job))
        if ending.kind == "train" and ending.outcome is JobStatus.COMPLETED:
            publish_model(self._engine, self._store, ending.job)
        totals = write_manifest(self._engine, self._store, ending.job)
        ended = freeze(self._engine, ending, totals, now=self._clock())
        if ended:
            logger.info("job %s is %s", ending.job, ending.outcome.value)
        return ended


def expire(engine: Engine, *, now: float) -> int:
    """End every job whose deadline has passed: what is not finished expires. Returns how many.

    A job that has nothing open was in time, and is left to `close`.
    """
    with database.reading(engine) as connection:
        overdue = [row.id for row in connection.execute(overdue_jobs(now))]

    def work(connection: Connection, job_id: str) -> bool:
        values = {"outcome": JobStatus.EXPIRED.value, "planner": None}
        late = Job.deadline_at <= now
        # A report of the last open shard may be at work: what is seen of the shards is what holds after it.
        lock_jobs(connection, [job_id], to_write=True)
        if guards.move_job(connection, job_id, {JobStatus.VALIDATING}, JobStatus.FINALIZING, late, values=values):
            # Nothing was promised about items that had only been looked at.
            connection.execute(delete(Shard).where(Shard.job_id == job_id))
            return True
        if not guards.move_job(connection, job_id, JOB_LIVE, JobStatus.FINALIZING, late, _has_open(), values=values):
            return False
        # Those that run are told to stop, and keep what they have.
        ended = {"finished_at": now, **NO_FIGURES}
        guards.close_shards(connection, job_id, SHARD_WAITING, ShardStatus.EXPIRED, values=ended)
        return True

    return sum(database.write(engine, partial(work, job_id=job_id)) for job_id in overdue)


def overdue_jobs(now: float) -> Select[str]:
    """Jobs that are past their deadline and have not begun to end."""
    live = [JobStatus.VALIDATING.value, *(status.value for status in sorted(JOB_LIVE))]
    return select(Job.id).where(Job.status.in_(live), Job.deadline_at <= now)


def finished_jobs(engine: Engine) -> Sequence[str]:
    """Live jobs of which no shard is open."""
    with database.reading(engine) as connection:
        return [row.id for row in connection.execute(without_open_shards())]


def without_open_shards() -> Select[str]:
    """Live jobs of which no shard is open and that no pass follows. `orchestrator.flows` says what a flow comes to."""
    live = [status.value for status in sorted(JOB_LIVE)]
    return select(Job.id).where(Job.status.in_(live), Job.kind != flows.FLOW, ~_has_open(), passes.are_over())


def followed_jobs(engine: Engine) -> Sequence[passes.JobRow]:
    """Jobs of which nothing is open, and which a pass or a report follows."""
    with database.reading(engine) as connection:
        return connection.execute(followed()).all()


def followed() -> Select[*tuple[Any, ...]]:
    """All columns of jobs of which nothing is open, and which a pass or a report follows."""
    return passes.due().where(~_has_open())


def close(engine: Engine, job_id: str) -> bool:
    """Let a job whose shards have all ended begin to end; False where it is not so any more."""

    def work(connection: Connection) -> bool:
        values = {"outcome": JobStatus.COMPLETED.value}
        where = (~_has_open(), passes.are_over())
        return guards.move_job(connection, job_id, JOB_LIVE, JobStatus.FINALIZING, *where, values=values)

    return database.write(engine, work)


def jobs_ending(engine: Engine) -> Sequence[Ending]:
    """Jobs that are finalizing or cancelling."""
    with database.reading(engine) as connection:
        return [
            Ending(
                job=row.id,
                status=JobStatus(row.status),
                outcome=JobStatus(row.outcome),
                generation=row.generation,
                planned=row.planned_at is not None,
                open=bool(row.open),
                kind=row.kind,
            )
            for row in connection.execute(ending_jobs())
        ]


def ending_jobs() -> Select[str, str, str | None, int, float | None, str, bool]:
    """Jobs that are finalizing or cancelling, and whether a shard of theirs is open."""
    return select(
        Job.id, Job.status, Job.outcome, Job.generation, Job.planned_at, Job.kind, _has_open().label("open")
    ).where(Job.status.in_([JobStatus.FINALIZING.value, JobStatus.CANCELLING.value]))


def freeze(engine: Engine, ending: Ending, totals: Totals, *, now: float) -> bool:
    """End a job with its final totals; False where it went on since it was looked at."""

    def work(connection: Connection) -> bool:
        values = {"finished_at": now, "totals": totals.encoded()}
        return guards.move_job(
            connection, ending.job, {ending.status}, ending.outcome, Job.generation == ending.generation, values=values
        )

    return database.write(engine, work)


def _has_open() -> ColumnElement[bool]:
    """Whether a shard of a job is open, or a node of a flow has not ended."""
    node = aliased(Job)
    ended = [status.value for status in sorted(JOB_TERMINAL)]
    shard_open = select(Shard.number).where(Shard.job_id == Job.id, Shard.status.in_(_OPEN)).exists()
    return shard_open | select(node.id).where(node.flow == Job.id, node.status.not_in(ended)).exists()
