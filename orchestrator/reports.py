"""What workers say, applied: one guarded write a report, a batch in one transaction.

Reports are cumulative, may come twice, late, or in another order than they were sent; applying one again changes
nothing. Each is answered with a directive, so that a worker stops sending it.

What a report leads to is judged by a pure function of the report and the shard as it stands (`judge`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, Engine, select

from models.errors import FailureKind
from orchestrator import database, endings, speeds
from orchestrator.endings import JobState, ShardState
from orchestrator.lifecycle import JOB_LIVE, SHARD_OPEN, JobStatus, ShardStatus
from orchestrator.tables import Shard
from orchestrator.training import training_values
from workers.contracts import MODEL_NOT_LOADED, Directive, Failure, Part, ShardReport

_CHANGES_JOB = {FailureKind.MODEL, FailureKind.ENGINE}


class Step(StrEnum):
    """What a report leads to."""

    GRANT = "grant"
    """The execution gets the shard; then its report is judged again."""
    RENEW = "renew"
    FINISH = "finish"
    FAIL = "fail"
    HAND_BACK = "hand_back"
    KNOWN = "known"
    """It says nothing new. All is well."""
    STOP = "stop"
    """The execution has no right to the shard, or no longer."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A step, and for STOP its reason."""

    step: Step
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a batch."""

    directives: dict[str, Directive]
    """By execution."""
    wake: bool
    """Whether a shard ended or was queued, so that the scheduler has something to do."""


def judge(shard: ShardState, report: ShardReport) -> Judgement:
    """Decide what a report of an execution leads to."""
    if report.event == "finished":
        return _judge_part(shard, report)
    if shard.status is ShardStatus.RUNNING and shard.execution == report.execution:
        if report.sequence <= shard.sequence:
            return Judgement(Step.KNOWN)
        return Judgement({"failed": Step.FAIL, "handed_back": Step.HAND_BACK}.get(report.event, Step.RENEW))
    if shard.status is ShardStatus.DISPATCHED and shard.token == report.token:
        # Usually `started`; anything later also proves that this execution took the shard, and `started` was lost.
        return Judgement(Step.GRANT)
    if shard.status is ShardStatus.DONE and shard.part_key is not None and report.execution in shard.part_key:
        return Judgement(Step.KNOWN)  # sent before `finished`, applied after it
    if shard.status is ShardStatus.RUNNING:
        return Judgement(Step.STOP, "another execution has the shard")
    return Judgement(Step.STOP, f"the shard is {shard.status.value}")


def _judge_part(shard: ShardState, report: ShardReport) -> Judgement:
    part = report.part
    token = None if part is None else part_token(part, shard)
    if part is None or token is None or is_partial(part) or part.counts.done != shard.count:
        return Judgement(Step.STOP, "what it reports is not a whole part of this shard")
    if shard.status is ShardStatus.DONE and shard.part_key == part.key:
        return Judgement(Step.KNOWN)
    if token <= shard.settled_token:
        return Judgement(Step.STOP, "the part is older than the last retry")
    # The first complete part wins, whichever attempt wrote it and whoever is at work on the shard now.
    if shard.status in SHARD_OPEN and shard.job_status in JOB_LIVE | {JobStatus.CANCELLING, JobStatus.FINALIZING}:
        return Judgement(Step.FINISH)
    if shard.status is ShardStatus.FAILED and shard.job_status in JOB_LIVE:
        return Judgement(Step.FINISH)
    return Judgement(Step.STOP, f"the shard is {shard.status.value}")


def part_token(part: Part, shard: ShardState) -> int | None:
    """The attempt that wrote a part, from its key; None where it is no part of this shard."""
    match = re.fullmatch(r"jobs/([^/]+)/parts/(\d{6,})-(\d{4,})-[0-9A-Z]+(?:\.partial)?\.jsonl", part.key)
    if match is None or match[1] != shard.job or int(match[2]) != shard.number or int(match[3]) > shard.token:
        return None
    return int(match[3])


def is_partial(part: Part) -> bool:
    """Whether a part was left by an execution that was interrupted."""
    return part.key.endswith(".partial.jsonl")


def apply(engine: Engine, reports: Sequence[ShardReport], *, now: float, chance: random.Random) -> Applied:
    """Apply a batch of reports in one transaction.

    Args:
        engine: The database.
        reports: In any order; of any jobs.
        now: Seconds since the epoch.
        chance: Spreads the backoff of shards that failed together.
    """
    # Shards in the order of their locks; of an execution, what it said first comes first.
    ordered = sorted(reports, key=lambda report: (report.job, report.shard, report.sequence))
    return database.write(engine, lambda connection: _apply(connection, ordered, now, chance))


def adopt(engine: Engine, job_id: str, number: int, part: Part, *, execution: str, now: float) -> bool:
    """Make a part that was found in the store the winning one; its report got lost. False where it came too late."""

    def work(connection: Connection) -> bool:
        shard = _locked(connection, job_id, number)
        if shard is None:
            return False
        live = connection.execute(
            select(Shard.load_seconds, Shard.read_seconds, Shard.generate_seconds, Shard.write_seconds).where(
                Shard.job_id == job_id, Shard.number == number
            )
        ).one()
        report = ShardReport(
            job=job_id,
            shard=number,
            token=shard.token,
            execution=execution,
            worker="reaper",
            sequence=shard.sequence + 1,
            event="finished",
            part=part,
        )
        if judge(shard, report).step is not Step.FINISH:
            return False
        if not endings.finish(connection, shard, part, dict(live._mapping), now):
            return False
        endings.end_execution(connection, report, "finished", now)
        return True

    return database.write(engine, work)


def lose(
    engine: Engine,
    job_id: str,
    number: int,
    *,
    token: int,
    execution: str,
    sequence: int,
    silent_seconds: float,
    now: float,
    chance: random.Random,
) -> bool:
    """End the lease of an execution that fell silent; False where the shard is no longer as the caller saw it."""

    def work(connection: Connection) -> bool:
        shard = _locked(connection, job_id, number)
        if shard is None or (shard.token, shard.execution, shard.sequence) != (token, execution, sequence):
            return False
        if not endings.fail(connection, shard, endings.lost(shard, silent_seconds), now, chance):
            return False
        report = ShardReport(
            job=job_id,
            shard=number,
            token=token,
            execution=execution,
            worker="reaper",
            sequence=sequence,
            event="failed",
        )
        endings.end_execution(connection, report, "lost", now)
        return True

    return database.write(engine, work)


def _locked(connection: Connection, job_id: str, number: int) -> ShardState | None:
    job = endings.lock_jobs(connection, [job_id], to_write=False).get(job_id)
    return None if job is None else endings.lock_shard(connection, job_id, job, number)


def _apply(connection: Connection, reports: Sequence[ShardReport], now: float, chance: random.Random) -> Applied:
    # A fault of the model ends a job, and one of its engine may split a shard of it.
    changes_job = any(
        report.failure is not None and (report.failure.kind in _CHANGES_JOB or report.failure.code == MODEL_NOT_LOADED)
        for report in reports
    )
    jobs = endings.lock_jobs(connection, sorted({report.job for report in reports}), to_write=changes_job)
    directives: dict[str, Directive] = {}
    wake = False
    for report in reports:
        job = jobs.get(report.job)
        shard = None if job is None else endings.lock_shard(connection, report.job, job, report.shard)
        if shard is None:
            judgement = Judgement(Step.STOP, "there is no such shard")
        else:
            judgement = _apply_one(connection, shard, report, now, chance)
            if judgement.step is Step.FAIL and changes_job:
                jobs.update(endings.lock_jobs(connection, [report.job], to_write=True))
        wake = wake or judgement.step in {Step.FINISH, Step.FAIL, Step.HAND_BACK}
        earlier = directives.get(report.execution)
        acknowledged = max(report.sequence, 0 if earlier is None else earlier.acknowledged)
        stop, reason = judgement.step is Step.STOP, judgement.reason
        if shard is not None and shard.outcome is not None and shard.unwanted is not None and not stop:
            # Its worker was told so through Redis, which may have forgotten.
            stop, reason = True, f"the job is {shard.outcome.value}"
        directives[report.execution] = Directive(
            command="stop" if stop else "run", acknowledged=acknowledged, reason=reason
        )
    return Applied(directives, wake)


def _apply_one(
    connection: Connection, shard: ShardState, report: ShardReport, now: float, chance: random.Random
) -> Judgement:
    judgement = judge(shard, report)
    match judgement.step:
        case Step.GRANT:
            done = endings.grant(connection, shard, report, now)
            if done and report.event in {"failed", "handed_back"}:
                job = JobState(shard.job_status, shard.outcome)
                granted = endings.lock_shard(connection, shard.job, job, shard.number)
                assert granted is not None  # noqa: S101 - we hold its lock
                return _end(connection, granted, report, now, chance)
        case Step.RENEW:
            done = endings.renew(connection, shard, report, now)
        case Step.FINISH:
            assert report.part is not None  # noqa: S101 - judged by
            values = {**endings.timing_values(report.timings), "sequence": report.sequence, "worker": report.worker}
            values |= training_values(report, now)
            done = endings.finish(connection, shard, report.part, values, now)
            if done:
                endings.end_execution(connection, report, "finished", now)
                if shard.carry_from is None:  # of one that carried over, nobody says how many it generated
                    seconds = report.timings.generate
                    speeds.record(connection, shard.job, items=shard.count, seconds=seconds, now=now)
        case Step.FAIL | Step.HAND_BACK:
            return _end(connection, shard, report, now, chance)
        case Step.KNOWN | Step.STOP:
            return judgement
    return judgement if done else Judgement(Step.STOP, "another writer was first")


def _end(
    connection: Connection, shard: ShardState, report: ShardReport, now: float, chance: random.Random
) -> Judgement:
    part = report.part
    if part is not None and (part_token(part, shard) is None or not is_partial(part)):
        part = None
    if report.event == "handed_back":
        step, ending = Step.HAND_BACK, "handed_back"
        done = endings.hand_back(connection, shard, now, part)
    else:
        failure = report.failure or Failure(FailureKind.ENGINE, "unknown", "its worker gave no reason")
        step, ending = Step.FAIL, failure.code
        done = endings.fail(connection, shard, failure, now, chance, part)
    if not done:
        return Judgement(Step.STOP, "another writer was first")
    endings.end_execution(connection, report, ending, now)
    return Judgement(step)
