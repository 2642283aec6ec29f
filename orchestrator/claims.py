"""Who plans a job. A claim names its planner; everything a planner writes is guarded by it.

A planner that lives lets the job's `planner_beat` grow. Whoever sees it stand still for long enough, by its own
monotonic clock, takes the job over by a guarded write that names the planner and the beat that it saw, deletes the
shards that were left half done, and begins anew. The slow planner finds its next write changing nothing, and stops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, delete, insert, select, update

from orchestrator import database, guards
from orchestrator.endings import NO_FIGURES
from orchestrator.lifecycle import JobStatus, ShardStatus
from orchestrator.tables import Job, Shard
from orchestrator.totals import Totals
from orchestrator.views import JobError


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that is to be planned, or that somebody plans."""

    job: str
    planner: str | None
    beat: int


@dataclass(frozen=True, slots=True)
class NewShard:
    """A planned shard; `source` is a workers.contracts.SourceRange as JSON."""

    number: int
    first: int
    count: int
    source: str


def waiting(engine: Engine, limit: int = 100) -> Sequence[Waiting]:
    """Jobs in validation, the most urgent and then the oldest first."""
    statement = (
        select(Job.id, Job.planner, Job.planner_beat)
        .where(Job.status == JobStatus.VALIDATING.value, Job.kind != "flow")  # its nodes are planned
        .order_by(Job.priority, Job.created_at)
        .limit(limit)
    )
    with database.reading(engine) as connection:
        return [Waiting(row.id, row.planner, row.planner_beat) for row in connection.execute(statement)]


def claim(engine: Engine, seen: Waiting, owner: str) -> bool:
    """Take a job as it was seen; False where somebody was first, or its planner is alive after all."""

    def work(connection: Connection) -> bool:
        statement = (
            update(Job)
            .where(Job.id == seen.job, Job.status == JobStatus.VALIDATING.value, Job.planner_beat == seen.beat)
            .where(Job.planner.is_(None) if seen.planner is None else Job.planner == seen.planner)
            .values(planner=owner, planner_beat=Job.planner_beat + 1)
        )
        if connection.execute(statement).rowcount == 0:
            return False
        connection.execute(delete(Shard).where(Shard.job_id == seen.job))
        return True

    return database.write(engine, work)


def beat(engine: Engine, job_id: str, owner: str) -> bool:
    """Show that the planner lives; False where the job is no longer its own."""
    return database.write(engine, lambda connection: _beat(connection, job_id, owner))


def release(engine: Engine, job_id: str, owner: str) -> bool:
    """Give a job back unplanned, for whoever comes next; False where it is no longer the planner's own."""

    def work(connection: Connection) -> bool:
        if not _beat(connection, job_id, owner):
            return False
        connection.execute(update(Job).where(Job.id == job_id).values(planner=None))
        connection.execute(delete(Shard).where(Shard.job_id == job_id))
        return True

    return database.write(engine, work)


def add_shards(engine: Engine, job_id: str, owner: str, shards: Sequence[NewShard]) -> bool:
    """Commit a batch of shards, which cannot be taken yet; False where the job is no longer the planner's own."""
    rows = [shard_values(job_id, shard) for shard in shards]

    def work(connection: Connection) -> bool:
        if not _beat(connection, job_id, owner):
            return False
        if rows:
            connection.execute(insert(Shard), rows)
        return True

    return database.write(engine, work)


def finish(
    engine: Engine,
    job_id: str,
    owner: str,
    *,
    work: str,
    items: int,
    shard_count: int,
    last: Sequence[NewShard],
    now: float,
) -> bool:
    """Commit the last batch and open the job for dispatch, in one; False where it is no longer the planner's own.

    Args:
        engine: The database.
        job_id: The job.
        owner: The planner.
        work: workers.contracts.Work as JSON.
        items: Items of the whole job.
        shard_count: Shards of the whole job.
        last: Shards that were not yet added.
        now: Seconds since the epoch.
    """
    rows = [shard_values(job_id, shard) for shard in last]

    def apply(connection: Connection) -> bool:
        values = {"planner": None, "work": work, "items": items, "shard_count": shard_count, "planned_at": now}
        if not _leave(connection, job_id, owner, JobStatus.IN_PROGRESS, values):
            return False
        if rows:
            connection.execute(insert(Shard), rows)
        return True

    return database.write(engine, apply)


def fail(engine: Engine, job_id: str, owner: str, error: JobError, *, now: float) -> bool:
    """End a job that cannot start, and delete its shards; False where it is no longer the planner's own."""

    def apply(connection: Connection) -> bool:
        values = {"planner": None, "error": error.encoded(), "finished_at": now, "totals": Totals().encoded()}
        if not _leave(connection, job_id, owner, JobStatus.FAILED, values):
            return False
        connection.execute(delete(Shard).where(Shard.job_id == job_id))
        return True

    return database.write(engine, apply)


def _beat(connection: Connection, job_id: str, owner: str) -> bool:
    statement = update(Job).where(Job.id == job_id, *_owned(owner)).values(planner_beat=Job.planner_beat + 1)
    return connection.execute(statement).rowcount == 1


def _leave(connection: Connection, job_id: str, owner: str, new: JobStatus, values: Mapping[str, object]) -> bool:
    return guards.move_job(connection, job_id, {JobStatus.VALIDATING}, new, Job.planner == owner, values=values)


def _owned(owner: str) -> tuple[ColumnElement[bool], ...]:
    return Job.planner == owner, Job.status == JobStatus.VALIDATING.value


def shard_values(job_id: str, shard: NewShard) -> dict[str, Any]:  # column values
    """A new shard's row."""
    return {
        "job_id": job_id,
        "number": shard.number,
        "first": shard.first,
        "count": shard.count,
        "source": shard.source,
        "skip": 0,
        "alone": False,
        "status": ShardStatus.QUEUED.value,
        "token": 0,
        "settled_token": 0,
        "available_at": 0.0,  # at once, by anybody's clock
        "attempts": 0,
        "failures": 0,
        "losses": 0,
        "sequence": 0,
        **NO_FIGURES,
    }
