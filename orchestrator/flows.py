"""Flows at work: what becomes of a flow, and of each of its nodes, as the others go on.

A flow is a row of `jobs` without shards of its own, and so is each of its nodes, which has them and is planned,
dispatched, leased and ended like any job. Two things differ. A node is `blocked`, and nothing of it dispatched, until
every node of the flow has been planned (what is wrong with the rows of one shows before another costs anything) and
until those that it needs have completed: their parts then stay as they are, and its workers read them. And the flow's
own status follows from its nodes', as `judge` says.

That a node begins only when those before it have ended costs little where a machine holds one model at a time: its
engine is filled from the first shard on, and no two engines push each other out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import orjson
from sqlalchemy import Connection, Engine, Row, Select, func, select, update

from models.errors import FailureKind
from orchestrator import database, guards
from orchestrator.endings import cancel_job, fail_job, lock_jobs
from orchestrator.lifecycle import JOB_LIVE, JOB_TERMINAL, JobStatus
from orchestrator.tables import Job, Shard
from orchestrator.views import JobError
from workers.contracts import CountRange, Failure, SourceRange

FLOW = "flow"
_OPEN = [JobStatus.VALIDATING.value, *(status.value for status in sorted(JOB_LIVE))]
_sources: msgspec.json.Decoder[SourceRange] = msgspec.json.Decoder(SourceRange)


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it stands."""

    job: str
    name: str
    status: JobStatus
    outcome: JobStatus | None
    """While it is on its way to an end: to which."""
    planned: bool
    blocked: bool
    needs: tuple[str, ...]
    items: int = 0
    error: JobError | None = None

    @property
    def came_to(self) -> JobStatus | None:
        """How it ended, or is about to; None while it is open."""
        return self.status if self.status in JOB_TERMINAL else self.outcome


@dataclass(frozen=True, slots=True)
class Changes:
    """What follows for a flow from how its nodes stand."""

    opens: bool = False
    """It has been planned whole."""
    unblocks: tuple[Node, ...] = ()
    fails: tuple[tuple[Node, str], ...] = ()
    """Nodes that can never be run, each with the one that it needs and that did not complete."""
    cancels: tuple[Node, ...] = ()
    outcome: JobStatus | None = None
    """To what it is on its way from now on."""
    error: JobError | None = None

    def __bool__(self) -> bool:
        return bool(self.opens or self.unblocks or self.fails or self.cancels or self.outcome)


def judge(status: JobStatus, nodes: Sequence[Node]) -> Changes:
    """What follows for a flow that is in validation, in progress or paused. Pure.

    A flow of which a node cannot start does not start: nothing of it has run, and nothing will. One of which a node
    fails later goes on with all nodes that do not need that one, so that a retry repeats as little as can be.
    """
    ended = {node.name: node.came_to for node in nodes if node.came_to is not None}
    if status is JobStatus.VALIDATING:
        bad = [node for node in nodes if node.came_to not in {None, JobStatus.COMPLETED}]
        if bad:
            others = tuple(node for node in nodes if node.came_to is None)
            return Changes(cancels=others, outcome=_outcome(nodes), error=_error(bad))
        if not all(node.planned for node in nodes):
            return Changes()
        return Changes(opens=True, unblocks=tuple(node for node in nodes if not node.needs))
    waiting = [node for node in nodes if node.blocked and node.came_to is None]
    lost = [
        (node, need) for node in waiting for need in node.needs if ended.get(need) not in {None, JobStatus.COMPLETED}
    ]
    by_name = {node.name: node for node in nodes}
    ready = [
        node
        for node in waiting
        # Of one that is still finalizing the totals are not frozen yet; a moment later they are.
        if all(by_name[need].status is JobStatus.COMPLETED for need in node.needs)
    ]
    outcome = None
    if all(node.status in JOB_TERMINAL for node in nodes):
        outcome = _outcome(nodes)
    bad = [node for node in nodes if node.came_to not in {None, JobStatus.COMPLETED}]
    return Changes(
        unblocks=tuple(ready),
        fails=tuple({node.name: (node, need) for node, need in lost}.values()),
        outcome=outcome,
        error=_error(bad) if outcome is JobStatus.FAILED else None,
    )


def _outcome(nodes: Sequence[Node]) -> JobStatus:
    ends = {node.came_to for node in nodes}
    if ends <= {JobStatus.COMPLETED}:
        return JobStatus.COMPLETED
    return JobStatus.EXPIRED if JobStatus.EXPIRED in ends and JobStatus.FAILED not in ends else JobStatus.FAILED


def _error(bad: Sequence[Node]) -> JobError | None:
    """The error of the node that failed by itself, and not for another's sake."""
    own = [node for node in bad if node.error is not None and node.error.code != "upstream_failed"]
    for node in own or bad:
        if node.error is not None:
            param = f"nodes.{node.name}" + ("" if node.error.param is None else f".{node.error.param}")
            message = f"node {node.name}: {node.error.message}"
            return msgspec.structs.replace(node.error, message=message, param=param)
        return JobError("node_failed", f"node {node.name} is {node.status.value}", f"nodes.{node.name}")
    return None


def step(engine: Engine, *, now: float) -> int:
    """Take every flow on as far as its nodes allow; returns how many changed."""
    with database.reading(engine) as connection:
        due = [
            row.id
            for row in connection.execute(open_flows()).all()
            if judge(JobStatus(row.status), nodes_of(connection, row.id))
        ]
    return sum(database.write(engine, partial(_advance, flow_id=flow_id, now=now)) for flow_id in due)


def open_flows() -> Select[str, str]:
    """Flows that have not begun to end."""
    return select(Job.id, Job.status).where(Job.status.in_(_OPEN), Job.kind == FLOW)


def node_rows(
    flow_id: str,
) -> Select[str, str | None, str, str | None, float | None, bool, str | None, int, str | None]:
    """The nodes of a flow, in the order in which they were made: each behind all that it needs."""
    return (
        select(Job.id, Job.node, Job.status, Job.outcome, Job.planned_at, Job.blocked, Job.needs, Job.items, Job.error)
        .where(Job.flow == flow_id)
        .order_by(Job.id)
    )


def nodes_of(connection: Connection, flow_id: str) -> Sequence[Node]:
    """The nodes of a flow, each behind all that it needs."""
    return [_node(row) for row in connection.execute(node_rows(flow_id))]


def _node(row: Row) -> Node:  # type: ignore[type-arg]  # of the statement above
    return Node(
        job=row.id,
        name=row.node,
        status=JobStatus(row.status),
        outcome=None if row.outcome is None else JobStatus(row.outcome),
        planned=row.planned_at is not None,
        blocked=row.blocked,
        needs=tuple(orjson.loads(row.needs or "[]")),
        items=int(row._mapping["items"]),
        error=None if row.error is None else msgspec.json.decode(row.error, type=JobError),
    )


def _advance(connection: Connection, flow_id: str, now: float) -> bool:
    ids = [flow_id, *(node.job for node in nodes_of(connection, flow_id))]
    states = lock_jobs(connection, ids, to_write=True)
    if flow_id not in states or states[flow_id].status.value not in _OPEN:
        return False  # it was cancelled since, or has expired
    nodes = nodes_of(connection, flow_id)
    changes = judge(states[flow_id].status, nodes)
    if changes.opens and (changed := _changed_source(connection, nodes)) is not None:
        changes = Changes(cancels=tuple(nodes), outcome=JobStatus.FAILED, error=changed)
    for node in changes.cancels:
        cancel_job(connection, node.job, now)
    for node, need in changes.fails:
        why = Failure(FailureKind.MODEL, "upstream_failed", f"the node {need}, which it needs, did not complete")
        fail_job(connection, node.job, why, now)
    if changes.opens:
        _open(connection, flow_id, nodes, now)
    for node in changes.unblocks:
        connection.execute(update(Job).where(Job.id == node.job).values(blocked=False))
    if changes.outcome is not None:
        values = {
            "outcome": changes.outcome.value,
            "error": None if changes.error is None else changes.error.encoded(),
        }
        guards.move_job(connection, flow_id, {JobStatus.VALIDATING, *JOB_LIVE}, JobStatus.FINALIZING, values=values)
    return bool(changes)


def _open(connection: Connection, flow_id: str, nodes: Sequence[Node], now: float) -> None:
    shards = select(func.sum(Job.shard_count)).where(Job.flow == flow_id).scalar_subquery()
    values = {"items": sum(node.items for node in nodes), "shard_count": shards, "planned_at": now}
    guards.move_job(connection, flow_id, {JobStatus.VALIDATING}, JobStatus.IN_PROGRESS, values=values)


def _changed_source(connection: Connection, nodes: Sequence[Node]) -> JobError | None:
    """What is wrong where nodes were planned from different versions of the source, which would join strangers."""
    seen = {(node.items, _version(connection, node.job)) for node in nodes}
    if len(seen) == 1:
        return None
    return JobError("source_changed", "the source changed while it was read; submit the job again", "source.file")


def _version(connection: Connection, job_id: str) -> str | None:
    """Of the object in S3 that a node reads."""
    text = connection.execute(select(Shard.source).where(Shard.job_id == job_id, Shard.number == 0)).scalar()
    source = None if text is None else _sources.decode(text)
    return None if source is None or isinstance(source, CountRange) else source.etag


def ordered(connection: Connection, flow_ids: Sequence[str]) -> dict[str, list[Row]]:  # type: ignore[type-arg]  # all columns of `jobs`
    """All columns of the nodes of flows, by flow, in order."""
    found: dict[str, list[Row]] = {}  # type: ignore[type-arg]
    if flow_ids:
        statement = select(*Job.__table__.columns).where(Job.flow.in_(flow_ids)).order_by(Job.id)
        for row in connection.execute(statement):
            found.setdefault(row.flow, []).append(row)
    return found
