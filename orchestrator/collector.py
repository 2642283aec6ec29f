"""Deletes from the store what nobody will ask for: losing parts, removed jobs, unused uploads, unfinished writes.

Which parts of a job may go rests on SQL alone: not on clocks, and not on what a listing shows or does not show. Only
jobs that have ended are looked at. But a retry may begin at any moment, also between the look and the deletion, a late
report may come, and a worker may be about to adopt an earlier part. So it is not enough that no row names a part now:
no row may ever name it. Such are, among the parts that are neither a shard's `part_key` nor its `carry_from`:

- Partial parts. A row takes one only from the execution that holds the shard, by the shard's present token. Of a job
  that has ended no shard is held, and a later dispatch has a higher token.
- Whole parts of a shard that has a part. A retry either leaves that shard as it is, for good, or opens it and in the
  same write settles all its tokens so far: parts of settled tokens are refused, and are not looked for by workers.
- Whole parts of tokens that are settled already.
- All parts of a cancelled job: it takes no report and no retry.

Whole parts of a shard that has none stay: a retry adopts them, and may be doing so at this moment. All of this is read
in one statement, with the job's generation, right before a batch of deletions.

Time only says when it is worth looking: once, when a job ended some time ago. By then an execution that lost its lease
has stopped, and whoever reads by an older manifest is done. What is written later still goes with the job, or when the
job is swept after its next retry.

Images and sounds go that no record names, nor ever will: see `orchestrator.file_sweep`.

Copies of a job's input go that none of its shards reads: those of planners that died, and all of a job that never
started, for it cannot be retried. Prefixes of jobs that SQL does not know are left alone: another database, or an older
backup of this one, may know them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Engine, Select, select, update
from ulid import ULID

from orchestrator import database, removals
from orchestrator.file_sweep import files_prefixes, losing_files
from orchestrator.finalize import staged_prefix
from orchestrator.lifecycle import JOB_TERMINAL, JobStatus
from orchestrator.manifest import mend_manifest
from orchestrator.model_catalog import sweep_training
from orchestrator.tables import Job, Shard
from workers.keys import parts_prefix
from workers.store import ObjectStore, delete_prefix, listed

logger = logging.getLogger(__name__)
COLLECT_SECONDS = 60.0
"""From one round to the next, at the least."""
SETTLE_SECONDS = 3600.0
"""From a job's end to the sweep of its losing parts; a lease, which is at most as long, comes on top."""
LOOK_SECONDS = 3600.0
"""How often all uploads and unfinished writes are looked at."""
UNUSED_SECONDS = 86_400.0
"""How long an upload waits for a job that names it, and a write for its end."""
DAY_SECONDS = 86_400.0
JOBS_AT_ONCE = 100
_TERMINAL = [status.value for status in sorted(JOB_TERMINAL)]
_PART = re.compile(r"(\d{6,})-(\d{4,})-[0-9A-Z]+(\.partial)?\.jsonl")


class PartName(NamedTuple):
    """What the key of a part says."""

    shard: int
    token: int
    partial: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that has ended and was not swept since."""

    job: str
    generation: int
    planned: bool
    kind: str = "text"


@dataclass(frozen=True, slots=True)
class ShardParts:
    """What a shard of an ended job names, and by what it judges the parts that it is offered."""

    cancelled: bool
    """Whether its job was: it takes nothing any more."""
    token: int
    settled_token: int
    part_key: str | None
    carry_from: str | None


class Collector:
    """One scheduler's collector. Several may run beside each other.

    Args:
        engine: The database.
        store: Nightmill's own.
        lease_seconds: How long an execution may be silent.
        retention_days: How long ended jobs are kept; 0 for ever.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        engine: Engine,
        store: ObjectStore,
        *,
        lease_seconds: float,
        retention_days: float,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._store = store
        self._settle_seconds = SETTLE_SECONDS + lease_seconds
        self._retention_days = retention_days
        self._clock = clock
        self._look_at = 0.0

    def step(self) -> int:
        """Collect all that is due; returns how many objects were deleted.

        Raises:
            StoreError: the store cannot be reached.
        """
        now = self._clock()
        if self._retention_days:
            ended_before = now - self._retention_days * DAY_SECONDS
            removed = removals.remove_jobs(self._engine, ended_before=ended_before, now=now)
            if removed:
                logger.info("%d jobs that ended more than %g days ago are removed", removed, self._retention_days)
        deleted = sum(self._sweep(ended) for ended in unswept_jobs(self._engine, now - self._settle_seconds))
        deleted += self._remove(now)
        if now >= self._look_at:
            # Noted first: a store that does not do this is not asked again at once.
            self._look_at = now + LOOK_SECONDS
            self._look_at_uploads(now)
            deleted += self._store.forget_unfinished(older_than=UNUSED_SECONDS)
        return deleted

    def _sweep(self, ended: Ended) -> int:
        """Delete the losing parts of a job, and copies of its input that nothing of it names."""
        if ended.planned and mend_manifest(self._engine, self._store, ended.job):
            logger.warning("job %s: its manifest was of another version, and was written again", ended.job)
        deleted = 0
        named = names_of_input(self._engine, ended.job)
        for keys in listed(self._store, staged_prefix(ended.job)):
            unread = [key for key in keys if _planning(ended.job, key) not in named]
            for key in unread:
                self._store.delete(key)
            deleted += len(unread)
        for keys in listed(self._store, parts_prefix(ended.job)):
            losing = losing_parts(self._engine, ended, keys)
            for key in losing:
                self._store.delete(key)
            deleted += len(losing)
        if ended.kind in {"image", "audio", "tabular"}:
            deleted += self._sweep_files(ended)
        if ended.kind == "train":
            deleted += sweep_training(self._engine, self._store, ended.job, ended.generation)
        note_swept(self._engine, ended)
        if deleted:
            logger.info("job %s: %d left-over objects were deleted", ended.job, deleted)
        return deleted

    def _sweep_files(self, ended: Ended) -> int:
        """Delete the images, sounds and blocks of rows of a job that no record names."""
        deleted = 0
        for prefix in files_prefixes(ended.job):
            for keys in listed(self._store, prefix):
                unnamed = losing_files(self._engine, self._store, ended.job, ended.generation, keys)
                for key in unnamed:
                    self._store.delete(key)
                deleted += len(unnamed)
        return deleted

    def _look_at_uploads(self, now: float) -> None:
        for keys in listed(self._store, removals.UPLOADS_PREFIX):
            old = {prefix for prefix, made_at in map(_upload, keys) if made_at <= now - UNUSED_SECONDS}
            if old and (unused := removals.remove_uploads(self._engine, old, now=now)):
                logger.info("%d uploads that no job names are removed", unused)

    def _remove(self, now: float) -> int:
        deleted = 0
        for removal in removals.due(self._engine, now=now):
            if removals.confirm(self._engine, removal):
                deleted += delete_prefix(self._store, removal.prefix)
                removals.emptied(self._engine, removal)
        return deleted


def unswept_jobs(engine: Engine, ended_before: float) -> Sequence[Ended]:
    """Jobs that ended before a time and were not swept since, the oldest first."""
    with database.reading(engine) as connection:
        return [
            Ended(row.id, row.generation, row.planned_at is not None, row.kind)
            for row in connection.execute(unswept(ended_before))
        ]


def unswept(ended_before: float) -> Select[str, int, float | None, str]:
    """Jobs that ended before a time and were not swept since, the oldest first."""
    return (
        select(Job.id, Job.generation, Job.planned_at, Job.kind)
        .where(Job.swept < Job.generation, Job.status.in_(_TERMINAL), Job.finished_at <= ended_before)
        .order_by(Job.finished_at)
        .limit(JOBS_AT_ONCE)
    )


def note_swept(engine: Engine, ended: Ended) -> bool:
    """Remember that a job was swept; False where it went on since."""
    statement = update(Job).where(Job.id == ended.job, Job.generation == ended.generation)
    return database.write(
        engine, lambda connection: connection.execute(statement.values(swept=ended.generation)).rowcount == 1
    )


def names_of_input(engine: Engine, job_id: str) -> str:
    """What may name copies of a job's input, as JSON: the source of one of its shards, and the work of all.

    All stem from one try at planning it. Work names the rows of a training, and the parts of a linked table's parent.
    """
    with database.reading(engine) as connection:
        source = connection.scalar(select(Shard.source).where(Shard.job_id == job_id).limit(1))
        work = connection.scalar(select(Job.work).where(Job.id == job_id))
    return f"{source or ''}\n{work or ''}"


def losing_parts(engine: Engine, ended: Ended, keys: Sequence[str]) -> Sequence[str]:
    """Those of the keys that no row can ever name again; none where the job went on."""
    names = {key: name for key in keys if (name := part_name(ended.job, key)) is not None}
    if not names:
        return []
    partial = [key for key, name in names.items() if name.partial]
    statement = shard_parts(ended, sorted({name.shard for name in names.values()}))
    with database.reading(engine) as connection:
        # A shard that was split left its partial part to both halves. Looked at first: what is named later is named by
        # a retry, and the look at the job's generation, which follows, sees that.
        carried = set(connection.scalars(carried_on(ended.job, partial))) if partial else set()
        found = {
            row.number: ShardParts(
                cancelled=row.job_status == JobStatus.CANCELLED,
                token=row.token,
                settled_token=row.settled_token,
                part_key=row.part_key,
                carry_from=row.carry_from,
            )
            for row in connection.execute(statement)
        }
    return [
        key
        for key, name in names.items()
        if key not in carried and name.shard in found and has_lost(key, name, found[name.shard])
    ]


def carried_on(job_id: str, keys: Sequence[str]) -> Select[str | None]:
    """Those of the keys that a shard of the job, whichever, is to carry over."""
    return select(Shard.carry_from).where(Shard.job_id == job_id, Shard.carry_from.in_(keys))


def shard_parts(ended: Ended, numbers: Sequence[int]) -> Select[int, int, int, str | None, str | None, str]:
    """What the shards of a job have, if it still stands as it stood."""
    return (
        select(
            Shard.number,
            Shard.token,
            Shard.settled_token,
            Shard.part_key,
            Shard.carry_from,
            Job.status.label("job_status"),
        )
        .join(Job, Job.id == Shard.job_id)
        .where(Shard.job_id == ended.job, Shard.number.in_(numbers))
        .where(Job.generation == ended.generation, Job.status.in_(_TERMINAL))
    )


def has_lost(key: str, name: PartName, shard: ShardParts) -> bool:
    """Whether a part of an ended job is named by no row now, and can never be: see above."""
    if key in {shard.part_key, shard.carry_from} or name.token > shard.token:
        return False
    return name.partial or shard.cancelled or shard.part_key is not None or name.token <= shard.settled_token


def part_name(job_id: str, key: str) -> PartName | None:
    """What a key says; None where it is not that of a part."""
    match = _PART.fullmatch(key.removeprefix(parts_prefix(job_id)))
    return None if match is None else PartName(int(match[1]), int(match[2]), match[3] is not None)


def _planning(job_id: str, key: str) -> str:
    """Where the try at planning keeps its copies that staged a key."""
    return f"{staged_prefix(job_id)}{key.removeprefix(staged_prefix(job_id)).partition('/')[0]}/"


def _upload(key: str) -> tuple[str, float]:
    """The prefix of the upload that a key belongs to, and when it began; of what is no upload, never."""
    name = key.removeprefix(removals.UPLOADS_PREFIX).partition("/")[0]
    try:
        made_at = ULID.from_str(name).timestamp
    except ValueError:
        made_at = float("inf")
    return f"{removals.UPLOADS_PREFIX}{name}/", made_at
