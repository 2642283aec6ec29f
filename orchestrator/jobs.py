"""What clients do with jobs: create, look at, cancel, pause, resume, retry. Only SQL.

A caller wakes the scheduler afterwards (`workers.broker.Hints.wake`); if that is lost, it looks by itself soon.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    and_,
    case,
    exists,
    func,
    insert,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from ulid import ULID

from orchestrator import database, endings, guards, removals
from orchestrator.deadlines import resolve_deadline
from orchestrator.flow_spec import node_specs
from orchestrator.flows import FLOW, nodes_of, ordered
from orchestrator.lifecycle import JOB_RETRYABLE, JobStatus, ShardStatus
from orchestrator.spec import JobSpec, parse_job
from orchestrator.spec_error import SpecError
from orchestrator.sums import sum_shards, totals_of
from orchestrator.tables import Job, Shard
from orchestrator.totals import Totals
from orchestrator.train_spec import PARENT_FILE
from orchestrator.training import read_training
from orchestrator.views import PRIORITIES, JobView, NodeView, view_job, view_node

MAX_PAGE = 1000
DEFAULT_TENANT = "default"
"""Whose jobs are that nobody says anything else of."""


class UnknownJobError(Exception):
    """There is no job of this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id!r}")
        self.job_id = job_id


class ConflictError(Exception):
    """What was asked does not go together with what is; the message says with what."""


class Jobs:
    """All jobs of one database. `clock` gives seconds since the epoch."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self._clock = clock

    def create(self, spec: JobSpec, *, tenant: str = DEFAULT_TENANT, idempotency_key: str | None = None) -> JobView:
        """Accept a job; its source is read later, by the scheduler.

        The same key with the same spec gives the job that was made first.

        Raises:
            ConflictError: the key was used for another spec.
            SpecError: the deadline is not after now, or the upload that it names was removed.
        """
        now = self._clock()
        uploads = {param: removals.upload_prefix(file) for param, file in spec.input_files.items()}
        text, digest = _stored(spec)
        deadline = None
        if spec.deadline is not None:
            deadline = resolve_deadline(spec.deadline, datetime.fromtimestamp(now, UTC)).timestamp()
        job_id = str(ULID.from_timestamp(now))
        values = {
            "id": job_id,
            "tenant": tenant,
            "name": spec.name,
            "kind": spec.kind,
            "model": spec.model or ", ".join(dict.fromkeys(node.model for node in (spec.nodes or {}).values())),
            "engine": spec.engine,
            "priority": PRIORITIES.index(spec.priority),
            "spec": text,
            "spec_digest": digest,
            "idempotency_key": idempotency_key,
            "upload": uploads.get(spec.input_param),
            "parent_upload": uploads.get(PARENT_FILE),
            "status": JobStatus.VALIDATING.value,
            "generation": 1,
            "planner_beat": 0,
            "items": 0,
            "shard_count": 0,
            "breaks": 0,
            "breaks_in_a_row": 0,
            "created_at": now,
            "deadline_at": deadline,
            "manifest_version": 1,
            "flow": None,
            "node": None,
            "needs": None,
            "blocked": False,
            "passes": None if (passes := spec.passes()) is None else passes.encoded(),
            "pass_round": 0,
        }

        rows = [values, *_node_values(spec, values, now)]

        def work(connection: Connection) -> None:
            _check_compared(connection, spec, tenant)
            for param, upload in uploads.items():
                if upload is not None and removals.is_removed(connection, upload):
                    message = (
                        "this upload is gone: none is kept for more than a day without a job; upload the file again"
                    )
                    raise SpecError(message, param=param, code="invalid_source")
            connection.execute(insert(Job), rows)

        try:
            database.write(self.engine, work)
        except IntegrityError:
            # Another request with this key was a moment earlier.
            if idempotency_key is not None and (earlier := self._by_key(tenant, idempotency_key, digest)):
                return earlier
            raise
        return self.get(job_id)

    def submitted(self, spec: JobSpec, *, tenant: str = DEFAULT_TENANT, idempotency_key: str) -> JobView | None:
        """The job that was made with this key, if there is one.

        Raises:
            ConflictError: the key was used for another spec.
        """
        return self._by_key(tenant, idempotency_key, _stored(spec)[1])

    def with_key(self, key: str, *, tenant: str = "default") -> str | None:
        """The id of the job that was made with an idempotency key, if there is one."""
        with database.reading(self.engine) as connection:
            return connection.scalar(select(Job.id).where(Job.tenant == tenant, Job.idempotency_key == key))

    def get(self, job_id: str) -> JobView:
        """A job.

        Raises:
            UnknownJobError: there is none of this id.
        """
        with database.reading(self.engine) as connection:
            return _view(connection, job_id)

    def tenant(self, job_id: str) -> str:
        """Whose a job is.

        Raises:
            UnknownJobError: there is none of this id.
        """
        with database.reading(self.engine) as connection:
            found = connection.scalar(select(Job.tenant).where(Job.id == job_id))
        if found is None:
            raise UnknownJobError(job_id)
        return found

    def generation(self, job_id: str) -> int:
        """What grows with every change of a job's status.

        Raises:
            UnknownJobError: there is none of this id.
        """
        with database.reading(self.engine) as connection:
            found = connection.scalar(select(Job.generation).where(Job.id == job_id))
        if found is None:
            raise UnknownJobError(job_id)
        return found

    def list(self, *, status: JobStatus | None = None, after: str | None = None, limit: int = 20) -> Sequence[JobView]:
        """Jobs, the newest first, at most `limit`, beginning after the id `after`. A flow's nodes are not listed."""
        statement = select(*Job.__table__.columns).where(Job.flow.is_(None)).order_by(Job.id.desc())
        statement = statement.limit(min(limit, MAX_PAGE))
        if status is not None:
            statement = statement.where(Job.status == status.value)
        if after is not None:
            statement = statement.where(Job.id < after)
        with database.reading(self.engine) as connection:
            return _views(connection, connection.execute(statement).all())

    def spec(self, job_id: str) -> JobSpec:
        """A job's spec, as it was stored.

        Raises:
            UnknownJobError: there is none of this id.
        """
        with database.reading(self.engine) as connection:
            return parse_job(orjson.loads(_row(connection, job_id).spec))

    def cancel(self, job_id: str) -> JobView:
        """Cancel a job: what is not running is never run, what runs is told to stop, what is finished stays.

        Raises:
            UnknownJobError: there is none of this id.
            ConflictError: it has ended in another way.
        """

        def work(connection: Connection) -> JobView:
            nodes = _nodes(connection, job_id, "cancelled")
            if endings.cancel_job(connection, job_id, self._clock()):
                for node in nodes:
                    endings.cancel_job(connection, node, self._clock())
            else:
                _allow(_row(connection, job_id), "cancelled", {JobStatus.CANCELLING, JobStatus.CANCELLED})
            return _view(connection, job_id)

        return database.write(self.engine, work)

    def pause(self, job_id: str) -> JobView:
        """Dispatch nothing more of a job. Shards that are on their way or running go on to their end.

        Raises:
            UnknownJobError: there is none of this id.
            ConflictError: it is not in progress.
        """

        def work(connection: Connection) -> JobView:
            nodes = _nodes(connection, job_id, "paused")
            if not guards.move_job(connection, job_id, {JobStatus.IN_PROGRESS}, JobStatus.PAUSED):
                _allow(_row(connection, job_id), "paused", {JobStatus.PAUSED})
            for node in nodes:
                guards.move_job(connection, node, {JobStatus.IN_PROGRESS}, JobStatus.PAUSED)
            return _view(connection, job_id)

        return database.write(self.engine, work)

    def resume(self, job_id: str) -> JobView:
        """Take a pause back.

        Raises:
            UnknownJobError: there is none of this id.
            ConflictError: it is not paused.
        """

        def work(connection: Connection) -> JobView:
            nodes = _nodes(connection, job_id, "resumed")
            if not guards.move_job(connection, job_id, {JobStatus.PAUSED}, JobStatus.IN_PROGRESS):
                _allow(_row(connection, job_id), "resumed", {JobStatus.IN_PROGRESS})
            for node in nodes:
                guards.move_job(connection, node, {JobStatus.PAUSED}, JobStatus.IN_PROGRESS)
            return _view(connection, job_id)

        return database.write(self.engine, work)

    def retry(self, job_id: str) -> JobView:
        """Run again what failed or expired. Good records are kept: a shard's new part carries them over.

        A deadline that has passed is dropped; a fresh count of failures and losses begins.

        Raises:
            UnknownJobError: there is none of this id.
            ConflictError: it has not ended, was cancelled, never started, or has nothing to run again.
        """

        def work(connection: Connection) -> JobView:
            now = self._clock()
            _nodes(connection, job_id, "retried")
            if not _take_up(connection, job_id, now):
                _allow(_row(connection, job_id), "retried", ())
            is_flow = connection.scalar(select(Job.kind).where(Job.id == job_id)) == FLOW
            again = _retry_nodes(connection, job_id, now) if is_flow else _requeue(connection, job_id)
            if again == 0:
                raise ConflictError(f"job {job_id} has no failed items, and cannot be retried: there is nothing to run")
            return _view(connection, job_id)

        return database.write(self.engine, work)

    def _by_key(self, tenant: str, key: str, digest: str) -> JobView | None:
        with database.reading(self.engine) as connection:
            found = connection.execute(
                select(Job.id, Job.spec_digest).where(Job.tenant == tenant, Job.idempotency_key == key)
            ).first()
            if found is None:
                return None
            if found.spec_digest != digest:
                raise ConflictError(f"the idempotency key {key!r} was used for another job, {found.id}")
            return _view(connection, found.id)


def _check_compared(connection: Connection, spec: JobSpec, tenant: str) -> None:
    """Raise SpecError where a job is to be compared with one that its tenant does not have."""
    duplicates = None if spec.accept is None else spec.accept.duplicates
    for job_id in () if duplicates is None else duplicates.against:
        if connection.scalar(select(Job.tenant).where(Job.id == job_id)) != tenant:
            param = "accept.duplicates.against"
            raise SpecError(f"{param}: there is no job {job_id!r}", param=param)


def _stored(spec: JobSpec) -> tuple[str, str]:
    """A spec as it stands in SQL, and its digest."""
    # In the order that was written: a grid's order numbers its items, a schema's is the order of the output.
    text = orjson.dumps(spec.to_json()).decode()
    return text, "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _node_values(flow: JobSpec, values: dict[str, Any], now: float) -> list[dict[str, Any]]:  # rows of `jobs`
    """The nodes of a flow as rows, each behind all that it needs, in the order of their ids as well."""
    specs = node_specs(flow) if flow.nodes else {}
    ids = sorted(str(ULID.from_timestamp(now)) for _ in specs)
    rows = []
    for job_id, (name, spec) in zip(ids, specs.items(), strict=True):
        text, digest = _stored(spec)
        own = {"id": job_id, "name": spec.name, "kind": spec.kind, "model": spec.model, "engine": spec.engine}
        place = {"flow": values["id"], "node": name, "needs": orjson.dumps(list(spec.upstream or ())).decode()}
        stored = {"spec": text, "spec_digest": digest, "idempotency_key": None, "blocked": True}
        rows.append({**values, **own, **place, **stored})
    return rows


def _nodes(connection: Connection, job_id: str, verb: str) -> Sequence[str]:
    """The nodes of a flow, or the passes of another job. They and it stay as they are until the transaction ends.

    Raises:
        ConflictError: the job is one of these itself: it goes with the one that it belongs to.
    """
    row = connection.execute(select(Job.flow, Job.node).where(Job.id == job_id)).first()
    if row is None:
        raise UnknownJobError(job_id)
    if row.flow is not None:
        raise ConflictError(
            f"job {job_id} is the node {row.node} of the flow {row.flow}, and cannot be {verb} alone; name the flow"
        )
    nodes = [node.job for node in nodes_of(connection, job_id)]
    endings.lock_jobs(connection, [job_id, *nodes], to_write=True)
    return nodes


def _take_up(connection: Connection, job_id: str, now: float, *, blocked: bool = False) -> bool:
    """Take a job that has ended back into work; False where it may not be."""
    return guards.move_job(
        connection,
        job_id,
        JOB_RETRYABLE,
        JobStatus.IN_PROGRESS,
        Job.planned_at.is_not(None),
        values={
            "outcome": None,
            "error": None,
            "finished_at": None,
            "totals": None,
            "breaks": 0,
            "breaks_in_a_row": 0,
            "manifest_version": Job.manifest_version + 1,
            "deadline_at": case((Job.deadline_at <= now, null()), else_=Job.deadline_at),
            "blocked": blocked,
            "pass_at": None,
            "pass_round": 0,
        },
    )


def _retry_nodes(connection: Connection, flow_id: str, now: float) -> int:
    """Retry each node that has something to run again, behind those that it needs; returns how many shards."""
    queued = 0
    again: set[str] = set()
    for node in nodes_of(connection, flow_id):
        if not connection.scalar(select(exists().where(Shard.job_id == node.job, _to_run_again()))):
            continue
        # What fails in a node fails in those that use it, so they are never left out.
        if _take_up(connection, node.job, now, blocked=not again.isdisjoint(node.needs)):
            queued += _requeue(connection, node.job)
            again.add(node.name)
    return queued


def _to_run_again() -> ColumnElement[bool]:
    """Whether a shard of an ended job has items that a retry runs again."""
    unrun = [ShardStatus.FAILED.value, ShardStatus.EXPIRED.value]
    return or_(Shard.status.in_(unrun), and_(Shard.status == ShardStatus.DONE.value, Shard.part_failed > 0))


def _requeue(connection: Connection, job_id: str) -> int:
    """Queue again each shard that has items to run again; returns how many."""
    unrun = {ShardStatus.FAILED, ShardStatus.EXPIRED}
    # What a pass let stay, stays: the next one is told which records that is.
    connection.execute(
        update(Shard)
        .where(Shard.job_id == job_id, Shard.judged_part.is_(None), _to_run_again())
        .values(judged_part=func.coalesce(Shard.part_key, ""))
    )
    carried = {**endings.AFRESH, **endings.CARRIED}
    with_part = Shard.part_key.is_not(None)
    return (
        # Of these, a part that comes late is as good as one that is yet to be made.
        guards.move_shards(connection, job_id, unrun, ShardStatus.QUEUED, ~with_part, values=endings.AFRESH)
        + guards.move_shards(connection, job_id, unrun, ShardStatus.QUEUED, with_part, values=carried)
        + guards.move_shards(
            connection, job_id, {ShardStatus.DONE}, ShardStatus.QUEUED, Shard.part_failed > 0, values=carried
        )
    )


def _row(connection: Connection, job_id: str) -> Row:  # type: ignore[type-arg]  # all columns of `jobs`
    row = connection.execute(select(*Job.__table__.columns).where(Job.id == job_id)).first()
    if row is None:
        raise UnknownJobError(job_id)
    return row


def _view(connection: Connection, job_id: str) -> JobView:
    return _views(connection, [_row(connection, job_id)])[0]


def _views(connection: Connection, rows: Sequence[Row]) -> list[JobView]:  # type: ignore[type-arg]  # all columns of `jobs`
    nodes = ordered(connection, [row.id for row in rows if row.kind == FLOW])
    with_shards = [row for row in rows if row.kind != FLOW] + [node for of_flow in nodes.values() for node in of_flow]
    live = sum_shards(connection, [row.id for row in with_shards if row.totals is None])
    training = read_training(connection, [row.id for row in rows if row.kind == "train"])
    for flow_id, of_flow in nodes.items():
        live[flow_id] = sum((totals_of(node, live) for node in of_flow), Totals())
    return [view_job(row, live.get(row.id), training.get(row.id), _node_views(nodes, row.id, live)) for row in rows]


def _node_views(nodes: dict[str, list[Row]], flow_id: str, live: dict[str, Totals]) -> tuple[NodeView, ...]:  # type: ignore[type-arg]
    rows = nodes.get(flow_id, [])
    completed = {row.node for row in rows if row.status == JobStatus.COMPLETED}
    return tuple(view_node(row, totals_of(row, live), completed) for row in rows)


def _allow(row: Row, verb: str, already: Sequence[JobStatus] | frozenset[JobStatus] | set[JobStatus]) -> None:  # type: ignore[type-arg]
    """Nothing was changed: fine where the job is as asked already, else a conflict."""
    if row.status not in already:
        raise ConflictError(f"job {row.id} is {row.status}, and cannot be {verb}: {_way_out(row)}")


def _way_out(row: Row) -> str:  # type: ignore[type-arg]
    """Why a job refuses a command, and what can be done instead."""
    match JobStatus(row.status):
        case JobStatus.VALIDATING:
            return "its source is still being read; it can be once it is in_progress"
        case JobStatus.IN_PROGRESS:
            return "it has not ended; what fails can be retried once it has"
        case JobStatus.PAUSED:
            return "it has not ended; resume it, and what fails can be retried once it has"
        case JobStatus.FINALIZING:
            return f"it is about to end as {row.outcome}; what failed or expired can be retried then"
        case JobStatus.CANCELLING | JobStatus.CANCELLED:
            return "what it finished is kept; to run the rest, submit it again"
        case JobStatus.FAILED if row.planned_at is None:
            return "it could not start; mend what its error says, and submit it again"
        case JobStatus.EXPIRED if row.planned_at is None:
            return "its deadline passed before it could start; submit it again with a later one"
        case JobStatus.COMPLETED | JobStatus.FAILED | JobStatus.EXPIRED:
            return "it has ended; what failed or expired can be retried"
