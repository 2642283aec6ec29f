"""A job that samples a table, from its submission to one file of rows, with the test as scheduler and worker."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.cli.saving import save_job
from orchestrator.cli.text import describe
from orchestrator.client import ApiError
from orchestrator.settings import Settings
from tests.support.sampled import VERSION, Sampled, publish_sampled
from tests.support.studio import Studio
from workers.dataset_report.figures import Asked, Report
from workers.keys import source_tables_prefix

JOB: dict[str, Any] = {"name": "people", "kind": "tabular", "model": "people", "seed": 3, "report": False}

ECHO = {"kind": "text", "model": "echo", "prompt": "x", "source": {"count": 1}, "report": None}


@pytest.fixture
def studio(sqlite_url: str, store_url: str, redis_url: str) -> Iterator[Studio]:
    made = Studio(Settings(database_url=sqlite_url, store_url=store_url, redis_url=redis_url), JOB, Sampled)
    publish_sampled(made.services.store)
    with made.http:
        yield made


def run(studio: Studio, **table: Any) -> str:
    job_id = studio.submit(table={"block": 100, **table})
    studio.finish(job_id)
    return job_id


def rows_of(studio: Studio, job_id: str) -> pa.Table:
    return pq.read_table(io.BytesIO(b"".join(studio.client.content(job_id, "parquet"))))


def test_a_table_has_exactly_the_rows_that_were_asked_for(studio: Studio, tmp_path: Path) -> None:
    job_id = run(studio, rows=1250)
    job = studio.client.job(job_id)
    assert (job.status, job.items, job.counts.ok, job.rows) == ("completed", 13, 13, 1250)
    table = rows_of(studio, job_id)
    assert table.num_rows == 1250
    assert table["key"].to_pylist() == list(range(1250))
    assert dict(describe(job))["rows"].startswith("1,250")

    path = save_job(studio.client, job, tmp_path, None)
    assert pq.read_table(path).equals(table)
    records = [orjson.loads(line) for line in (tmp_path / "records.jsonl").read_bytes().splitlines()]
    assert [record["table"]["rows"] for record in records] == [100] * 12 + [50]
    lines = b"".join(studio.client.content(job_id, "jsonl")).splitlines()
    assert [orjson.loads(line) for line in lines] == table.to_pylist()
    cells = list(csv.DictReader(io.StringIO(b"".join(studio.client.content(job_id, "csv")).decode())))
    assert [int(row["age"]) for row in cells] == table["age"].to_pylist()


def test_rows_do_not_depend_on_the_shards(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {"rules": ["age >= 18"], "unique": ["zip"], "rounds": 3}
    first = run(studio, rows=350, accept=rules)
    monkeypatch.setattr("orchestrator.planning.TABLE_SHARD", 1)
    second = run(studio, rows=350, accept=rules)
    counts = [studio.client.job(each).shard_count for each in (first, second)]
    assert counts == [1, 4]
    digests = [
        [record.get("table", {}).get("sha256") for record in studio.client.results(each).data]
        for each in (first, second)
    ]
    assert digests[0] == digests[1]


def test_rules_hold_for_every_row(studio: Studio) -> None:
    job_id = run(
        studio, rows=500, accept={"rules": ["age >= 40", {"in": {"column": "city", "values": ["Graz", "Wels"]}}]}
    )
    table = rows_of(studio, job_id)
    assert table.num_rows == 500
    assert min(table["age"].to_pylist()) >= 40
    assert set(table["city"].to_pylist()) == {"Graz", "Wels"}
    assert len(set(table["key"].to_pylist())) == 500
    record = studio.client.results(job_id).data[0]["table"]
    assert record["candidates"] > record["rows"] == 100
    assert set(record["rejected"]) == {"age >= 40", "city in a list of 2"}


def test_a_rule_that_lets_too_few_pass_says_so(studio: Studio) -> None:
    job_id = run(studio, rows=200, accept={"rules": ["age >= 40", "age < 40"], "candidates": 5})
    job = studio.client.job(job_id)
    assert (job.status, job.counts.ok, job.counts.failed, job.rows) == ("completed", 0, 2, 0)
    error = studio.client.errors(job_id).data[0]["error"]
    assert error["code"] == "candidates_exhausted"
    assert error["message"].startswith("of 500 candidates 0 were accepted, and 100 are wanted; age ")
    assert "rejected 5" in error["message"]


def test_no_value_stands_twice_and_one_column_determines_another(studio: Studio) -> None:
    studio.open_backend = lambda: Sampled(ages=100_000, zips=40)
    accept = {"unique": ["age"], "dependencies": [{"from": "zip", "to": "city"}], "rounds": 20}
    job_id = run(studio, rows=600, accept=accept)
    job = studio.client.job(job_id)
    assert (job.status, job.counts.failed, job.following) == ("completed", 0, "over")
    table = rows_of(studio, job_id)
    assert table.num_rows == 600
    assert len(set(table["age"].to_pylist())) == 600
    cities: dict[int, set[str]] = {}
    for row in table.to_pylist():
        cities.setdefault(row["zip"], set()).add(row["city"])
    assert {len(found) for found in cities.values()} == {1}
    assert len(set(table["key"].to_pylist())) == 600
    found = job.findings
    assert found is not None
    assert found.rounds > 2
    assert found.drawn_again == sum(found.rejected.values()) - overlaps(found.rejected, found.drawn_again)
    assert "zip determines city" in dict(describe(job))["passes"]
    # What an earlier pass let stay, stays: the blocks say how often they were drawn.
    assert {record["attempts"] for record in studio.client.results(job_id).data} - {1}


def overlaps(rejected: dict[str, int], rows: int) -> int:
    """Rows that broke several rules are counted by each of them."""
    return sum(rejected.values()) - rows


def test_what_is_still_rejected_after_the_last_round_is_no_row(studio: Studio) -> None:
    studio.open_backend = lambda: Sampled(zips=40)
    job_id = run(studio, rows=200, accept={"unique": ["zip"], "rounds": 2})
    job = studio.client.job(job_id)
    assert (job.status, job.counts.ok, job.counts.failed) == ("completed", 0, 2)
    error = studio.client.errors(job_id).data[0]["error"]
    assert error["code"] == "rounds_exhausted"
    assert "zip unique" in error["message"]
    assert job.findings is not None
    assert job.findings.given_up == 160


def test_a_retry_draws_blocks_that_failed_and_touches_no_other(studio: Studio) -> None:
    studio.open_backend = lambda: Sampled(ages=330)
    job_id = run(studio, rows=300, accept={"unique": ["age"], "rounds": 2})
    first = {record["index"]: record for record in studio.client.results(job_id).data}
    assert {record["status"] for record in first.values()} == {"failed"}
    studio.open_backend = lambda: Sampled(ages=1_000_000)
    studio.client.act(job_id, "retry")
    studio.finish(job_id)
    kept = studio.client.results(job_id).data
    assert [record["status"] for record in kept] == ["ok"] * 3
    assert len(set(rows_of(studio, job_id)["age"].to_pylist())) == 300


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"table": {"rows": 0}}, "table.rows"),
        ({"table": None}, "table is missing"),
        ({"model": "peple", "table": {"rows": 1}}, "did you mean 'people'"),
        ({"table": {"rows": 1, "where": {"cty": "Graz"}}}, "there is no column 'cty'"),
        ({"table": {"rows": 1, "accept": {"rules": ["agee > 1"]}}}, "there is no column 'agee'"),
        ({"table": {"rows": 1, "accept": {"unique": ["mail"]}}}, "there is no column 'mail'"),
        ({"table": {"rows": 1}, "prompt": "x"}, "prompt is for text"),
        ({"table": {"rows": 1, "rebalance": {"city": {"Graz": 0.7, "Linz": 0.6}}}}, "at most 1"),
        (
            {
                "kind": "text",
                "model": "echo",
                "prompt": "x",
                "source": {"count": 1},
                "table": {"rows": 1},
                "report": None,
            },
            "table is for",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused_with_the_reason(studio: Studio, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ApiError, match=says):
        studio.submit(**fields)
    assert studio.client.jobs() == []


def test_the_report_knows_what_was_asked_for(studio: Studio) -> None:
    source = rows_of(studio, run(studio, rows=400))
    data = io.BytesIO()
    pq.write_table(source, data)
    key = f"{source_tables_prefix(VERSION)}train.parquet"
    studio.services.store.put(key, data.getvalue(), content_type="application/vnd.apache.parquet")
    asked: dict[str, Any] = {"rebalance": {"city": {"Graz": 0.6}}, "where": {"zip": 7}, "impute": ["age"]}
    job_id = studio.submit(table={"rows": 100, "block": 100, **asked}, report={}, seed=4)
    studio.finish(job_id)
    report = msgspec.json.decode(studio.client.report(job_id, "json"), type=Report)
    alike = [row for row in source.to_pylist() if row["zip"] == 7]
    assert report.training_rows == len(alike) > 0
    assert report.comparison is not None
    assert report.comparison.asked == Asked(**{**asked, "impute": ("age",)})
    assert report.comparison.effective_rows is not None
    assert report.comparison.effective_rows <= len(alike)
    city = next(column for column in report.columns if column.name == "city")
    assert city.shape is not None
    assert sum(city.shape.original) == pytest.approx(1.0, abs=1e-3)
