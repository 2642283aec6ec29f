"""Jobs that sample linked tables: subjects out of another job, and out of nothing, to one file of rows."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select, update

from models.tabular.engine import TableRequest
from orchestrator import database
from orchestrator.cli.following import output_texts
from orchestrator.cli.previewing import some_rows, table_records
from orchestrator.cli.saving import save_job
from orchestrator.cli.text import describe
from orchestrator.client import ApiError
from orchestrator.collector import DAY_SECONDS, Collector
from orchestrator.settings import Settings
from orchestrator.spec import parse_job
from orchestrator.tables import Job, Shard
from tests.support.linked import ALONE, LINES, LONGEST, OF_ORDERS, OF_PEOPLE, ORDERS, Sequences, publish_orders
from tests.support.sampled import VERSION, Sampled, publish_sampled
from tests.support.studio import Studio
from workers.dataset_report.figures import Report
from workers.keys import source_tables_prefix, tables_prefix

JOB: dict[str, Any] = {"name": "orders", "kind": "tabular", "model": "orders", "seed": 3, "report": False}
PEOPLE: dict[str, Any] = {"name": "people", "model": "people", "table": {"rows": 350, "block": 100}}


@pytest.fixture
def studio(sqlite_url: str, store_url: str, redis_url: str) -> Iterator[Studio]:
    made = Studio(Settings(database_url=sqlite_url, store_url=store_url, redis_url=redis_url), JOB, Sampled)
    publish_sampled(made.services.store)
    publish_orders(made.services.store)
    with made.http:
        yield made


def run(studio: Studio, backend: Any, **fields: Any) -> str:
    studio.open_backend = lambda: backend
    job_id = studio.submit(**fields)
    studio.finish(job_id)
    return job_id


def people(studio: Studio, **table: Any) -> str:
    return run(studio, Sampled(), **{**PEOPLE, "table": {**PEOPLE["table"], **table}})


def rows_of(studio: Studio, job_id: str) -> pa.Table:
    return pq.read_table(io.BytesIO(b"".join(studio.client.content(job_id, "parquet"))))


def of_people(**made: Any) -> Sequences:
    return Sequences(OF_PEOPLE, ORDERS, **made)


def test_each_row_of_the_parent_has_its_sequence(studio: Studio, tmp_path: Path) -> None:
    parent = people(studio)
    job_id = run(studio, of_people(), table={"parent": parent})
    job, table, subjects = studio.client.job(job_id), rows_of(studio, job_id), rows_of(studio, parent)
    assert (job.status, job.items, job.counts.ok, job.parent) == ("completed", 4, 4, parent)
    assert job.rows == table.num_rows
    assert 0 < table.num_rows != subjects.num_rows

    cities = {row["key"]: row["city"] for row in subjects.to_pylist()}
    assert all(cities[row["person"]] == row["city"] for row in table.to_pylist())
    order = [row["person"] for row in table.to_pylist()]
    assert order == sorted(order)  # as the parent's rows are
    assert len(set(table["order"].to_pylist())) == table.num_rows
    lines = dict(describe(job))
    assert lines["rows"].startswith(f"{table.num_rows:,}")
    assert lines["parent"].startswith(parent)

    path = save_job(studio.client, job, tmp_path, None)
    assert pq.read_table(path).equals(table)
    records = [orjson.loads(line) for line in (tmp_path / "records.jsonl").read_bytes().splitlines()]
    assert [record["table"]["subjects"] for record in records] == [100, 100, 100, 50]
    assert sum(record["table"]["rows"] for record in records) == table.num_rows
    assert output_texts(records[3])[0].startswith(f"{records[3]['table']['rows']} rows of 50 subjects, ")
    cells = list(csv.DictReader(io.StringIO(b"".join(studio.client.content(job_id, "csv")).decode())))
    assert [int(row["person"]) for row in cells] == order


def test_rows_are_counted_as_their_shards_are_done(studio: Studio) -> None:
    parent = people(studio)
    studio.open_backend = of_people
    job_id = studio.submit(table={"parent": parent})
    studio.work()
    with database.reading(studio.services.engine) as connection:
        counted = connection.scalars(select(Shard.part_rows).where(Shard.job_id == job_id)).all()
        plain = connection.scalars(select(Shard.part_rows).where(Shard.job_id == parent)).all()
    assert sum(count or 0 for count in counted) == studio.client.job(job_id).rows == rows_of(studio, job_id).num_rows
    assert set(plain) == {None}


def test_rows_do_not_depend_on_the_shards(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = people(studio)
    table = {"parent": parent, "accept": {"rules": ["amount < 80"]}}
    first = run(studio, of_people(), table=table)
    monkeypatch.setattr("orchestrator.planning.TABLE_SHARD", 1)
    second = run(studio, of_people(), table=table)
    assert [studio.client.job(each).shard_count for each in (first, second)] == [1, 4]
    digests = [[record["table"]["sha256"] for record in studio.client.results(each).data] for each in (first, second)]
    assert digests[0] == digests[1]


def test_subjects_with_a_rejected_row_are_drawn_again(studio: Studio) -> None:
    parent = people(studio)
    job_id = run(studio, of_people(), table={"parent": parent, "accept": {"rules": ["amount < 70"], "candidates": 20}})
    job, table = studio.client.job(job_id), rows_of(studio, job_id)
    assert (job.status, job.counts.failed) == ("completed", 0)
    assert max(table["amount"].to_pylist()) < 70
    assert len(set(table["order"].to_pylist())) == table.num_rows
    record = studio.client.results(job_id).data[0]["table"]
    assert record["candidates"] > record["subjects"] == 100
    assert 0 < record["rejected"]["amount < 70"] == record["candidates"] - 100


def test_a_rule_that_lets_too_few_pass_says_so_and_a_retry_draws_the_block(studio: Studio) -> None:
    parent = people(studio)
    table = {"parent": parent, "accept": {"rules": ["amount < 50"], "candidates": 2}}
    job_id = run(studio, of_people(), table=table)
    job = studio.client.job(job_id)
    assert (job.status, job.counts.failed, job.rows) == ("completed", 4, 0)
    error = studio.client.errors(job_id).data[0]["error"]
    assert error["code"] == "candidates_exhausted"
    assert error["message"].startswith("200 sequences were drawn for 100 subjects, and ")
    assert "of the sequences amount < 50 rejected " in error["message"]
    studio.open_backend = lambda: of_people(amounts=50)
    studio.client.act(job_id, "retry")
    studio.finish(job_id)
    job, made = studio.client.job(job_id), rows_of(studio, job_id)
    assert (job.counts.failed, job.rows) == (0, made.num_rows)
    assert len(set(made["order"].to_pylist())) == made.num_rows


def test_subjects_are_made_where_there_is_no_parent(studio: Studio) -> None:
    rules = {"rules": ["amount < 70"], "candidates": 20}
    job_id = run(
        studio, Sequences(ALONE, ORDERS), model="visits", table={"subjects": 250, "block": 100, "accept": rules}
    )
    job, table = studio.client.job(job_id), rows_of(studio, job_id)
    assert (job.status, job.items, job.counts.ok, job.parent) == ("completed", 3, 3, None)
    assert set(table["person"].to_pylist()) <= set(range(250))
    assert len(set(table["order"].to_pylist())) == table.num_rows == job.rows
    assert [record["table"]["subjects"] for record in studio.client.results(job_id).data] == [100, 100, 50]


def test_rows_of_a_linked_table_have_sequences_of_their_own(studio: Studio) -> None:
    orders = run(studio, of_people(), table={"parent": people(studio)})
    rules = {"rules": ["amount < 90"], "candidates": 20}
    job_id = run(studio, Sequences(OF_ORDERS, LINES), model="lines", table={"parent": orders, "accept": rules})
    job, table, subjects = studio.client.job(job_id), rows_of(studio, job_id), rows_of(studio, orders)
    assert (job.status, job.counts.ok, job.rows) == ("completed", 4, table.num_rows)
    assert set(table["order"].to_pylist()) <= set(subjects["order"].to_pylist())
    assert len(set(table["line"].to_pylist())) == table.num_rows
    counted = [record["table"]["rows"] for record in studio.client.results(orders).data]
    assert [record["table"]["subjects"] for record in studio.client.results(job_id).data] == counted
    # Blocks differ in size, and a block has as many numbers of its own as it could have subjects.
    assert max(counted) > 100
    assert max(counted) <= 100 * LONGEST


def test_a_few_subjects_of_a_parent_can_be_looked_at(studio: Studio) -> None:
    parent = people(studio)
    small = some_rows(parse_job({**JOB, "table": {"parent": parent}}), 5)
    studio.open_backend = of_people
    job_id = studio.client.submit(small.to_json(), key="a look").id
    studio.finish(job_id)
    job = studio.client.job(job_id)
    assert (job.items, studio.client.results(job_id).data[0]["table"]["subjects"]) == (1, 5)
    shown = table_records(studio.client, job)
    assert len(shown) == job.rows
    assert {record["output"]["person"] for record in shown} <= set(range(5))


def test_a_parent_that_was_removed_fails_its_blocks(studio: Studio) -> None:
    parent = people(studio)
    studio.open_backend = of_people
    job_id = studio.submit(table={"parent": parent})
    key = studio.client.results(parent).data[1]["table"]["key"]
    studio.services.store.delete(key)
    studio.finish(job_id)
    job = studio.client.job(job_id)
    assert (job.counts.ok, job.counts.failed) == (3, 1)
    [failed] = studio.client.errors(job_id).data
    assert (failed["index"], failed["error"]["code"]) == (1, "parent_missing")
    assert "block 1 of the parent is no longer in the store" in failed["error"]["message"]


def test_a_retry_finds_its_subjects_after_left_overs_were_deleted(studio: Studio) -> None:
    services = studio.services
    table = {"parent": people(studio), "accept": {"rules": ["amount < 50"], "candidates": 2}}
    job_id = run(studio, of_people(), table=table)
    assert studio.client.job(job_id).counts.failed == 4
    later = time.time() + 10 * DAY_SECONDS
    Collector(services.engine, services.store, lease_seconds=60, retention_days=0, clock=lambda: later).step()
    studio.open_backend = lambda: of_people(amounts=50)
    studio.client.act(job_id, "retry")
    studio.finish(job_id)
    assert studio.client.job(job_id).counts.ok == 4


def test_a_linked_table_has_a_report(studio: Studio) -> None:
    parent = people(studio)
    job_id = run(studio, of_people(), table={"parent": parent}, report=None)
    job = studio.client.job(job_id)
    assert (job.status, job.following) == ("completed", "over")
    assert job.findings is not None
    assert job.findings.report is not None


def test_what_is_no_parent_is_refused_with_the_reason(studio: Studio) -> None:
    parent = people(studio)
    failed = people(studio, accept={"rules": ["age < 0"], "candidates": 1})
    echo = studio.submit(kind="text", model="echo", prompt="x", source={"count": 1}, report=None)
    waits = studio.submit(**PEOPLE)
    orders = run(studio, of_people(), table={"parent": parent})
    before = len(studio.client.jobs())
    for asked, says in (
        ({"parent": "01J" + "0" * 23}, "there is no job"),
        ({"parent": echo}, "is of kind text; a parent is a job of kind tabular"),
        ({"parent": waits}, "is in_progress; its rows can be subjects once it has completed"),
        ({"parent": failed}, "4 of 4 blocks of job .* failed"),
        ({"parent": orders}, "has no column 'key', the parent's key of orders; there are order, person"),
        ({"rows": 100}, r"table.rows: the rows of orders belong to subjects \(person\); give parent"),
        ({"subjects": 100}, "table.subjects: orders depends on its parent; give parent"),
        ({"parent": parent, "where": {"person": 3}}, "'person' holds keys"),
    ):
        with pytest.raises(ApiError, match=says):
            studio.submit(table=asked)
    with pytest.raises(ApiError, match=r"table.parent: the rows of people stand alone"):
        studio.submit(model="people", table={"parent": parent})
    with pytest.raises(ApiError, match=r"table.parent: visits was fitted without a parent; give subjects"):
        studio.submit(model="visits", table={"parent": parent})
    with studio.services.engine.begin() as connection:
        connection.execute(update(Job).where(Job.id == parent).values(tenant="somebody"))
    with pytest.raises(ApiError, match="there is no job"):
        studio.submit(table={"parent": parent})
    assert len(studio.client.jobs()) == before


def test_columns_that_the_parent_lacks_or_has_otherwise_are_named(studio: Studio) -> None:
    from models.tabular.columns import Column
    from tests.support.sampled import COLUMNS

    store = studio.services.store
    publish_sampled(store, "towns", (COLUMNS[0], COLUMNS[1]))
    publish_sampled(store, "places", (COLUMNS[0], Column(name="city", kind="integer", type="int64")))
    publish_sampled(store, "others", (Column(name="key", kind="integer", type="int64"), COLUMNS[2]))
    publish_sampled(store, "texts", (Column(name="key", kind="id", type="string"), COLUMNS[2]))
    for model, says in (
        ("towns", "orders depends on the column 'city' of its parent, which the rows of job .* do not have"),
        ("places", "as string, and job .* has it as int64; fit both models to the same table"),
        ("others", "column 'key' of job .* is of kind integer, so its values may come twice"),
        ("texts", "column 'key' of job .* holds string, and 'person' of orders holds int64"),
    ):
        parent = run(studio, Sampled(), **{**PEOPLE, "model": model})
        with pytest.raises(ApiError, match=says):
            studio.submit(table={"parent": parent})


def source_of(studio: Studio, **tables: pa.Table) -> None:
    """Leave what a model was fitted to where its job would have."""
    for name, table in tables.items():
        data = io.BytesIO()
        pq.write_table(table, data)
        key = f"{source_tables_prefix(VERSION)}{name.replace('_', '-')}.parquet"
        studio.services.store.put(key, data.getvalue(), content_type="application/vnd.apache.parquet")


def report_of(studio: Studio, job_id: str) -> Report:
    return msgspec.json.decode(studio.client.report(job_id, "json"), type=Report)


def test_the_report_looks_at_subjects(studio: Studio) -> None:
    parent = people(studio)
    subjects, rows = rows_of(studio, parent), rows_of(studio, run(studio, of_people(), table={"parent": parent}))
    source_of(studio, train=rows, parent=subjects, holdout=rows.slice(0, 0), holdout_parent=subjects.slice(0, 0))
    job_id = run(studio, of_people(), table={"parent": people(studio, rows=250)}, report={}, seed=4)
    found = report_of(studio, job_id).linked
    assert found is not None
    assert (found.orphans, found.integrity) == (0, 1.0)
    assert (found.subjects, found.subjects_original) == (250, 350)
    assert [pair.first for pair in found.coherence] == ["city", "amount"]
    assert [(pair.first, pair.second) for pair in found.with_parent] == [("city", "city"), ("city", "amount")]
    assert all(pair.accuracy is not None for pair in (*found.coherence, *found.with_parent))
    assert found.with_parent[0].association > 0.9


def test_the_report_on_a_few_subjects_misses_no_others(studio: Studio) -> None:
    parent = people(studio)
    job_id = run(studio, of_people(), table={"parent": parent, "subjects": 30}, report={})
    assert [record["table"]["subjects"] for record in studio.client.results(job_id).data] == [30]
    found = report_of(studio, job_id).linked
    assert found is not None
    assert (found.subjects, found.integrity) == (30, 1.0)


def test_the_report_on_subjects_that_no_table_lists(studio: Studio) -> None:
    job_id = run(studio, Sequences(ALONE, ORDERS), model="visits", table={"subjects": 200, "block": 100}, report={})
    found = report_of(studio, job_id).linked
    assert found is not None
    assert found.subjects == len(set(rows_of(studio, job_id)["person"].to_pylist()))
    assert (found.integrity, found.subjects_original, found.with_parent) == (None, None, ())


def test_the_report_does_without_a_parent_that_was_removed(studio: Studio) -> None:
    parent, store = people(studio, rows=100), studio.services.store

    class Forgetful(Sequences):
        """Its subjects have been read, and are then gone."""

        async def sample(self, request: TableRequest) -> pa.Table:
            for key in list(store.list(tables_prefix(parent))):
                store.delete(key)
            return await super().sample(request)

    job_id = run(studio, Forgetful(OF_PEOPLE, ORDERS), table={"parent": parent}, report={})
    assert studio.client.job(job_id).status == "completed"
    found = report_of(studio, job_id).linked
    assert found is not None
    assert found.subjects == len(set(rows_of(studio, job_id)["person"].to_pylist()))
    assert (found.integrity, found.with_parent) == (None, ())
