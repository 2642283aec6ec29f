"""Moves batches on: admits them, follows their jobs, and writes their output files once these have ended.

Files are written before the row that names them, each time under ids of their own: what is written is never changed.
Two schedulers may write files of one batch; only one of them ends it, and the other deletes what it has written. One
that dies is followed by the next, and what it has left is deleted a day later.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

import msgspec
from sqlalchemy import Connection, Engine, Row, insert, select
from ulid import ULID

from orchestrator import database, results
from orchestrator.flow_results import lines_of
from orchestrator.jobs import Jobs, UnknownJobError
from orchestrator.lifecycle import JOB_TERMINAL, JobStatus
from orchestrator.openai import files
from orchestrator.openai.admission import Admission
from orchestrator.openai.batch_lines import answered, gathered, never_run, unanswered
from orchestrator.openai.batch_views import BatchError
from orchestrator.openai.batches import move, move_within, open_batches
from orchestrator.openai.files import FILE_ID, FILES_PREFIX, PRODUCED, content_key, file_values, new_file_id
from orchestrator.openai.statuses import BatchStatus
from orchestrator.settings import Settings
from orchestrator.source_files import ChunkReader
from orchestrator.tables import File, Job
from orchestrator.views import JobError, JobView
from workers.store import MissingObjectError, ObjectStore, StoreError, listed

logger = logging.getLogger(__name__)
LOOK_SECONDS = 3600.0
"""How often all files of the store are looked at."""
UNUSED_SECONDS = 86_400.0
"""How long bytes wait for their row."""
ENDS = {
    JobStatus.COMPLETED: BatchStatus.COMPLETED,
    JobStatus.EXPIRED: BatchStatus.EXPIRED,
    JobStatus.CANCELLED: BatchStatus.CANCELLED,
    JobStatus.FAILED: BatchStatus.FAILED,
}
"""What a batch becomes by the end of its job."""


@dataclass(frozen=True, slots=True)
class _JobState:
    status: JobStatus
    generation: int
    planned: bool
    error: str | None


@dataclass(frozen=True, slots=True)
class _Written:
    """A file that was written for a batch."""

    id: str
    size: int
    sha256: str


class Batcher:
    """One scheduler's. `clock` gives seconds since the epoch."""

    def __init__(self, engine: Engine, store: ObjectStore, settings: Settings, *, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._store = store
        self._jobs = Jobs(engine, clock)
        self._admission = Admission(engine, store, settings, clock=clock)
        self._clock = clock
        self._look_at = 0.0

    def step(self) -> int:
        """Take every batch one step nearer to its end, and let go of files whose time is over; returns how many moved.

        Raises:
            StoreError: the store cannot be reached.
        """
        with database.reading(self._engine) as connection:
            batches = connection.execute(open_batches()).all()
        moved = 0
        away: StoreError | None = None
        for batch in batches:
            try:
                moved += self._advance(batch)
            except StoreError as error:
                # Of one batch, perhaps: it must not hold up those behind it.
                away = away or error
        if away is not None:
            raise away
        now = self._clock()
        moved += files.remove_gone(self._engine, now=now)
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._look_for_orphans(now)
        return moved

    def _advance(self, batch: Row) -> bool:  # type: ignore[type-arg]  # all columns of `batches`
        status = BatchStatus(batch.status)
        if status is BatchStatus.VALIDATING:
            return self._admission.admit(batch)
        job = self._job(batch.job_id)
        if job is None:
            gone = BatchError(code="job_not_found", message=f"the job {batch.job_id} was removed")
            return self._fail(batch, status, gone)
        if status is BatchStatus.IN_PROGRESS:
            return self._follow(batch, job)
        if job.status not in JOB_TERMINAL:
            return False  # a retry of it has begun since, and its end is waited for
        try:
            return self._finish(batch, status, job)
        except UnknownJobError:
            return False  # it was removed at this moment, which the next look sees

    def _follow(self, batch: Row, job: _JobState) -> bool:  # type: ignore[type-arg]
        now = self._clock()
        if job.status is JobStatus.FAILED and not job.planned:
            return self._fail(batch, BatchStatus.IN_PROGRESS, _told(job.error))
        if job.status in {JobStatus.CANCELLING, JobStatus.CANCELLED}:
            # By way of its job.
            values = {"cancelling_at": now}
            return move(self._engine, batch.id, BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING, values)
        if job.status not in JOB_TERMINAL:
            return False
        return move(self._engine, batch.id, BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, {"finalizing_at": now})

    def _finish(self, batch: Row, status: BatchStatus, job: _JobState) -> bool:  # type: ignore[type-arg]
        view = self._jobs.get(batch.job_id)
        end = ENDS[job.status]
        try:
            output, error = self._write(batch, job, view, end)
        except StoreError as failed:
            lost = _missing(failed)
            if lost is None:
                raise
            return self._fail(batch, status, BatchError(code="results_lost", message=str(lost)))
        errors = None
        if end is BatchStatus.FAILED:
            errors = msgspec.json.encode([_told(job.error)]).decode()
        values = {
            "errors": errors,
            "output_file": None if output is None else output.id,
            "error_file": None if error is None else error.id,
            "completed": view.counts.ok,
            "failed": view.counts.failed,
            "prompt_tokens": view.usage.prompt_tokens,
            "completion_tokens": view.usage.completion_tokens,
            "ended_at": self._clock(),
        }
        rows = [
            self._file_row(batch, written, kind)
            for written, kind in ((output, "output"), (error, "error"))
            if written is not None
        ]

        def work(connection: Connection) -> bool:
            generation = connection.scalar(
                select(Job.generation).where(Job.id == batch.job_id).with_for_update(read=True)
            )
            if generation != job.generation:
                return False  # a retry of the job has begun; its end is waited for
            if not move_within(connection, batch.id, status, end, values):
                return False
            if rows:
                connection.execute(insert(File), rows)
            return True

        ended = database.write(self._engine, work)
        if ended:
            logger.info("%s is %s: %d answered, %d failed", batch.id, end.value, view.counts.ok, view.counts.failed)
        else:
            for written in rows:
                self._store.delete(content_key(written["id"]))
        return ended

    def _write(
        self,
        batch: Row,  # type: ignore[type-arg]
        job: _JobState,
        view: JobView,
        end: BatchStatus,
    ) -> tuple[_Written | None, _Written | None]:
        """The output file and the error file, where there is something in them."""
        if not job.planned:
            lines = never_run(batch.id, self._store, content_key(batch.input_file), end.value)
            return None, self._write_file(lines)
        output = error = None
        if view.counts.ok:
            output = self._write_file(answered(batch.id, self._records(batch.job_id)))
        if view.counts.done > view.counts.ok:
            error = self._write_file(unanswered(batch.id, self._records(batch.job_id)))
        return output, error

    def _records(self, job_id: str) -> Iterator[bytes]:
        return lines_of(results.stream(self._store, self._jobs, job_id))

    def _write_file(self, lines: Iterator[bytes]) -> _Written:
        file_id = new_file_id(self._clock())
        digest = hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for piece in gathered(lines):
                digest.update(piece)
                yield piece

        source = cast("IO[bytes]", io.BufferedReader(ChunkReader(hashed())))
        size = self._store.put_stream(content_key(file_id), source, content_type="application/jsonl")
        return _Written(file_id, size, digest.hexdigest())

    def _file_row(self, batch: Row, written: _Written, kind: str) -> dict[str, Any]:  # type: ignore[type-arg]  # a row of `files`
        return file_values(
            written.id,
            tenant=batch.tenant,
            purpose=PRODUCED,
            filename=f"{batch.id}_{kind}.jsonl",
            size=written.size,
            sha256=written.sha256,
            created_at=self._clock(),
            expires_after=batch.output_expires_seconds,
        )

    def _fail(self, batch: Row, status: BatchStatus, error: BatchError) -> bool:  # type: ignore[type-arg]
        values = {"errors": msgspec.json.encode([error]).decode(), "ended_at": self._clock()}
        logger.warning("%s failed: %s", batch.id, error.message)
        return move(self._engine, batch.id, status, BatchStatus.FAILED, values)

    def _job(self, job_id: str) -> _JobState | None:
        statement = select(Job.status, Job.generation, Job.planned_at, Job.error).where(Job.id == job_id)
        with database.reading(self._engine) as connection:
            row = connection.execute(statement).first()
        if row is None:
            return None
        return _JobState(JobStatus(row.status), row.generation, row.planned_at is not None, row.error)

    def _look_for_orphans(self, now: float) -> None:
        for keys in listed(self._store, FILES_PREFIX):
            old = {file_id for key in keys if (file_id := _old_file(key, now - UNUSED_SECONDS)) is not None}
            if old and (orphans := files.remove_orphans(self._engine, old, now=now)):
                logger.info("%d files were never finished, and are removed", orphans)


def _old_file(key: str, made_before: float) -> str | None:
    """The id of the file whose bytes lie under a key, if it was made before a time."""
    file_id = key.removeprefix(FILES_PREFIX).partition("/")[0]
    try:
        made_at = ULID.from_str(file_id.removeprefix(FILE_ID)).timestamp
    except ValueError:
        return None
    return file_id if made_at <= made_before else None


def _missing(error: BaseException | None) -> MissingObjectError | None:
    """That an object is gone, where this is the root of an error: a store may wrap what a write's source raised."""
    while error is not None and not isinstance(error, MissingObjectError):
        error = error.__cause__
    return error


def _told(error: str | None) -> BatchError:
    """Why a job failed, as its batch tells it."""
    if error is None:
        return BatchError(code="job_failed", message="the job of the batch failed")
    found = msgspec.json.decode(error, type=JobError)
    return BatchError(code=found.code, line=found.line, message=found.message, param=found.param)
