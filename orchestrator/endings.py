"""How an execution of a shard ends, as writes: finished, failed, given back. Called inside a transaction.

Whoever calls has locked the job's row and then the shard's, so that what it judged by still holds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, delete, func, insert, literal, select, update

from models.errors import FailureKind
from orchestrator import guards, lifecycle
from orchestrator.lifecycle import (
    JOB_LIVE,
    MAX_ATTEMPTS,
    MAX_BREAKS,
    MAX_BREAKS_IN_A_ROW,
    SHARD_WAITING,
    JobStatus,
    ShardStatus,
    Verdict,
)
from orchestrator.tables import Execution, Job, Shard
from orchestrator.training import training_values
from orchestrator.views import JobError
from workers.contracts import MODEL_NOT_LOADED, Failure, Part, ShardReport, Timings

HAND_BACK_SECONDS = 1.0
"""Pause before a shard that was handed back is offered again, so that a worker that takes nothing does not spin."""

PART_COLUMNS = (
    "part_key",
    "part_bytes",
    "part_sha256",
    "part_ok",
    "part_failed",
    "part_prompt_tokens",
    "part_completion_tokens",
    "part_checks",
    "part_rows",
)

NO_FIGURES: dict[str, Any] = {  # column values
    "ok": 0,
    "failed": 0,
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "load_seconds": 0.0,
    "read_seconds": 0.0,
    "generate_seconds": 0.0,
    "write_seconds": 0.0,
    "phase": None,
}
"""Live figures of a shard that starts from nothing again."""

AFRESH: dict[str, Any] = {  # column values
    "alone": False,
    "available_at": 0.0,  # at once, by anybody's clock
    "attempts": 0,
    "failures": 0,
    "losses": 0,
    "error_code": None,
    "error_message": None,
    **NO_FIGURES,
}
"""Of a shard that is queued again after it had ended: it has all its tries."""
CARRIED: dict[str, Any] = {  # column values
    "carry_from": Shard.part_key,
    "settled_token": Shard.token,
    "redo": None,
}
"""Of one that has a part: what is good of it is carried over, and only a newer one will do."""


@dataclass(frozen=True, slots=True)
class ShardState:
    """What a judgement about a shard needs to know of it."""

    job: str
    job_status: JobStatus
    outcome: JobStatus | None
    """What the job is on its way to, once it ends."""
    number: int
    count: int
    status: ShardStatus
    token: int
    settled_token: int
    execution: str | None
    sequence: int
    attempts: int
    failures: int
    losses: int
    alone: bool
    part_key: str | None
    carry_from: str | None

    @property
    def unwanted(self) -> ShardStatus | None:
        """What becomes of the shard instead of being run again, where its job is ending."""
        return None if self.outcome is None else UNRUN_IN.get(self.outcome)


UNRUN_IN = {
    JobStatus.CANCELLED: ShardStatus.CANCELLED,
    JobStatus.EXPIRED: ShardStatus.EXPIRED,
    JobStatus.FAILED: ShardStatus.FAILED,
}
"""What the shards of a job become that were not done when it ended so."""


class JobState(NamedTuple):
    """A job's status, and what it is on its way to."""

    status: JobStatus
    outcome: JobStatus | None


def lock_jobs(connection: Connection, job_ids: list[str], *, to_write: bool) -> dict[str, JobState]:
    """States of jobs, which now stay as they are until the end of the transaction. Unknown ones are left out."""
    statement = (
        select(Job.id, Job.status, Job.outcome)
        .where(Job.id.in_(job_ids))
        .order_by(Job.id)
        .with_for_update(read=not to_write)
    )
    return {
        row.id: JobState(JobStatus(row.status), None if row.outcome is None else JobStatus(row.outcome))
        for row in connection.execute(statement)
    }


def lock_shard(connection: Connection, job_id: str, job: JobState, number: int) -> ShardState | None:
    """A shard, which now stays as it is until the end of the transaction; None where there is none."""
    row = connection.execute(one_shard(job_id, number)).first()
    if row is None:
        return None
    return ShardState(
        job=job_id,
        job_status=job.status,
        outcome=job.outcome,
        number=number,
        count=row.items,
        status=ShardStatus(row.status),
        token=row.token,
        settled_token=row.settled_token,
        execution=row.execution,
        sequence=row.sequence,
        attempts=row.attempts,
        failures=row.failures,
        losses=row.losses,
        alone=row.alone,
        part_key=row.part_key,
        carry_from=row.carry_from,
    )


def one_shard(job_id: str, number: int) -> Select[*tuple[Any, ...]]:
    """What a judgement needs of a shard's row, locked."""
    return (
        select(
            Shard.count.label("items"),  # a row has a method `count`
            Shard.status,
            Shard.token,
            Shard.settled_token,
            Shard.execution,
            Shard.sequence,
            Shard.attempts,
            Shard.failures,
            Shard.losses,
            Shard.alone,
            Shard.part_key,
            Shard.carry_from,
        )
        .where(Shard.job_id == job_id, Shard.number == number)
        .with_for_update()
    )


def figures(report: ShardReport) -> dict[str, Any]:
    """The live figures of a report as column values."""
    return {
        "ok": report.counts.ok,
        "failed": report.counts.failed,
        "prompt_tokens": report.usage.prompt_tokens,
        "completion_tokens": report.usage.completion_tokens,
        **timing_values(report.timings),
        "phase": report.phase,
    }


def timing_values(timings: Timings) -> dict[str, float]:
    """Timings as column values."""
    return {
        "load_seconds": timings.load,
        "read_seconds": timings.read,
        "generate_seconds": timings.generate,
        "write_seconds": timings.write,
    }


def grant(connection: Connection, shard: ShardState, report: ShardReport, now: float) -> bool:
    """Give a dispatched shard to the execution that reports; False where another was first."""
    moved = guards.move_shards(
        connection,
        shard.job,
        {ShardStatus.DISPATCHED},
        ShardStatus.RUNNING,
        *_this(shard),
        Shard.execution.is_(None),
        values={
            "execution": report.execution,
            "worker": report.worker,
            "attempts": Shard.attempts + 1,
            "sequence": report.sequence,
            "started_at": func.coalesce(Shard.started_at, now),  # the first start stays
            **figures(report),
        },
    )
    if moved == 1:
        _remember(connection, report, now)
    return moved == 1


def renew(connection: Connection, shard: ShardState, report: ShardReport, now: float) -> bool:
    """Note an execution's progress; False where it no longer owns the shard, or has said more since."""
    statement = (
        update(Shard)
        .where(Shard.job_id == shard.job, Shard.execution == report.execution, *_this(shard))
        .where(Shard.sequence < report.sequence)
        .values(sequence=report.sequence, **figures(report), **training_values(report, now))
    )
    return connection.execute(statement).rowcount == 1


def finish(connection: Connection, shard: ShardState, part: Part, values: dict[str, Any], now: float) -> bool:
    """Make a part the shard's winning one; False where the shard is no longer as it was judged."""
    moved = guards.move_shards(
        connection,
        shard.job,
        {shard.status},
        ShardStatus.DONE,
        *_this(shard),
        values={
            **values,
            "ok": part.counts.ok,
            "failed": part.counts.failed,
            "prompt_tokens": part.usage.prompt_tokens,
            "completion_tokens": part.usage.completion_tokens,
            "phase": None,
            "started_at": func.coalesce(Shard.started_at, now),
            "finished_at": now,
            "error_code": None,
            "error_message": None,
            "carry_from": None,
            "redo": None,
            "alone": False,
            **_part_values(part),
        },
    )
    if moved == 1:
        # If another execution was at work on it, its report comes too late.
        overtaken = update(Execution).where(
            Execution.job_id == shard.job, Execution.shard == shard.number, Execution.ended_at.is_(None)
        )
        connection.execute(overtaken.values(ended_at=now, ending="overtaken"))
        mended = update(Job).where(Job.id == shard.job, Job.breaks_in_a_row > 0).values(breaks_in_a_row=0)
        connection.execute(mended)
    return moved == 1


def fail(
    connection: Connection,
    shard: ShardState,
    failure: Failure,
    now: float,
    chance: random.Random,
    part: Part | None = None,
) -> bool:
    """End a running execution that failed or was lost, as its kind of failure demands; False where it had ended.

    `part` holds the items that had ended, where the execution could still say so.
    """
    kept = {} if part is None else _part_values(part)
    if shard.unwanted is not None:
        return _close(connection, shard, shard.unwanted, now, {**_error_of_job(connection, shard), **kept})
    decision = lifecycle.decide(
        failure.kind,
        failures=shard.failures,
        losses=shard.losses,
        attempts=shard.attempts,
        chance=chance,
        alone=shard.alone,
        items=shard.count,
    )
    verdict = decision.verdict
    if verdict is Verdict.SPLIT and shard.part_key is not None and shard.settled_token:
        # Its results have been shown as they are: it falls back to them.
        verdict = Verdict.GIVE_UP
    said = {
        "failures": decision.failures,
        "losses": decision.losses,
        "error_code": failure.code,
        "error_message": failure.message,
    }
    broke = shard.alone and failure.kind is FailureKind.ENGINE
    if (broke or failure.code == MODEL_NOT_LOADED) and _breaks_too_often(connection, shard.job):
        verdict = Verdict.FAIL_JOB
    available_at = now + decision.delay_seconds
    match verdict:
        case Verdict.AGAIN:
            return _queue(connection, shard, available_at, {**said, **_carried(part)})
        case Verdict.ALONE:
            return _queue(connection, shard, available_at, {**said, **_carried(part), "alone": True})
        case Verdict.SPLIT:
            return _split(connection, shard, available_at, {**said, **_carried(part)})
        case Verdict.GIVE_UP:
            return _close(connection, shard, ShardStatus.FAILED, now, {**said, **kept})
        case Verdict.FAIL_JOB:
            if not _close(connection, shard, ShardStatus.FAILED, now, {**said, **kept}):
                return False
            fail_job(connection, shard.job, failure, now)
            return True


def fail_job(connection: Connection, job_id: str, failure: Failure, now: float) -> bool:
    """End a job that cannot go on: its shards that wait fail with the same error, those that run are told to stop."""
    error = JobError(code=failure.code, message=failure.message)
    moved = guards.move_job(
        connection,
        job_id,
        JOB_LIVE,
        JobStatus.FINALIZING,
        values={"outcome": JobStatus.FAILED.value, "error": error.encoded()},
    )
    if moved:
        values = {"finished_at": now, "error_code": failure.code, "error_message": failure.message, **NO_FIGURES}
        guards.close_shards(connection, job_id, SHARD_WAITING, ShardStatus.FAILED, values=values)
    return moved


def cancel_job(connection: Connection, job_id: str, now: float) -> bool:
    """Cancel a job: what waits is never run, what runs is told to stop; False where it has ended or is ending."""
    cancelling = {"outcome": JobStatus.CANCELLED.value}
    if guards.move_job(connection, job_id, {JobStatus.VALIDATING}, JobStatus.CANCELLING, values=cancelling):
        # Nothing was promised about items that had only been looked at.
        connection.execute(delete(Shard).where(Shard.job_id == job_id))
        return True
    if not guards.move_job(connection, job_id, JOB_LIVE, JobStatus.CANCELLING, values=cancelling):
        return False
    guards.close_shards(
        connection, job_id, SHARD_WAITING, ShardStatus.CANCELLED, values={"finished_at": now, **NO_FIGURES}
    )
    return True


def hand_back(connection: Connection, shard: ShardState, now: float, part: Part | None = None) -> bool:
    """Take back a shard that its worker does not want to finish, and what was done of it; False where it had ended."""
    kept = {} if part is None else _part_values(part)
    if shard.unwanted is not None:
        return _close(connection, shard, shard.unwanted, now, {**_error_of_job(connection, shard), **kept})
    if shard.attempts >= MAX_ATTEMPTS:
        said = {"error_code": "attempts_exhausted", "error_message": f"workers took it {shard.attempts} times, in vain"}
        return _close(connection, shard, ShardStatus.FAILED, now, {**said, **kept})
    return _queue(connection, shard, now + HAND_BACK_SECONDS, _carried(part))


def end_execution(connection: Connection, report: ShardReport, ending: str, now: float) -> None:
    """Write down how an execution ended; one that was never granted gets its first line here."""
    ended = update(Execution).where(Execution.id == report.execution).values(ended_at=now, ending=ending)
    if connection.execute(ended).rowcount == 0:
        _remember(connection, report, now)
        connection.execute(ended)


def lost(shard: ShardState, seconds: float) -> Failure:
    """The failure of a shard whose worker was not heard of for a whole lease."""
    return Failure(
        FailureKind.PLATFORM, "worker_lost", f"its worker was not heard of for {seconds:g} s (attempt {shard.token})"
    )


def split(connection: Connection, job_id: str, number: int, *, keep: int) -> None:
    """Leave a queued shard its first `keep` items, and make another, alike in everything, of the rest.

    The caller holds the shard's lock. The job counts one shard more; the order of items is that of `first`.
    """
    columns = {column.name: column for column in Shard.__table__.columns}
    rest: dict[str, Any] = {
        **columns,
        "number": select(func.max(Shard.number) + 1).where(Shard.job_id == job_id).scalar_subquery(),
        "first": Shard.first + keep,
        "count": Shard.count - keep,
        "skip": Shard.skip + keep,
        "failures": literal(0),
        "losses": literal(0),
    }
    this = (Shard.job_id == job_id, Shard.number == number)
    connection.execute(insert(Shard).from_select(list(rest), select(*rest.values()).where(*this)))
    connection.execute(update(Shard).where(*this).values(count=keep))
    connection.execute(update(Job).where(Job.id == job_id).values(shard_count=Job.shard_count + 1))


def _split(connection: Connection, shard: ShardState, available_at: float, values: dict[str, Any]) -> bool:
    """Queue a shard that broke its engine as two halves. Neither has a part of its own to fall back to."""
    parts = dict.fromkeys(PART_COLUMNS)
    if not _queue(connection, shard, available_at, {**values, **parts, "alone": True}):
        return False
    split(connection, shard.job, shard.number, keep=(shard.count + 1) // 2)
    return True


def _breaks_too_often(connection: Connection, job_id: str) -> bool:
    counted = update(Job).where(Job.id == job_id).values(breaks=Job.breaks + 1, breaks_in_a_row=Job.breaks_in_a_row + 1)
    connection.execute(counted)
    row = connection.execute(select(Job.breaks, Job.breaks_in_a_row).where(Job.id == job_id)).one()
    return bool(row.breaks_in_a_row >= MAX_BREAKS_IN_A_ROW or row.breaks >= MAX_BREAKS)


def _part_values(part: Part) -> dict[str, Any]:
    return {
        "part_key": part.key,
        "part_bytes": part.bytes,
        "part_sha256": part.sha256,
        "part_ok": part.counts.ok,
        "part_failed": part.counts.failed,
        "part_prompt_tokens": part.usage.prompt_tokens,
        "part_completion_tokens": part.usage.completion_tokens,
        "part_checks": None if part.checks is None else msgspec.json.encode(part.checks).decode(),
        "part_rows": part.rows,
    }


def _carried(part: Part | None) -> dict[str, Any]:
    """What the next execution is to carry over."""
    return {} if part is None else {**_part_values(part), "carry_from": part.key}


def _queue(connection: Connection, shard: ShardState, available_at: float, values: dict[str, Any]) -> bool:
    values = {"available_at": available_at, "worker": None, **NO_FIGURES, **values}
    return (
        guards.move_shards(
            connection, shard.job, {ShardStatus.RUNNING}, ShardStatus.QUEUED, *_lease(shard), values=values
        )
        == 1
    )


def _close(connection: Connection, shard: ShardState, new: ShardStatus, now: float, values: dict[str, Any]) -> bool:
    values = {"finished_at": now, **NO_FIGURES, **values}
    return guards.close_shards(connection, shard.job, {ShardStatus.RUNNING}, new, *_lease(shard), values=values) == 1


def _error_of_job(connection: Connection, shard: ShardState) -> dict[str, Any]:
    """What a shard says of its items that were not done because its whole job failed."""
    if shard.unwanted is not ShardStatus.FAILED:
        return {}
    text = connection.execute(select(Job.error).where(Job.id == shard.job)).scalar_one()
    if text is None:
        return {}
    error = msgspec.json.decode(text, type=JobError)
    return {"error_code": error.code, "error_message": error.message}


def _this(shard: ShardState) -> tuple[ColumnElement[bool], ...]:
    return Shard.number == shard.number, Shard.token == shard.token


def _lease(shard: ShardState) -> tuple[ColumnElement[bool], ...]:
    return *_this(shard), Shard.execution == shard.execution, Shard.sequence == shard.sequence


def _remember(connection: Connection, report: ShardReport, now: float) -> None:
    connection.execute(
        insert(Execution).values(
            id=report.execution,
            job_id=report.job,
            shard=report.shard,
            token=report.token,
            worker=report.worker,
            granted_at=now,
        )
    )
