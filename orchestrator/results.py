"""A job's records in item order, once each, while it runs and after.

A finished job is not copied: its result file is its parts, read one after the other. While it runs, what can be read is
the run of finished shards from the first item on; of a job whose records may still be drawn again, or held back,
nothing before that is decided. Items that were never run are spelt out.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import msgspec
from sqlalchemy import Row, Select, func, or_, select

from orchestrator import database
from orchestrator.findings import decode_passes
from orchestrator.flow_results import joined, lines_of, node_jobs
from orchestrator.jobs import Jobs, UnknownJobError
from orchestrator.lifecycle import JOB_TERMINAL, SHARD_OPEN, JobStatus, ShardStatus
from orchestrator.tables import Job, Shard
from orchestrator.unrun import UnrunShard, spell_out
from workers.contracts import Work
from workers.store import ObjectStore

MAX_PAGE = 10_000
_SHARDS_AT_ONCE = 100
_CHUNK = 1 << 20
_JOINED_AT_ONCE = 1000
"""Records of each node of a flow that are joined at a time."""
_OPEN = [status.value for status in sorted(SHARD_OPEN)]


@dataclass(frozen=True, slots=True)
class Page:
    """Some records of a job."""

    records: list[bytes]
    """One JSON record each, without a newline, in item order."""
    next_after: int | None
    """To be given as `after` for the page that follows; None where this one is empty."""
    done: bool
    """Nothing follows, now or later."""


class _Outline(msgspec.Struct):
    """As much of a record as it takes to know how its item ended."""

    status: str


_outlines = msgspec.json.Decoder(_Outline)


def read(store: ObjectStore, jobs: Jobs, job_id: str, *, after: int | None = None, limit: int = 100) -> Page:
    """At most `limit` records that come after item `after` (from the first one, where that is None).

    Raises:
        UnknownJobError: there is no such job.
        StoreError: the store cannot be reached, or lost a part.
    """
    nodes = node_jobs(jobs, job_id)
    if nodes:
        return _joined_page(store, jobs, nodes, after=after, limit=limit)
    return _page(store, jobs, job_id, after=after, limit=limit, failed_only=False)


def errors(store: ObjectStore, jobs: Jobs, job_id: str, *, after: int | None = None, limit: int = 100) -> Page:
    """As `read`, but only records of items that failed."""
    nodes = node_jobs(jobs, job_id)
    if nodes:
        return _joined_errors(store, jobs, nodes, after=after, limit=limit)
    return _page(store, jobs, job_id, after=after, limit=limit, failed_only=True)


def stream(store: ObjectStore, jobs: Jobs, job_id: str) -> Iterator[bytes]:
    """Every record that can be read, as chunks of a JSONL file: whole parts, as they lie in the store.

    Raises:
        UnknownJobError: there is no such job.
        StoreError: the store cannot be reached, or lost a part.
    """
    nodes = node_jobs(jobs, job_id)
    if nodes:
        yield from _joined_stream(store, jobs, nodes)
        return
    view = _look(jobs, job_id)
    for row in _shards(jobs, view, start=0, failed_only=False):
        if row.status == ShardStatus.DONE.value:
            yield from store.stream(row.part_key, chunk=_CHUNK)
        else:
            waiting: list[bytes] = []
            size = 0
            for line in spell_out(_unrun(row), view.work, store, row.first):
                waiting.append(line)
                size += len(line)
                if size >= _CHUNK:
                    yield b"\n".join([*waiting, b""])
                    waiting, size = [], 0
            if waiting:
                yield b"\n".join([*waiting, b""])


@dataclass(frozen=True, slots=True)
class _View:
    """A job, and how far it can be read."""

    job: str
    ended: bool
    work: Work
    end: int
    """Items below this have their record."""


def _look(jobs: Jobs, job_id: str) -> _View:
    with database.reading(jobs.engine) as connection:
        columns = (Job.status, Job.work, Job.items, Job.passes, Job.pass_at)
        row = connection.execute(select(*columns).where(Job.id == job_id)).first()
        if row is None:
            raise UnknownJobError(job_id)
        ended = JobStatus(row.status) in JOB_TERMINAL
        if row.work is None:
            return _View(job_id, ended, Work(model="", engine="", messages=(), sampling={}, seed=0), 0)
        first_open = connection.execute(first_open_item(job_id)).scalar()
    if not ended and row.passes is not None and decode_passes(row.passes).may_change(row.pass_at):
        first_open = 0
    return _View(
        job_id, ended, msgspec.json.decode(row.work, type=Work), row.items if first_open is None else first_open
    )


def first_open_item(job_id: str) -> Select[int | None]:
    """The first item of a job that has no record yet."""
    return select(func.min(Shard.first)).where(Shard.job_id == job_id, Shard.status.in_(_OPEN))


def shards_from(
    job_id: str, start: int, end: int
) -> Select[int, int, str, str, int, int, str | None, str | None, str | None]:
    """The shards that hold items `start` to `end`, a page of them, in order."""
    holds_start = select(func.max(Shard.first)).where(Shard.job_id == job_id, Shard.first <= start).scalar_subquery()
    return (
        select(
            Shard.first,
            Shard.count.label("items"),  # a row has a method `count`
            Shard.status,
            Shard.source,
            Shard.skip,
            Shard.attempts,
            Shard.error_code,
            Shard.error_message,
            Shard.part_key,
        )
        .where(Shard.job_id == job_id, Shard.first >= holds_start, Shard.first < end)
        .order_by(Shard.first)
        .limit(_SHARDS_AT_ONCE)
    )


def _shards(jobs: Jobs, view: _View, *, start: int, failed_only: bool) -> Iterator[Row]:  # type: ignore[type-arg]
    while start < view.end:
        statement = shards_from(view.job, start, view.end)
        if failed_only:
            statement = statement.where(or_(Shard.part_failed > 0, Shard.status == ShardStatus.FAILED.value))
        with database.reading(jobs.engine) as connection:
            rows = connection.execute(statement).all()
        for row in rows:
            if row.status in _OPEN:
                return  # a retry has begun since we looked
            yield row
        if not rows:
            return
        start = rows[-1].first + rows[-1].items


def _page(store: ObjectStore, jobs: Jobs, job_id: str, *, after: int | None, limit: int, failed_only: bool) -> Page:
    start = 0 if after is None else after + 1
    limit = min(limit, MAX_PAGE)
    view = _look(jobs, job_id)
    records: list[bytes] = []
    last: int | None = None
    for row in _shards(jobs, view, start=start, failed_only=failed_only):
        first = max(start, row.first)
        with closing(_lines(store, view, row, first)) as lines:
            for index, line in enumerate(lines, first):
                if failed_only and not _failed(line):
                    continue
                if len(records) == limit:
                    return Page(records, last, done=False)
                records.append(line)
                last = index
    return Page(records, last, done=view.ended)


def _joined_page(store: ObjectStore, jobs: Jobs, nodes: Mapping[str, str], *, after: int | None, limit: int) -> Page:
    """A page of a flow: as far as every node can be read."""
    pages = {name: _page(store, jobs, job, after=after, limit=limit, failed_only=False) for name, job in nodes.items()}
    records = joined({name: page.records for name, page in pages.items()})
    start = 0 if after is None else after + 1
    done = all(page.done and len(page.records) == len(records) for page in pages.values())
    return Page(records, start + len(records) - 1 if records else None, done=done)


def _joined_errors(store: ObjectStore, jobs: Jobs, nodes: Mapping[str, str], *, after: int | None, limit: int) -> Page:
    found: list[bytes] = []
    last: int | None = None
    while True:
        page = _joined_page(store, jobs, nodes, after=after, limit=MAX_PAGE)
        for index, line in enumerate(page.records, 0 if after is None else after + 1):
            if _failed(line):
                if len(found) == limit:
                    return Page(found, last, done=False)
                found.append(line)
                last = index
        if page.next_after is None or page.done:
            return Page(found, last, done=page.done)
        after = page.next_after


def _joined_stream(store: ObjectStore, jobs: Jobs, nodes: Mapping[str, str]) -> Iterator[bytes]:
    streams = {name: lines_of(stream(store, jobs, job)) for name, job in nodes.items()}
    while lines := joined({name: list(islice(own, _JOINED_AT_ONCE)) for name, own in streams.items()}):
        yield b"\n".join([*lines, b""])


def _failed(line: bytes) -> bool:
    # The search alone settles nearly every line.
    return b'"failed"' in line and _outlines.decode(line).status == "failed"


def _lines(store: ObjectStore, view: _View, row: Row, start: int) -> Generator[bytes, None, None]:  # type: ignore[type-arg]
    """Records of one shard from item `start` on, without their newlines."""
    if row.status != ShardStatus.DONE.value:
        yield from spell_out(_unrun(row), view.work, store, start)
        return
    skip = start - row.first
    rest = b""
    with closing(_chunks(store, row.part_key)) as chunks:
        for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines[skip:]
            skip = max(0, skip - len(lines))


def _chunks(store: ObjectStore, key: str) -> Generator[bytes, None, None]:
    """A part as a stream that can be closed half read, which lets go of its file or connection."""
    yield from store.stream(key)


def _unrun(row: Row) -> UnrunShard:  # type: ignore[type-arg]
    return UnrunShard(
        first=row.first,
        count=row.items,
        status=ShardStatus(row.status),
        source=row.source,
        skip=row.skip,
        part_key=row.part_key,
        attempts=row.attempts,
        error_code=row.error_code,
        error_message=row.error_message,
    )
