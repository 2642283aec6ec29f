"""What a job comes to: counts, usage and timings, summed over its shards, live or frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, and_, case, func, select

from models.spec import Usage
from orchestrator.lifecycle import ShardStatus
from orchestrator.tables import Shard


class ItemCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Items by how they ended, so far."""

    ok: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0

    @property
    def done(self) -> int:
        """Items that have ended."""
        return self.ok + self.failed + self.cancelled + self.expired


class JobTimings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a job's time went, in seconds.

    Shards run side by side, so the sums may exceed the wall time. An execution whose work was lost counts for nothing,
    and after a retry each shard's last execution is the one that counts.
    """

    queued: float | None = None
    """From submission to the start of the first shard; None before that."""
    load: float = 0.0
    """The longest that a shard waited for the model to be loaded."""
    read: float = 0.0
    """Sum over the shards: reading the input."""
    generate: float = 0.0
    """Sum over the shards: in the engine."""
    write: float = 0.0
    """Sum over the shards: writing parts."""
    wall: float | None = None
    """From submission to the end; None before that."""


class Totals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All sums of one job."""

    items: int = 0
    counts: ItemCounts = ItemCounts()
    usage: Usage = Usage()
    shards: dict[str, int] = {}
    """Shards by status; a status that none has is left out."""
    phase: str | None = None
    """What the running shards do: the furthest of loading, reading, generating, writing."""
    losses: int = 0
    failures: int = 0
    started_at: float | None = None
    load: float = 0.0
    read: float = 0.0
    generate: float = 0.0
    write: float = 0.0

    def encoded(self) -> str:
        """As it stands in SQL."""
        return msgspec.json.encode(self).decode()

    def timings(self, created_at: float, finished_at: float | None) -> JobTimings:
        """The timings, of a job created and finished at these times (seconds since the epoch)."""
        return JobTimings(
            queued=None if self.started_at is None else max(0.0, self.started_at - created_at),
            load=self.load,
            read=self.read,
            generate=self.generate,
            write=self.write,
            wall=None if finished_at is None else max(0.0, finished_at - created_at),
        )


_PHASES = ("loading", "reading", "generating", "writing")


def sum_shards(connection: Connection, job_ids: Sequence[str]) -> dict[str, Totals]:
    """Totals of jobs, from one pass over their shards. A job without shards has none."""
    totals: dict[str, Totals] = {}
    for row in connection.execute(sums(job_ids)):
        totals[row.job_id] = _add(totals.get(row.job_id, Totals()), row)
    return totals


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
            func.sum(Shard.losses).label("losses"),
            func.sum(Shard.failures).label("failures"),
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


def _add(so_far: Totals, row: Row) -> Totals:  # type: ignore[type-arg]  # one group of the statement above
    counts = so_far.counts
    ok, failed, items = int(row.ok), int(row.failed), int(row.items)
    match ShardStatus(row.status):
        case ShardStatus.FAILED:
            counts = msgspec.structs.replace(counts, failed=counts.failed + items)
        case ShardStatus.CANCELLED:
            counts = msgspec.structs.replace(counts, cancelled=counts.cancelled + items)
        case ShardStatus.EXPIRED:
            counts = msgspec.structs.replace(counts, expired=counts.expired + items)
        case _:
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
        started_at=min(starts, default=None),
        load=max(so_far.load, row.load),
        read=so_far.read + row.read,
        generate=so_far.generate + row.generate,
        write=so_far.write + row.write,
    )
