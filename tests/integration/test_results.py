"""Results in item order, once each, while a job runs and after, on both kinds of store."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from sqlalchemy import Engine

from models.errors import FailureKind
from orchestrator import claims, results
from orchestrator.claims import NewShard
from orchestrator.finalize import Finaliser
from orchestrator.jobs import Jobs, UnknownJobError
from orchestrator.spec import parse_job
from tests.support.clocks import ManualClock
from tests.support.shards import (
    Outbox,
    apply,
    execution_id,
    failure,
    finish_all,
    finished,
    partial_of,
    planned_job,
    report,
    take,
)
from workers.contracts import ByteRange, ShardTask
from workers.store import MissingObjectError, ObjectStore, open_store


@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_what_an_interrupted_shard_had_is_read_and_the_rest_spelt_out(
    engine: Engine, clock: ManualClock, folder_url: str, end: str
) -> None:
    reader = Reader(engine, clock, open_store(folder_url))
    job = planned_job(engine, clock, shards=2, size=4, deadline="1h")
    first, second = take(engine, job, clock)
    reader.finish(second)
    execution = execution_id()
    apply(engine, clock, report(first, "started", execution))
    clock.advance(3600)
    if end == "cancelled":
        reader.jobs.cancel(job)
    reader.end()
    kept = partial_of(first, execution, [0, 2], store=reader.store)
    apply(engine, clock, report(first, "handed_back", execution, part=kept))
    reader.end()
    expected = ["ok", end, "ok", end, "ok", "ok", "ok", "ok"]
    assert [record["status"] for record in reader.streamed(job)] == expected
    records = reader.paged(job, 3)
    assert [record["status"] for record in records] == expected
    assert [record["index"] for record in records] == list(range(8))
    counts = reader.jobs.get(job).to_json()["counts"]
    assert (counts["ok"], counts[end]) == (6, 2)


class Reader:
    def __init__(self, engine: Engine, clock: ManualClock, store: ObjectStore) -> None:
        self.engine = engine
        self.clock = clock
        self.store = store
        self.jobs = Jobs(engine, clock)

    def finish(self, task: ShardTask, **fields: Any) -> None:
        execution = execution_id()
        said = finished(task, execution, store=self.store, **fields)
        apply(self.engine, self.clock, report(task, "started", execution), said)

    def end(self) -> None:
        Finaliser(self.engine, self.store, Outbox(), clock=self.clock).step()

    def streamed(self, job: str) -> list[Any]:
        return [orjson.loads(line) for line in b"".join(results.stream(self.store, self.jobs, job)).splitlines()]

    def paged(self, job: str, limit: int, *, errors: bool = False) -> list[Any]:
        read = results.errors if errors else results.read
        records: list[Any] = []
        after = None
        while True:
            page = read(self.store, self.jobs, job, after=after, limit=limit)
            records += [orjson.loads(line) for line in page.records]
            if page.next_after is None or page.done:
                return records
            after = page.next_after


@pytest.fixture
def reader(engine: Engine, clock: ManualClock, folder_url: str) -> Reader:
    return Reader(engine, clock, open_store(folder_url))


@pytest.mark.parametrize("kind", ["folder_url", "s3_url"])
def test_a_finished_job_reads_the_same_in_pages_and_as_a_stream(
    engine: Engine, clock: ManualClock, request: pytest.FixtureRequest, kind: str
) -> None:
    reader = Reader(engine, clock, open_store(request.getfixturevalue(kind)))
    job = planned_job(engine, clock, shards=4, size=3)
    finish_all(engine, clock, job, failed=[5], store=reader.store)
    reader.end()
    everything = reader.streamed(job)
    assert [record["index"] for record in everything] == list(range(12))
    assert [record["status"] for record in everything].count("failed") == 1
    for limit in (1, 4, 12, 100):
        assert reader.paged(job, limit) == everything


def test_a_page_begins_after_any_item(reader: Reader) -> None:
    job = planned_job(reader.engine, reader.clock, shards=3, size=4)
    finish_all(reader.engine, reader.clock, job, store=reader.store)
    for after in range(-1, 12):
        page = results.read(reader.store, reader.jobs, job, after=after, limit=3)
        assert [orjson.loads(line)["index"] for line in page.records] == list(range(after + 1, 12))[:3]


def test_while_a_job_runs_the_finished_beginning_can_be_read(reader: Reader) -> None:
    job = planned_job(reader.engine, reader.clock, shards=3, size=2)
    first, second, third = take(reader.engine, job, reader.clock)
    reader.finish(third)
    page = results.read(reader.store, reader.jobs, job)
    assert (page.records, page.next_after, page.done) == ([], None, False)
    reader.finish(first)
    page = results.read(reader.store, reader.jobs, job)
    assert ([orjson.loads(line)["index"] for line in page.records], page.next_after, page.done) == ([0, 1], 1, False)
    reader.finish(second)
    page = results.read(reader.store, reader.jobs, job, after=1)
    assert ([orjson.loads(line)["index"] for line in page.records], page.next_after) == ([2, 3, 4, 5], 5)
    reader.end()
    page = results.read(reader.store, reader.jobs, job, after=5)
    assert (page.records, page.next_after, page.done) == ([], None, True)


def test_a_full_page_says_whether_something_follows(reader: Reader) -> None:
    job = planned_job(reader.engine, reader.clock, shards=2, size=2)
    finish_all(reader.engine, reader.clock, job, store=reader.store)
    reader.end()
    assert not results.read(reader.store, reader.jobs, job, limit=3).done
    assert results.read(reader.store, reader.jobs, job, limit=4).done


def test_a_job_that_is_still_validated_has_no_results(reader: Reader) -> None:
    job = reader.jobs.create(parse_job({"kind": "echo", "prompt": "x", "source": {"count": 3}})).id
    page = results.read(reader.store, reader.jobs, job)
    assert (page.records, page.done) == ([], False)
    assert reader.streamed(job) == []


def test_an_unknown_job_is_said_to_be_unknown(reader: Reader) -> None:
    with pytest.raises(UnknownJobError):
        results.read(reader.store, reader.jobs, "nothing")
    with pytest.raises(UnknownJobError):
        list(results.stream(reader.store, reader.jobs, "nothing"))


def test_items_that_were_never_run_are_spelt_out(reader: Reader) -> None:
    job = planned_job(reader.engine, reader.clock, shards=3, size=2)
    first, second = take(reader.engine, job, reader.clock, limit=2)
    reader.finish(first)
    execution = execution_id()
    gone = report(second, "failed", execution, failure=failure(FailureKind.ITEM, "source_changed"))
    apply(reader.engine, reader.clock, report(second, "started", execution), gone)
    reader.jobs.cancel(job)
    reader.end()
    records = reader.streamed(job)
    assert [(record["index"], record["status"]) for record in records] == [
        (0, "ok"),
        (1, "ok"),
        (2, "failed"),
        (3, "failed"),
        (4, "cancelled"),
        (5, "cancelled"),
    ]
    assert records[3]["error"] == {"code": "source_changed", "message": "it broke"}
    assert records[3]["attempts"] == 1
    assert records[4] == {
        "index": 4,
        "status": "cancelled",
        "error": {"code": "cancelled", "message": "the job was cancelled before this item was done"},
        "attempts": 0,
        "schema_version": 1,
    }
    assert reader.paged(job, 2) == records


def test_expired_items_say_so(reader: Reader) -> None:
    job = planned_job(reader.engine, reader.clock, shards=1, size=2, deadline="1h")
    reader.clock.advance(3600)
    reader.end()
    assert [(record["status"], record["error"]["code"]) for record in reader.streamed(job)] == [
        ("expired", "expired")
    ] * 2


def test_errors_are_the_failed_records_alone(reader: Reader) -> None:
    job = planned_job(reader.engine, reader.clock, shards=4, size=3)
    tasks = take(reader.engine, job, reader.clock)
    reader.finish(tasks[0], failed=[0, 2])
    reader.finish(tasks[1])
    reader.finish(tasks[2], failed=[7])
    execution = execution_id()
    gone = report(tasks[3], "failed", execution, failure=failure(FailureKind.ITEM, "source_changed"))
    apply(reader.engine, reader.clock, report(tasks[3], "started", execution), gone)
    reader.end()
    for limit in (1, 2, 100):
        failed = reader.paged(job, limit, errors=True)
        assert [record["index"] for record in failed] == [0, 2, 7, 9, 10, 11]
        assert {record["status"] for record in failed} == {"failed"}


def test_a_text_that_speaks_of_failure_is_no_error(reader: Reader) -> None:
    job = planned_job(reader.engine, reader.clock, shards=1, size=2)
    [task] = take(reader.engine, job, reader.clock)
    execution = execution_id()
    said = finished(task, execution, failed=[1])
    assert said.part is not None
    lines = [
        b'{"index":0,"status":"ok","output":{"status":"failed"},"attempts":1,"schema_version":1}',
        b'{"index":1,"status":"failed","error":{"code":"c","message":"m"},"attempts":1,"schema_version":1}',
    ]
    reader.store.put(said.part.key, b"\n".join([*lines, b""]))
    apply(reader.engine, reader.clock, report(task, "started", execution), said)
    reader.end()
    assert [record["index"] for record in reader.paged(job, 10, errors=True)] == [1]


def csv_job(reader: Reader, data: bytes, *, grid: dict[str, list[str]] | None = None) -> str:
    """A job over a CSV object with ids, planned as one shard."""
    reader.store.put("inputs/x/p.csv", data)
    rows = data.count(b"\n") - 1
    header = data.index(b"\n") + 1
    source: dict[str, Any] = {"file": "nightmill://inputs/x/p.csv"}
    spec = parse_job(
        {
            "kind": "echo",
            "prompt": "{{ name }}",
            "source": source | ({"grid": grid} if grid else {}),
            "keep": ["name", *(grid or {})],
        }
    )
    job = reader.jobs.create(spec).id
    [seen] = claims.waiting(reader.engine)
    claims.claim(reader.engine, seen, "planner")
    span = ByteRange(
        uri="inputs/x/p.csv",
        etag=None,
        format="csv",
        offset=header,
        length=len(data) - header,
        columns=("sku", "name"),
    )
    items = rows * spec.source.grid_size
    claims.finish(
        reader.engine,
        job,
        "planner",
        work=msgspec.json.encode(spec.work("sku")).decode(),
        items=items,
        shard_count=1,
        last=[NewShard(0, 0, items, msgspec.json.encode(span).decode())],
        now=reader.clock(),
    )
    reader.jobs.cancel(job)
    reader.end()
    return job


def test_records_that_are_spelt_out_have_their_ids_and_kept_fields(reader: Reader) -> None:
    job = csv_job(reader, b"sku,name\na1,tent\na2,stove\n")
    records = reader.streamed(job)
    assert [(record["custom_id"], record["input"]) for record in records] == [
        ("a1", {"name": "tent"}),
        ("a2", {"name": "stove"}),
    ]
    page = results.read(reader.store, reader.jobs, job, after=0)
    assert [orjson.loads(line)["custom_id"] for line in page.records] == ["a2"]


def test_a_grid_counts_in_the_ids_that_are_spelt_out(reader: Reader) -> None:
    job = csv_job(reader, b"sku,name\na1,tent\na2,stove\n", grid={"tone": ["warm", "bold"]})
    assert [(record["custom_id"], record["input"]["tone"]) for record in reader.streamed(job)] == [
        ("a1/0", "warm"),
        ("a1/1", "bold"),
        ("a2/0", "warm"),
        ("a2/1", "bold"),
    ]


def test_a_source_that_is_gone_costs_the_ids_and_not_the_records(reader: Reader) -> None:
    job = csv_job(reader, b"sku,name\na1,tent\na2,stove\n")
    reader.store.delete("inputs/x/p.csv")
    records = reader.streamed(job)
    assert [record["index"] for record in records] == [0, 1]
    assert all("custom_id" not in record for record in records)


def test_a_part_that_the_store_lost_is_an_error_and_not_a_gap(reader: Reader) -> None:
    job = planned_job(reader.engine, reader.clock, shards=1)
    finish_all(reader.engine, reader.clock, job)
    with pytest.raises(MissingObjectError):
        results.read(reader.store, reader.jobs, job)


def test_a_page_that_stops_early_leaves_nothing_open(reader: Reader) -> None:
    """An unclosed file would be a ResourceWarning, and warnings are errors."""
    job = planned_job(reader.engine, reader.clock, shards=2, size=2)
    finish_all(reader.engine, reader.clock, job, store=reader.store)
    assert len(results.read(reader.store, reader.jobs, job, limit=1).records) == 1


def test_a_retry_that_begins_under_a_reader_ends_the_stream_and_invents_nothing(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned_job(reader.engine, reader.clock, shards=3, size=2)
    finish_all(reader.engine, reader.clock, job, failed=[3], store=reader.store)
    reader.end()
    look = results._look

    def meddle(*arguments: Any) -> Any:
        found = look(*arguments)
        reader.jobs.retry(job)
        return found

    monkeypatch.setattr(results, "_look", meddle)
    assert [record["index"] for record in reader.streamed(job)] == [0, 1]
