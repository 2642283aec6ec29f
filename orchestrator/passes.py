"""What follows a job's own shards: passes over all of its rows, rows drawn again for those rejected, and a report.

A rule such as "no value twice" can only be judged over all rows. So once no shard of such a job is open, a pass reads
its parts in the order of the items and says which rows do not stay. The shards that hold them are queued again, as by a
retry: all that stays is carried over, and what was rejected is drawn anew with seeds of its own. Then the next pass
judges; what an earlier one let stay, stays. After the last round, what is still rejected ends as failed.

A pass and a report are jobs of one item each, whose `flow` is the job that they belong to: they are leased, tried
again, paused, cancelled and removed like any, and the job does not end before they do. Each step here is one guarded
write, on the generation and the place that were seen, so that two schedulers take it once.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, Row, Select, and_, insert, or_, select, update
from ulid import ULID

from models.errors import FailureKind
from orchestrator import database, endings, guards
from orchestrator.claims import NewShard, shard_values
from orchestrator.findings import Findings, decode_findings, decode_passes
from orchestrator.lifecycle import JobStatus, ShardStatus
from orchestrator.tables import Job, Shard
from orchestrator.views import JobError
from workers.contracts import CountRange, Failure, PassWork, Redo, ReportWork, Work
from workers.dataset_engine import DATASET_ENGINE, PartList, PartOf, part_list_key
from workers.records import StoredReport, Verdict
from workers.store import MissingObjectError, ObjectStore

logger = logging.getLogger(__name__)
PASS = "pass"  # noqa: S105 - no password
"""A pass is at work."""
REDO = "redo"
"""What it rejected is drawn again."""
SETTLED = "settled"
"""No pass follows; what the last one rejected, if anything, is being ended as rejected."""
REPORT = "report"
"""The report is being made."""
OVER = "over"
"""Nothing follows any more."""
HELD_BACK = "held_back"
"""Code of the error of a job whose rows do not reach what was asked of them."""
JobRow: TypeAlias = Row[*tuple[Any, ...]]
"""All columns of `jobs`."""
_works = msgspec.json.Decoder(Work)
_source = msgspec.json.encode(CountRange(start=0, count=1)).decode()


class _Left(msgspec.Struct):
    """As much of the record of a pass or a report as it takes to go on."""

    verdict: Verdict | None = None
    report: StoredReport | None = None


_left = msgspec.json.Decoder(_Left)


def are_over() -> ColumnElement[bool]:
    """Whether nothing follows a job's shards any more."""
    return or_(Job.passes.is_(None), Job.pass_at == OVER)


def due() -> Select[*tuple[Any, ...]]:
    """Jobs in progress that passes follow; whoever asks adds that nothing of them is open."""
    following = and_(Job.passes.is_not(None), or_(Job.pass_at.is_(None), Job.pass_at != OVER))
    return select(*Job.__table__.columns).where(Job.status == JobStatus.IN_PROGRESS.value, following)


def advance(engine: Engine, store: ObjectStore, job: JobRow, *, now: float) -> bool:
    """Take a job of `due` one step on; False where somebody else did, or it was cancelled since.

    Raises:
        StoreError: the store cannot be reached, or lost what a pass has left.
    """
    passes = decode_passes(job.passes)
    match job.pass_at:
        case "pass":
            return _take_verdict(engine, store, job, now)
        case "report":
            return _take_report(engine, store, job, now)
        case None | "redo" if passes.rounds:
            return _begin(engine, store, job, PASS, now)
        case _ if passes.report:
            return _begin(engine, store, job, REPORT, now)
        case _:
            return database.write(engine, lambda connection: _move(connection, job, OVER))


def _begin(engine: Engine, store: ObjectStore, job: JobRow, what: str, now: float) -> bool:
    """Make the job of the next pass, or of the report."""
    child = str(ULID.from_timestamp(now))
    earlier = (decode_passes(job.passes).duplicates or {}).get("against", ()) if what == PASS else ()
    with database.reading(engine) as connection:
        parts = parts_of(connection, job.id)
        against = {each: parts_of(connection, each) for each in earlier}
    key = part_list_key(job.id, child)
    # Where another scheduler takes this step first, the list is one that nobody reads. It goes with the job.
    store.put(key, PartList(parts, against).encoded(), content_type="application/json")
    number = job.pass_round + (what == PASS)
    values = _child_values(job, child, what, number, _work(job, what, number, key), now)

    def write(connection: Connection) -> bool:
        if not _move(connection, job, what, pass_round=number):
            return False
        connection.execute(insert(Job), [values])
        connection.execute(insert(Shard), [shard_values(child, NewShard(number=0, first=0, count=1, source=_source))])
        return True

    return database.write(engine, write)


def done_parts(job_id: str) -> Select[str | None, str | None, int, int, int | None, str | None]:
    """The winning parts of a job, in the order of its items."""
    return (
        select(
            Shard.part_key,
            Shard.part_sha256,
            Shard.first,
            Shard.count.label("items"),
            Shard.part_ok,
            Shard.judged_part,
        )
        .where(Shard.job_id == job_id, Shard.status == ShardStatus.DONE.value)
        .order_by(Shard.first)
    )


def parts_of(connection: Connection, job_id: str) -> tuple[PartOf, ...]:
    """The same as the lists of parts have them."""
    rows = connection.execute(done_parts(job_id))
    return tuple(
        PartOf(row.part_key, row.part_sha256, row.first, row.items, row.part_ok, row.judged_part) for row in rows
    )


def _work(job: JobRow, what: str, number: int, parts: str) -> Work:
    own, passes = _works.decode(job.work), decode_passes(job.passes)
    over = report = None
    last_pass = decode_findings(job.findings).last_pass
    if what == PASS:
        over = PassWork(
            job=job.id,
            parts=parts,
            round=number,
            previous=last_pass if number > 1 else None,
            retried=number == 1 and last_pass is not None,
            table=own.table,
            duplicates=passes.duplicates,
        )
    else:
        report = ReportWork(
            job=job.id,
            parts=parts,
            name=job.name,
            seed=own.seed,
            model=own.model,
            target=passes.target,
            gate=passes.gate,
            table=own.table,
        )
    none: dict[str, Any] = {"messages": (), "sampling": {}}
    return Work(model=DATASET_ENGINE, engine=DATASET_ENGINE, seed=own.seed, pass_over=over, report=report, **none)


def _child_values(job: JobRow, child: str, what: str, number: int, work: Work, now: float) -> dict[str, Any]:
    """A row of `jobs`: planned already, as it has no source."""
    name = what if what == REPORT else f"pass {number}"
    return {
        "id": child,
        "tenant": job.tenant,
        "name": f"{job.name}: {name}"[:200],
        "kind": what,
        "model": work.model,
        "engine": work.engine,
        "priority": job.priority,
        "spec": "{}",
        "spec_digest": "",
        "status": JobStatus.IN_PROGRESS.value,
        "generation": 1,
        "planner_beat": 0,
        "work": msgspec.json.encode(work).decode(),
        "items": 1,
        "shard_count": 1,
        "breaks": 0,
        "breaks_in_a_row": 0,
        "created_at": now,
        "planned_at": now,
        "deadline_at": job.deadline_at,
        "manifest_version": 1,
        "flow": job.id,
        "node": _node(job, what, number),
        "needs": "[]",
        "blocked": False,
        "pass_round": 0,
    }


def _node(job: JobRow, what: str, number: int) -> str:
    """The name of a pass's or a report's job: one that no other of the job has, those before a retry included."""
    return f"{what}-{job.manifest_version}-{number}"


def _take_verdict(engine: Engine, store: ObjectStore, job: JobRow, now: float) -> bool:
    """Go on from what a pass has found."""
    key = _ended(engine, job, PASS)
    if isinstance(key, JobError):
        return _fail(engine, job, key, now)
    left = _read(store, key)
    if left is None or left.verdict is None:
        return _fail(engine, job, _lost(key), now)
    verdict = left.verdict
    before = decode_findings(job.findings)
    last = job.pass_round >= decode_passes(job.passes).rounds
    findings = msgspec.structs.replace(
        before,
        rounds=job.pass_round,
        drawn_again=before.drawn_again + (0 if last else verdict.rejected),
        given_up=verdict.rejected if last else 0,
        rejected=dict(Counter(before.rejected) + Counter(verdict.rules)),
        last_pass=key,
    )

    def write(connection: Connection) -> bool:
        endings.lock_jobs(connection, [job.id], to_write=True)
        at = SETTLED if last or not verdict.parts else REDO
        if not _move(connection, job, at, findings=findings):
            return False
        judged = update(Shard).where(Shard.job_id == job.id, Shard.judged_part.is_not(None))
        connection.execute(judged.values(judged_part=None))
        for part in verdict.parts:
            redo = msgspec.json.encode(Redo(key=part.key, draw=not last)).decode()
            values = {**endings.AFRESH, **endings.CARRIED, "redo": redo}
            mine = Shard.part_key == part.part
            guards.move_shards(connection, job.id, {ShardStatus.DONE}, ShardStatus.QUEUED, mine, values=values)
        return True

    logger.info("job %s: pass %d rejected %d rows", job.id, job.pass_round, verdict.rejected)
    return database.write(engine, write)


def _take_report(engine: Engine, store: ObjectStore, job: JobRow, now: float) -> bool:
    """End what follows with the report, or hold back what does not reach what was asked of it."""
    key = _ended(engine, job, REPORT)
    if isinstance(key, JobError):
        return _fail(engine, job, key, now)
    left = _read(store, key)
    if left is None or left.report is None:
        return _fail(engine, job, _lost(key), now)
    report = left.report
    findings = msgspec.structs.replace(decode_findings(job.findings), report=report)

    def write(connection: Connection) -> bool:
        endings.lock_jobs(connection, [job.id], to_write=True)
        if not _move(connection, job, OVER, findings=findings):
            return False
        if report.held:
            why = Failure(FailureKind.MODEL, HELD_BACK, f"the dataset is held back: {'; '.join(report.held)}")
            endings.fail_job(connection, job.id, why, now)
        return True

    return database.write(engine, write)


def _read(store: ObjectStore, key: str) -> _Left | None:
    """What a pass or a report has left; None where the store lost it, which must not keep other jobs from their end."""
    try:
        return _left.decode(store.get(key))
    except MissingObjectError:
        return None


def _lost(key: str) -> JobError:
    return JobError("pass_lost", f"the store has lost {key}; retry the job")


def _ended(engine: Engine, job: JobRow, what: str) -> str | JobError:
    """The key of the part that the job of a pass or a report has left, or why there is none."""
    statement = (
        select(Job.status, Job.error, Shard.part_key, Shard.error_code, Shard.error_message)
        .join(Shard, Shard.job_id == Job.id)
        .where(Job.flow == job.id, Job.node == _node(job, what, job.pass_round))
    )
    with database.reading(engine) as connection:
        row = connection.execute(statement).one()
    if row.part_key is not None and row.status == JobStatus.COMPLETED:
        return str(row.part_key)
    if row.error is not None:
        return msgspec.json.decode(row.error, type=JobError)
    return JobError(row.error_code or "pass_failed", row.error_message or f"its {what} is {row.status}")


def _fail(engine: Engine, job: JobRow, error: JobError, now: float) -> bool:
    def write(connection: Connection) -> bool:
        endings.lock_jobs(connection, [job.id], to_write=True)
        if not _move(connection, job, OVER):
            return False
        return endings.fail_job(connection, job.id, Failure(FailureKind.PLATFORM, error.code, error.message), now)

    return database.write(engine, write)


def _move(
    connection: Connection, job: JobRow, at: str, *, findings: Findings | None = None, pass_round: int | None = None
) -> bool:
    """Note how far a job is with what follows; False where it is no longer as it was seen."""
    values: dict[str, Any] = {"pass_at": at}
    if findings is not None:
        values["findings"] = findings.encoded()
    if pass_round is not None:
        values["pass_round"] = pass_round
    # The generation does not grow with it: it is the status's, and that stays.
    seen = (Job.generation == job.generation, Job.pass_round == job.pass_round)
    same = Job.pass_at.is_(None) if job.pass_at is None else Job.pass_at == job.pass_at
    running = Job.status == JobStatus.IN_PROGRESS.value
    return connection.execute(update(Job).where(Job.id == job.id, running, same, *seen).values(**values)).rowcount == 1
