"""Batches in SQL: created, shown, listed, cancelled, moved on. A status is written here alone, by guarded writes."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Row, Select, insert, select, update
from ulid import ULID

from orchestrator import database
from orchestrator.jobs import ConflictError, Jobs, UnknownJobError
from orchestrator.openai.batch_views import BatchView, Live, view_batch
from orchestrator.openai.files import DEFAULT_TENANT
from orchestrator.openai.statuses import BATCH_OPEN, BatchStatus, check_batch
from orchestrator.tables import Batch

logger = logging.getLogger(__name__)
BATCH_ID = "batch_"
_ID = re.compile(rf"{BATCH_ID}[0-9A-Z]{{26}}")


class UnknownBatchError(Exception):
    """There is no batch of this id."""

    def __init__(self, batch_id: str, param: str = "batch_id") -> None:
        super().__init__(f"there is no batch {batch_id!r}")
        self.param = param


class Batches:
    """All batches of one tenant. `clock` gives seconds since the epoch."""

    def __init__(self, engine: Engine, *, tenant: str = DEFAULT_TENANT, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._tenant = tenant
        self._clock = clock
        self._jobs = Jobs(engine, clock)

    def create(
        self,
        *,
        input_file: str,
        endpoint: str,
        window: str,
        window_seconds: float,
        labels: Mapping[str, str] | None,
        output_expires_seconds: int | None,
    ) -> BatchView:
        """Accept a batch; its file is read later, by the scheduler."""
        now = self._clock()
        batch_id = f"{BATCH_ID}{ULID.from_timestamp(now)}"
        values = {
            "id": batch_id,
            "tenant": self._tenant,
            "endpoint": endpoint,
            "input_file": input_file,
            "completion_window": window,
            "labels": None if labels is None else msgspec.json.encode(labels).decode(),
            "output_expires_seconds": output_expires_seconds,
            "status": BatchStatus.VALIDATING.value,
            **dict.fromkeys(("total", "completed", "failed", "prompt_tokens", "completion_tokens"), 0),
            "created_at": now,
            "expires_at": now + window_seconds,
        }
        database.write(self._engine, lambda connection: connection.execute(insert(Batch), [values]))
        return self.get(batch_id)

    def get(self, batch_id: str) -> BatchView:
        """A batch.

        Raises:
            UnknownBatchError: there is none of this id.
        """
        return self._view(self._row(batch_id))

    def list(self, *, after: str | None, limit: int) -> tuple[Sequence[BatchView], bool]:
        """Batches, the newest first, behind the one of id `after`, at most `limit`; and whether more follow.

        Raises:
            UnknownBatchError: `after` is no batch's id.
        """
        if after is not None and _ID.fullmatch(after) is None:
            raise UnknownBatchError(after, "after")
        with database.reading(self._engine) as connection:
            rows = connection.execute(listed(self._tenant, after=after).limit(limit + 1)).all()
        return [self._view(row) for row in rows[:limit]], len(rows) > limit

    def cancel(self, batch_id: str) -> BatchView:
        """Cancel a batch: what is not running is never run, what is finished goes into its output files.

        Raises:
            UnknownBatchError: there is none of this id.
            ConflictError: it has ended, or is about to.
        """
        while True:
            row = self._row(batch_id)
            status = BatchStatus(row.status)
            now = self._clock()
            if status in {BatchStatus.CANCELLING, BatchStatus.CANCELLED}:
                return self._view(row)
            if status is BatchStatus.VALIDATING:
                ended = {"cancelling_at": now, "ended_at": now}
                moved = move(self._engine, batch_id, status, BatchStatus.CANCELLED, ended)
                if moved and (job := self._jobs.with_key(batch_id, tenant=self._tenant)):
                    cancel_quietly(self._jobs, job)  # of an admission that had just begun
            elif status is BatchStatus.IN_PROGRESS:
                self._cancel_job(row)
                moved = move(self._engine, batch_id, status, BatchStatus.CANCELLING, {"cancelling_at": now})
            else:
                raise ConflictError(f"the batch {batch_id} is {status.value}, and cannot be cancelled")
            if moved:
                return self.get(batch_id)
            # It went on at this moment: what it is now decides.

    def _cancel_job(self, row: Row) -> None:  # type: ignore[type-arg]  # all columns of `batches`
        try:
            self._jobs.cancel(row.job_id)
        except (ConflictError, UnknownJobError) as error:
            message = f"the batch {row.id} is about to end, and cannot be cancelled"
            raise ConflictError(message) from error

    def _row(self, batch_id: str) -> Row:  # type: ignore[type-arg]  # all columns of `batches`
        if _ID.fullmatch(batch_id) is None:
            raise UnknownBatchError(batch_id)
        statement = select(*Batch.__table__.columns).where(Batch.id == batch_id, Batch.tenant == self._tenant)
        with database.reading(self._engine) as connection:
            row = connection.execute(statement).first()
        if row is None:
            raise UnknownBatchError(batch_id)
        return row

    def _view(self, row: Row) -> BatchView:  # type: ignore[type-arg]  # all columns of `batches`
        if row.job_id is None or row.ended_at is not None:
            return view_batch(row, None)
        try:
            job = self._jobs.get(row.job_id)
        except UnknownJobError:
            return view_batch(row, Live())
        return view_batch(row, Live(job.counts, job.usage))


def batch_row(engine: Engine, batch_id: str) -> Row:  # type: ignore[type-arg]  # all columns of `batches`
    """A batch as it stands in SQL.

    Raises:
        UnknownBatchError: there is none of this id.
    """
    with database.reading(engine) as connection:
        row = connection.execute(select(*Batch.__table__.columns).where(Batch.id == batch_id)).first()
    if row is None:
        raise UnknownBatchError(batch_id)
    return row


def status_of(engine: Engine, batch_id: str) -> BatchStatus | None:
    """What a batch is now; None where there is none."""
    with database.reading(engine) as connection:
        found = connection.scalar(select(Batch.status).where(Batch.id == batch_id))
    return None if found is None else BatchStatus(found)


def cancel_quietly(jobs: Jobs, job_id: str) -> None:
    """Cancel the job of a batch that was cancelled while it was admitted, if that job has not ended by itself."""
    try:
        jobs.cancel(job_id)
    except ConflictError as error:
        logger.info("a batch was cancelled: %s", error)


def move(
    engine: Engine, batch_id: str, old: BatchStatus, new: BatchStatus, values: Mapping[str, Any] | None = None
) -> bool:
    """Write a batch's status; False where it is another by now.

    Raises:
        IllegalBatchTransitionError: the table of transitions does not have this one.
    """
    return database.write(engine, lambda connection: move_within(connection, batch_id, old, new, values))


def move_within(
    connection: Connection,
    batch_id: str,
    old: BatchStatus,
    new: BatchStatus,
    values: Mapping[str, Any] | None = None,
) -> bool:
    """As `move`, within a transaction."""
    check_batch(old, new)
    statement = update(Batch).where(Batch.id == batch_id, Batch.status == old.value)
    return connection.execute(statement.values(status=new.value, **(values or {}))).rowcount == 1


def listed(tenant: str, *, after: str | None) -> Select[Any]:
    """All columns of a tenant's batches, the newest first, behind the one of id `after`."""
    statement = select(*Batch.__table__.columns).where(Batch.tenant == tenant).order_by(Batch.id.desc())
    return statement if after is None else statement.where(Batch.id < after)


def open_batches() -> Select[Any]:
    """All columns of the batches that have not ended, the oldest first."""
    open_ones = [status.value for status in sorted(BATCH_OPEN)]
    return select(*Batch.__table__.columns).where(Batch.status.in_(open_ones)).order_by(Batch.id)
