"""What is to be deleted from the store whole, decided in SQL: jobs kept for long enough, uploads that no job reads.

A removal is committed first, as a row with the prefix to be emptied, together with all that makes it final; only then
are objects deleted, and the row goes last. Dying in between loses nothing and leaves nothing behind. A prefix is
emptied again a day later: for what a listing did not show yet, and for a writer that had not noticed.

A job's rows go in the transaction that writes its removal, so whoever comes later (a retry, a late report) finds no
such job. An upload may be named by a new job at any moment: so a job that names an upload with a removal is refused
when it is created, and an upload is emptied only when some time after its removal was committed there is still no job
that names it. That time is much longer than a transaction lasts: one that did not see the removal has ended by then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from sqlalchemy import ColumnElement, Connection, Engine, Select, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from orchestrator import database
from orchestrator.lifecycle import JOB_TERMINAL
from orchestrator.tables import Job, Removal
from workers.store import UPLOAD_SCHEME

UPLOADS_PREFIX = "inputs/"
UPLOAD_GRACE_SECONDS = 3600.0
"""From an upload's removal to the first deletion; also bounds by how far the clocks of schedulers may differ."""
AGAIN_SECONDS = 86_400.0
"""From a removal to the last deletion."""
_TERMINAL = [status.value for status in sorted(JOB_TERMINAL)]
_JOBS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Due:
    """A prefix whose time has come."""

    prefix: str
    decided_at: float
    due_at: float


def job_prefix(job_id: str) -> str:
    """Where everything of a job lies."""
    return f"jobs/{job_id}/"


def upload_prefix(file: str | None) -> str | None:
    """Where the upload lies that a job's file names; None where it names none."""
    if file is None or not file.startswith(UPLOAD_SCHEME):
        return None
    parts = PurePosixPath(file.removeprefix(UPLOAD_SCHEME)).parts
    return f"{UPLOADS_PREFIX}{parts[1]}/" if len(parts) > 2 and parts[0] == UPLOADS_PREFIX.rstrip("/") else None


def is_removed(connection: Connection, prefix: str) -> bool:
    """Whether there is, or was until a moment ago, a removal of a prefix."""
    return connection.execute(select(Removal.prefix).where(Removal.prefix == prefix)).first() is not None


def remove_jobs(engine: Engine, *, ended_before: float, now: float) -> int:
    """Remove jobs that ended before a time, at most a hundred of them; returns how many."""
    with database.reading(engine) as connection:
        old = [row.id for row in connection.execute(jobs_ended_before(ended_before))]

    def work(connection: Connection, job_id: str) -> bool:
        # Its shards and executions go with it; of a flow, its nodes.
        nodes = connection.scalars(select(Job.id).where(Job.flow == job_id)).all()
        if connection.execute(delete(Job).where(Job.id == job_id, *_ended_before(ended_before))).rowcount == 0:
            return False  # a retry was first, or another collector
        connection.execute(delete(Job).where(Job.flow == job_id))
        rows = [{"prefix": job_prefix(each), "decided_at": now, "due_at": now} for each in (job_id, *nodes)]
        connection.execute(insert(Removal), rows)
        return True

    return sum(database.write(engine, partial(work, job_id=job_id)) for job_id in old)


def jobs_ended_before(moment: float) -> Select[str]:
    """Jobs that ended before a time, the oldest first."""
    return select(Job.id).where(*_ended_before(moment)).order_by(Job.finished_at).limit(_JOBS_AT_ONCE)


def remove_uploads(engine: Engine, prefixes: Collection[str], *, now: float) -> int:
    """Remove those uploads that no job names; returns how many."""

    def work(connection: Connection) -> int:
        named = [
            prefix
            for column in (Job.upload, Job.parent_upload)
            for prefix in connection.scalars(select(column).where(column.in_(prefixes)))
        ]
        known = connection.execute(select(Removal.prefix).where(Removal.prefix.in_(prefixes))).scalars()
        unused = sorted(set(prefixes) - set(named) - set(known))
        if unused:
            due_at = now + UPLOAD_GRACE_SECONDS
            rows = [{"prefix": prefix, "decided_at": now, "due_at": due_at} for prefix in unused]
            connection.execute(insert(Removal), rows)
        return len(unused)

    try:
        return database.write(engine, work)
    except IntegrityError:
        return 0  # another collector looked at the same moment


def due(engine: Engine, *, now: float) -> Sequence[Due]:
    """Prefixes to be emptied now."""
    statement = select(Removal.prefix, Removal.decided_at, Removal.due_at).where(Removal.due_at <= now)
    with database.reading(engine) as connection:
        return [Due(row.prefix, row.decided_at, row.due_at) for row in connection.execute(statement)]


def confirm(engine: Engine, removal: Due) -> bool:
    """Whether a prefix may be emptied; an upload that a job names after all is let live."""

    def work(connection: Connection) -> bool:
        if connection.execute(naming(removal.prefix)).first() is None:
            return is_removed(connection, removal.prefix)
        connection.execute(delete(Removal).where(Removal.prefix == removal.prefix))
        return False

    return database.write(engine, work)


def naming(prefix: str) -> Select[str]:
    """A job that names an upload."""
    return select(Job.id).where(or_(Job.upload == prefix, Job.parent_upload == prefix)).limit(1)


def emptied(engine: Engine, removal: Due) -> None:
    """Note that a prefix was emptied: once more is to come, or it is over."""
    again_at = removal.decided_at + AGAIN_SECONDS
    this = (Removal.prefix == removal.prefix, Removal.due_at == removal.due_at)

    def work(connection: Connection) -> None:
        if removal.due_at < again_at:
            connection.execute(update(Removal).where(*this).values(due_at=again_at))
        else:
            connection.execute(delete(Removal).where(*this))

    database.write(engine, work)


def _ended_before(moment: float) -> tuple[ColumnElement[bool], ...]:
    # A node goes with its flow.
    return Job.status.in_(_TERMINAL), Job.finished_at < moment, Job.flow.is_(None)
