"""The totals of jobs as sums over their shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, and_, case, func, select

from models.spec import Usage
from orchestrator.lifecycle import ShardStatus
from orchestrator.tables import Job, Shard
from orchestrator.totals import Totals
from workers.acceptance.figures import CheckFigures, both

_PHASES = ("loading", "reading", "generating", "writing")


def sum_shards(connection: Connection, job_ids: Sequence[str]) -> dict[str, Totals]:
    """Totals of jobs, from one pass over their shards. A job without shards has none."""
    totals: dict[str, Totals] = {}
    ruled: set[str] = set()
    for row in connection.execute(sums(job_ids)):
        totals[row.job_id] = _add(totals.get(row.job_id, Totals()), row)
        if row.checked:
            ruled.add(row.job_id)
    for job_id in sorted(ruled):
        checks = _sum_checks(connection, job_id)
        totals[job_id] = msgspec.structs.replace(totals[job_id], checks=checks)
    return totals


def checks_of(job_id: str) -> Select[str | None]:
    """What the rules of a job came to, by shard; of those where they came to anything."""
    return select(Shard.part_checks).where(Shard.job_id == job_id, Shard.part_checks.is_not(None))


def totals_of(row: Row, live: Mapping[str, Totals]) -> Totals:  # type: ignore[type-arg]  # of `jobs`: id and totals
    """A job's totals, frozen or live."""
    if row.totals is not None:
        return msgspec.json.decode(row.totals, type=Totals)
    return live.get(row.id, Totals())


def sum_nodes(connection: Connection, flow_id: str) -> Totals:
    """Totals of a flow: the sums of its nodes'."""
    rows = connection.execute(select(Job.id, Job.totals).where(Job.flow == flow_id)).all()
    live = sum_shards(connection, [row.id for row in rows if row.totals is None])
    return sum((totals_of(row, live) for row in rows), Totals())


def sums(job_ids: Sequence[str]) -> Select[*tuple[Any, ...]]:
    """Sums over the shards of jobs, a row for each job and status."""
    has_part = Shard.part_key.is_not(None)
    return (
        select(
            Shard.job_id,
            Shard.status,
            func.count().label("shards"),
            func.sum(Shard.count).label("items"),
            func.sum(case((has_part, Shard.part_ok), else_=Shard.ok)).label("ok"),
            func.sum(case((has_part, Shard.part_failed), else_=Shard.failed)).label("failed"),
            func.sum(case((has_part, Shard.part_prompt_tokens), else_=Shard.prompt_tokens)).label("prompt"),
            func.sum(case((has_part, Shard.part_completion_tokens), else_=Shard.completion_tokens)).label("completion"),
            func.count(Shard.part_checks).label("checked"),
            func.sum(Shard.part_rows).label("rows"),
            func.sum(Shard.losses).label("losses"),
            func.sum(Shard.failures).label("failures"),
            func.max(Shard.error_message).label("trouble"),
            func.min(Shard.started_at).label("started_at"),
            func.max(Shard.load_seconds).label("load"),
            func.sum(Shard.read_seconds).label("read"),
            func.sum(Shard.generate_seconds).label("generate"),
            func.sum(Shard.write_seconds).label("write"),
            func.max(
                case(
                    *(
                        (and_(Shard.status == ShardStatus.RUNNING.value, Shard.phase == phase), rank)
                        for rank, phase in enumerate(_PHASES)
                    )
                )
            ).label("phase"),
        )
        .where(Shard.job_id.in_(job_ids))
        .group_by(Shard.job_id, Shard.status)
    )


def _sum_checks(connection: Connection, job_id: str) -> CheckFigures | None:
    found = (row.part_checks for row in connection.execute(checks_of(job_id)))
    return reduce(both, (msgspec.json.decode(text, type=CheckFigures) for text in found), None)


def _add(so_far: Totals, row: Row) -> Totals:  # type: ignore[type-arg]  # one group of the statement above
    counts = so_far.counts
    ok, failed, items = int(row.ok), int(row.failed), int(row.items)
    match ShardStatus(row.status):
        case ShardStatus.FAILED:
            failed = items - ok
        case ShardStatus.CANCELLED:
            counts = msgspec.structs.replace(counts, cancelled=counts.cancelled + items - ok - failed)
        case ShardStatus.EXPIRED:
            counts = msgspec.structs.replace(counts, expired=counts.expired + items - ok - failed)
        case _:
            pass
    counts = msgspec.structs.replace(counts, ok=counts.ok + ok, failed=counts.failed + failed)
    starts = [moment for moment in (so_far.started_at, row.started_at) if moment is not None]
    return Totals(
        items=so_far.items + items,
        counts=counts,
        usage=so_far.usage + Usage(int(row.prompt), int(row.completion)),
        shards={**so_far.shards, str(row.status): int(row.shards)},
        phase=so_far.phase if row.phase is None else _PHASES[row.phase],
        losses=so_far.losses + int(row.losses),
        failures=so_far.failures + int(row.failures),
        trouble=row.trouble or so_far.trouble,
        started_at=min(starts, default=None),
        load=max(so_far.load, row.load),
        read=so_far.read + row.read,
        generate=so_far.generate + row.generate,
        write=so_far.write + row.write,
        rows=so_far.rows + int(row.rows or 0),
    )
