"""Planned jobs, reports and parts, made directly: what planner and workers would have made."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Any

import msgspec
from sqlalchemy import Engine, Row, select
from ulid import ULID

from models.errors import FailureKind
from models.spec import ItemError, Usage
from orchestrator import claims, database, dispatch, reports
from orchestrator.jobs import Jobs
from orchestrator.reports import Applied
from orchestrator.spec import JobSpec, parse_job
from orchestrator.tables import Shard
from workers.broker import BrokerError
from workers.contracts import (
    CountRange,
    Counts,
    Directive,
    Failure,
    Part,
    ShardReport,
    ShardTask,
    Timings,
    decode,
    encode,
)
from workers.keys import part_key, partial_key
from workers.records import Record, describe_part, encode_record
from workers.store import ObjectStore

_sequences = count(1)


def echo_spec(*, items: int = 6, **fields: Any) -> JobSpec:
    return parse_job({"kind": "echo", "prompt": "say {{ index }}", "source": {"count": items}, **fields})


def planned_job(
    engine: Engine,
    clock: Callable[[], float],
    *,
    shards: int = 3,
    size: int = 2,
    tenant: str = "default",
    **fields: Any,
) -> str:
    """A job in progress with `shards` queued shards of `size` items each; its id."""
    spec = echo_spec(items=shards * size, **fields)
    job = Jobs(engine, clock).create(spec, tenant=tenant)
    [seen] = [waiting for waiting in claims.waiting(engine) if waiting.job == job.id]
    assert claims.claim(engine, seen, "planner")
    assert claims.finish(
        engine,
        job.id,
        "planner",
        work=msgspec.json.encode(spec.work(None)).decode(),
        items=shards * size,
        shard_count=shards,
        last=new_shards(shards, size),
        now=clock(),
    )
    return job.id


def new_shards(shards: int, size: int, first: int = 0) -> Sequence[claims.NewShard]:
    return [
        claims.NewShard(
            number,
            number * size,
            size,
            msgspec.json.encode(CountRange(start=number * size, count=size)).decode(),
        )
        for number in range(first, first + shards)
    ]


def take(engine: Engine, job: str, clock: Callable[[], float], limit: int = 100) -> list[ShardTask]:
    """Dispatch shards of a job; their messages, after a way over the wire."""
    return [decode(encode(task), ShardTask) for task in dispatch.take(engine, job, limit, now=clock())]


def execution_id() -> str:
    return str(ULID())


def report(task: ShardTask, event: Any, execution: str, **fields: Any) -> ShardReport:
    """A report, after a way over the wire; each has a higher sequence than any before."""
    fields.setdefault("sequence", next(_sequences))
    made = ShardReport(
        job=task.job, shard=task.shard, token=task.token, execution=execution, worker="host:1", event=event, **fields
    )
    return decode(encode(made), ShardReport)


def failure(kind: FailureKind = FailureKind.ENGINE, code: str = "engine_died") -> Failure:
    return Failure(kind, code, "it broke")


def part_of(task: ShardTask, execution: str, *, failed: Collection[int] = ()) -> tuple[Part, bytes]:
    """A whole part of a shard, and its bytes; items of the indexes in `failed` have failed."""
    lines = []
    for index in range(task.first, task.first + task.count):
        if index in failed:
            record = Record(index=index, status="failed", error=ItemError("bad", "it cannot be answered"))
        else:
            record = Record(index=index, status="ok", output=f"say {index}", usage=Usage(2, 3))
        lines.append(encode_record(record) + b"\n")
    data = b"".join(lines)
    bad = len(set(failed) & set(range(task.first, task.first + task.count)))
    good = task.count - bad
    key = part_key(task.job, task.shard, task.token, execution)
    return describe_part(key, data, Counts(good, bad), Usage(2 * good, 3 * good)), data


def partial_of(task: ShardTask, execution: str, ended: Collection[int], *, store: ObjectStore | None = None) -> Part:
    """What an execution leaves that is interrupted when these items have ended; written where a store is given."""
    records = [Record(index=index, status="ok", output=f"say {index}", usage=Usage(2, 3)) for index in sorted(ended)]
    data = b"".join(encode_record(record) + b"\n" for record in records)
    key = partial_key(task.job, task.shard, task.token, execution)
    if store is not None:
        store.put(key, data)
    return describe_part(key, data, Counts(len(ended), 0), Usage(2 * len(ended), 3 * len(ended)))


def finished(
    task: ShardTask, execution: str, *, failed: Collection[int] = (), store: ObjectStore | None = None
) -> ShardReport:
    """The report of a finished shard; the part is written where a store is given."""
    part, data = part_of(task, execution, failed=failed)
    if store is not None:
        store.put(part.key, data)
    return report(
        task,
        "finished",
        execution,
        part=part,
        counts=part.counts,
        usage=part.usage,
        timings=Timings(load=1.0, read=0.25, generate=2.0, write=0.5),
        phase="writing",
    )


def apply(engine: Engine, clock: Callable[[], float], *batch: ShardReport) -> Applied:
    """What the control worker does with a message."""
    return reports.apply(engine, batch, now=clock(), chance=random.Random(3))


def finish_all(
    engine: Engine,
    clock: Callable[[], float],
    job: str,
    *,
    failed: Collection[int] = (),
    store: ObjectStore | None = None,
) -> None:
    """Dispatch and finish every queued shard of a job."""
    for task in take(engine, job, clock):
        execution = execution_id()
        apply(
            engine,
            clock,
            report(task, "started", execution),
            finished(task, execution, failed=failed, store=store),
        )


def shard_row(engine: Engine, job: str, number: int = 0) -> Row[Any]:
    with database.reading(engine) as connection:
        return connection.execute(
            select(*Shard.__table__.columns).where(Shard.job_id == job, Shard.number == number)
        ).one()


def commands(directives: dict[str, Directive]) -> dict[str, str]:
    return {execution: directive.command for execution, directive in directives.items()}


class Outbox:
    """A broker that keeps what is published, as it looks after a way over the wire."""

    def __init__(self) -> None:
        self.broken = False
        """Whether everything fails, as it does where Redis is away."""
        self.shards: list[ShardTask] = []
        self.probes: list[tuple[str, int]] = []
        self.stopped: list[tuple[str, str]] = []
        self.forgotten: list[str] = []

    def shard(self, task: ShardTask) -> None:
        self._reach()
        self.shards.append(decode(encode(task), ShardTask))

    def probe(self, reaper: str, value: int) -> None:
        self._reach()
        self.probes.append((reaper, value))

    def stop_job(self, job: str, reason: str) -> None:
        self._reach()
        self.stopped.append((job, reason))

    def forget_stop(self, job: str) -> None:
        self._reach()
        self.forgotten.append(job)

    def _reach(self) -> None:
        if self.broken:
            raise BrokerError("Redis is away")
