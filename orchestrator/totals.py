"""What a job comes to: counts, usage and timings, live or frozen. `orchestrator.sums` makes them from the shards."""

from __future__ import annotations

import msgspec

from models.spec import Usage
from workers.acceptance.figures import CheckFigures, both


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

    def __add__(self, other: ItemCounts) -> ItemCounts:
        """Both together."""
        return ItemCounts(
            self.ok + other.ok,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
            self.expired + other.expired,
        )


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
    trouble: str | None = None
    """What went wrong with a shard that was not done since; one of them, where there are several."""
    started_at: float | None = None
    load: float = 0.0
    read: float = 0.0
    generate: float = 0.0
    write: float = 0.0
    checks: CheckFigures | None = None
    """What the rules came to, in the shards that are done; None where they found nothing wrong, or there are none."""
    rows: int = 0
    """Of a linked table, in the shards that are done."""

    def __add__(self, other: Totals) -> Totals:
        """The sums of two jobs that one flow is made of; of what cannot be added, that of the first that has it."""
        starts = [moment for moment in (self.started_at, other.started_at) if moment is not None]
        return Totals(
            items=self.items + other.items,
            counts=self.counts + other.counts,
            usage=self.usage + other.usage,
            shards={
                status: self.shards.get(status, 0) + other.shards.get(status, 0)
                for status in {**self.shards, **other.shards}
            },
            phase=self.phase or other.phase,
            losses=self.losses + other.losses,
            failures=self.failures + other.failures,
            trouble=self.trouble or other.trouble,
            started_at=min(starts, default=None),
            load=max(self.load, other.load),
            read=self.read + other.read,
            generate=self.generate + other.generate,
            write=self.write + other.write,
            checks=both(self.checks, other.checks),
            rows=self.rows + other.rows,
        )

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
