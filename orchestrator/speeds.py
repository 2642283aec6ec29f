"""How fast models are, measured from shards that were done. In SQL, so that every process sees it.

Two things are measured, and both are needed. How long a shard takes *as shards run*, several side by side, is what
decides how large a shard should be. But seconds of shards that overlap do not add up to seconds of the engines: what
tells how soon all work is done is the wall time in which a model was busy at all. Their quotient, `EngineUse`, turns
one into the other: with eight shards side by side a shard's second is an eighth of an engine-second.

Busy time is the union of the spans in which shards were generated, added up as they end: each adds what lies between
the end before and its own, but not more than its own span, so that time in which nothing ran is not counted.

Sums decay, so that a speed is an average of which the latest weighs most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Row, Select, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from orchestrator import database
from orchestrator.audio_spec import shape_of as audio_shape
from orchestrator.dataset_spec import shape_of as dataset_shape
from orchestrator.image_spec import shape_of as image_shape
from orchestrator.lifecycle import ShardStatus
from orchestrator.spec import JobSpec
from orchestrator.table_spec import shape_of as table_shape
from orchestrator.tables import Base, EngineUse, Job, JobSpeed, Shard, Speed
from orchestrator.train_spec import training_shape

JobSelect = TypeVar("JobSelect", bound=Select[*tuple[Any, ...]])

TARGET_SECONDS = 60.0
"""What a shard should take, as shards run."""
RECUT_FACTOR = 3
"""A shard that would take so many times the target is cut again before it is offered."""
MIN_SHARD_ITEMS = 16
"""However slow a model is. Items of a shard run side by side, so a smaller shard need not be a shorter one: cut by time
alone, shards of an engine with long outputs would shrink until it had nothing left to batch."""
MAX_SHARD_ITEMS = 20_000
"""However fast a model is: a worker holds the items of a shard in memory."""
ENOUGH_SHARDS = 3
"""From so many on, a job's own speed is better known than that of other jobs of its kind."""
UNKNOWN_SECONDS = 10.0
"""Engine-seconds of a shard of which nothing is known: the target, with some shards side by side."""
_KEPT = 0.95
"""What a shard leaves of the sums before it: about the last twenty count."""
_HALF_LIFE_SECONDS = 600.0
"""Busy time after which a model's use counts half. By time, as shards often end in bunches."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The speed of a job, as far as it is known."""

    per_item: float | None
    """Seconds of a shard, as shards run, for an item; None where nothing is known."""
    overlap: float
    """Engine-seconds for a second of a shard: 1 where shards run one by one."""
    own_shards: int
    """Shards of the job that were measured."""

    def shard_items(self) -> int | None:
        """Items that take the target; None where nothing is known."""
        return None if self.per_item is None else items_in(TARGET_SECONDS, self.per_item)

    def engine_seconds(self, items: float) -> float | None:
        """What so many items take of the engines; None where nothing is known."""
        return None if self.per_item is None else items * self.per_item * self.overlap


def items_in(seconds: float, per_item: float) -> int:
    """Items that take so long, within the bounds of a shard."""
    return max(MIN_SHARD_ITEMS, min(MAX_SHARD_ITEMS, int(seconds / per_item)))


def shape_of(spec: JobSpec) -> str:
    """What kind of work a job's items are: jobs of one model and shape are taken to be equally fast."""
    if spec.kind == "image":
        return image_shape(spec, spec.n)
    if spec.kind == "audio":
        return audio_shape(spec)
    if spec.kind == "train":
        return training_shape(spec)
    if spec.table is not None:
        return table_shape(spec.table)
    if spec.kind == "dataset":
        return dataset_shape(spec, spec.sampling.max_tokens)
    return _text_shape(spec)


def _text_shape(spec: JobSpec) -> str:
    if spec.requests is not None:
        return "requests"  # which differ from line to line: its own shards soon tell more
    tokens = 1 << (spec.sampling.max_tokens - 1).bit_length()
    shape = f"{spec.n} x {tokens} tokens"
    if spec.max_tokens_field is not None:
        shape += " at most"
    if spec.output_schema is not None:
        shape += ", schema"
    if spec.adapter is not None:
        shape += ", adapter"
    if spec.options is not None:
        shape += f", delay {spec.options.delay_ms:g}"
    return shape


def prepare(engine: Engine, job_id: str, spec: JobSpec) -> int | None:
    """Note a job's shape, so that its shards are measured; the size of a shard, where jobs like it were measured."""

    def work(connection: Connection) -> int | None:
        shape = shape_of(spec)
        # A planner that was taken over may have been here, or still be: one after the other.
        connection.execute(select(Job.id).where(Job.id == job_id).with_for_update())
        connection.execute(delete(JobSpeed).where(JobSpeed.job_id == job_id))
        connection.execute(insert(JobSpeed).values(job_id=job_id, shape=shape, shards=0, items=0.0, seconds=0.0))
        known = connection.execute(
            select(Speed.items, Speed.seconds).where(
                Speed.model == spec.model, Speed.engine == spec.engine, Speed.shape == shape
            )
        ).first()
        return None if known is None else items_in(TARGET_SECONDS, known.seconds / known.items)

    return database.write(engine, work)


def record(connection: Connection, job_id: str, *, items: int, seconds: float, now: float) -> None:
    """Measure a shard that was just done, in the transaction that made it so.

    A job that was planned before there were speeds is not measured.

    Args:
        connection: Holds the shard's lock.
        job_id: The shard's job.
        items: How many were generated, not carried over.
        seconds: How long that took; 0 for a shard whose part was found and not generated.
        now: Seconds since the epoch.
    """
    if items <= 0 or seconds <= 0:
        return
    job = connection.execute(
        select(Job.model, Job.engine, JobSpeed.shape).join(JobSpeed, JobSpeed.job_id == Job.id).where(Job.id == job_id)
    ).first()
    if job is None:
        return
    connection.execute(
        update(JobSpeed)
        .where(JobSpeed.job_id == job_id)
        .values(
            shards=JobSpeed.shards + 1,
            items=JobSpeed.items * _KEPT + items,
            seconds=JobSpeed.seconds * _KEPT + seconds,
        )
    )
    kind = {"model": job.model, "engine": job.engine, "shape": job.shape}
    _insert_if_absent(connection, Speed, {**kind, "items": 0.0, "seconds": 0.0})
    connection.execute(
        update(Speed)
        .filter_by(**kind)
        .values(items=Speed.items * _KEPT + items, seconds=Speed.seconds * _KEPT + seconds)
    )
    _use(connection, job.model, job.engine, seconds, now)


def _use(connection: Connection, model: str, engine: str, seconds: float, now: float) -> None:
    this = {"model": model, "engine": engine}
    # As if the engine had begun with this very shard.
    began = {"busy_seconds": 0.0, "shard_seconds": 0.0, "ended_at": now - seconds}
    _insert_if_absent(connection, EngineUse, {**this, **began})
    row = connection.execute(
        select(EngineUse.busy_seconds, EngineUse.shard_seconds, EngineUse.ended_at).filter_by(**this).with_for_update()
    ).one()
    busy = min(seconds, max(0.0, now - row.ended_at))
    kept = 0.5 ** (busy / _HALF_LIFE_SECONDS)
    connection.execute(
        update(EngineUse)
        .filter_by(**this)
        .values(
            busy_seconds=row.busy_seconds * kept + busy,
            shard_seconds=row.shard_seconds * kept + seconds,
            ended_at=max(now, row.ended_at),
        )
    )


def _insert_if_absent(connection: Connection, table: type[Base], values: dict[str, Any]) -> None:
    """Two control workers may both be the first to measure something."""
    dialect = {"postgresql": postgresql, "sqlite": sqlite}[connection.dialect.name]
    connection.execute(dialect.insert(table).values(**values).on_conflict_do_nothing())


COLUMNS = (
    JobSpeed.shards.label("own_shards"),
    JobSpeed.items.label("own_items"),
    JobSpeed.seconds.label("own_seconds"),
    Speed.items.label("like_items"),
    Speed.seconds.label("like_seconds"),
    EngineUse.busy_seconds,
    EngineUse.shard_seconds,
)
"""What `measured` reads, of a select of jobs with `joined`."""


def joined(jobs: JobSelect) -> JobSelect:
    """The select with the tables of `COLUMNS` beside each job."""
    return (
        jobs.outerjoin(JobSpeed, JobSpeed.job_id == Job.id)
        .outerjoin(Speed, (Speed.model == Job.model) & (Speed.engine == Job.engine) & (Speed.shape == JobSpeed.shape))
        .outerjoin(EngineUse, (EngineUse.model == Job.model) & (EngineUse.engine == Job.engine))
    )


def measured(row: Row[*tuple[Any, ...]]) -> Measured:
    """The speed of a job, from its row: its own once it has run for a little, before that what jobs like it had."""
    shards = row.own_shards or 0
    per_item = None
    if shards and (shards >= ENOUGH_SHARDS or not row.like_items):
        per_item = row.own_seconds / row.own_items
    elif row.like_items:
        per_item = row.like_seconds / row.like_items
    overlap = min(1.0, row.busy_seconds / row.shard_seconds) if row.shard_seconds else 1.0
    return Measured(per_item, overlap, shards)


def slowest_running(connection: Connection, job_id: str) -> float | None:
    """Seconds for an item of running shards that take much longer than any should; None where none does.

    It is how a job whose first shards were cut far too large is found out before any of them has ended.
    """
    rows = connection.execute(running_long(job_id)).all()
    return max((row.generate_seconds / max(1, row.done) for row in rows), default=None)


def running_long(job_id: str) -> Select[float, int]:
    """Running shards of a job that have taken too long already."""
    return select(Shard.generate_seconds, (Shard.ok + Shard.failed).label("done")).where(
        Shard.status == ShardStatus.RUNNING.value,
        Shard.job_id == job_id,
        Shard.generate_seconds > RECUT_FACTOR * TARGET_SECONDS,
    )
