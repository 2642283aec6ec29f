"""The only place that writes a status: guarded updates, which name the state that they expect.

A write that changes no row is stale: somebody else was first, and the caller stops. A write that the transition
tables forbid is a bug and raises before it reaches the database.

Order of locks, so that writers wait for each other rather than deadlock: a job's row before its shards, jobs by id,
shards by number.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, case, update

from orchestrator import lifecycle
from orchestrator.lifecycle import JobStatus, ShardStatus
from orchestrator.tables import Job, Shard

Values: TypeAlias = Mapping[str, Any]  # column name to anything that SQLAlchemy can bind


def move_job(
    connection: Connection,
    job_id: str,
    old: Collection[JobStatus],
    new: JobStatus,
    *where: ColumnElement[bool],
    values: Values | None = None,
) -> bool:
    """Take a job from one of `old` to `new`; False where it was in none of them, or `where` did not hold.

    Raises:
        IllegalTransitionError: the tables do not have this change.
    """
    for status in old:
        lifecycle.check_job(status, new)
    statement = (
        update(Job)
        .where(Job.id == job_id, Job.status.in_([status.value for status in sorted(old)]), *where)
        .values(status=new.value, generation=Job.generation + 1, **(values or {}))
    )
    return connection.execute(statement).rowcount == 1


def move_shards(
    connection: Connection,
    job_id: str,
    old: Collection[ShardStatus],
    new: ShardStatus,
    *where: ColumnElement[bool],
    values: Values | None = None,
) -> int:
    """Take each shard of a job that is in `old`, and for which `where` holds, to `new`; returns how many.

    Raises:
        IllegalTransitionError: the tables do not have this change.
    """
    for status in old:
        lifecycle.check_shard(status, new)
    return _write(connection, job_id, old, where, {"status": new.value, **_released(new), **(values or {})})


def close_shards(
    connection: Connection,
    job_id: str,
    old: Collection[ShardStatus],
    new: ShardStatus,
    *where: ColumnElement[bool],
    values: Values | None = None,
) -> int:
    """End open shards without a new whole part: those that have one fall back to it, and the others become `new`.

    A shard that was interrupted keeps what it has: its part tells which of its items are not `new`.
    """
    for status in old:
        lifecycle.check_shard(status, new)
        lifecycle.check_shard(status, ShardStatus.DONE)
    whole = Shard.part_ok + Shard.part_failed == Shard.count
    fallen = case((whole, ShardStatus.DONE.value), else_=new.value)
    return _write(connection, job_id, old, where, {"status": fallen, **_released(new), **(values or {})})


def _write(
    connection: Connection,
    job_id: str,
    old: Collection[ShardStatus],
    where: Sequence[ColumnElement[bool]],
    values: Values,
) -> int:
    guard = (Shard.job_id == job_id, Shard.status.in_([status.value for status in sorted(old)]), *where)
    return connection.execute(update(Shard).where(*guard).values(**values)).rowcount


def _released(new: ShardStatus) -> dict[str, None]:
    """Only a running shard is leased."""
    return {} if new is ShardStatus.RUNNING else {"execution": None}
