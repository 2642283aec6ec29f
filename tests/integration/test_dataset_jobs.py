"""A dataset under a plan from its submission to a folder that `datasets` reads; the test is scheduler and worker."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import orjson
import pytest

from models.backends.echo import EchoBackend
from orchestrator.cli.following import row_texts
from orchestrator.cli.saving import save_job
from orchestrator.settings import Settings
from tests.support.studio import Studio

JOB: dict[str, Any] = {
    "name": "dialogues",
    "kind": "dataset",
    "model": "echo",
    "seed": 3,
    "source": {"count": 60, "grid": {"language": ["en", "zh"]}},
    "columns": {
        "loud": {"expression": "dialogue | upper"},
        "score": {"judge": {"prompt": '{"score": {{ 1 + index % 5 }}}'}},
        "dialogue": {"model": {"prompt": "{{ person.first_name }} in {{ language }} of {{ topic }}, {{ detail }}"}},
        "detail": {"subset": {"of": "topic", "values": {"delivery": ["late", "damaged"], "returns": ["too small"]}}},
        "topic": {"category": ["delivery", "returns"], "balanced": True},
        "person": {"person": {"locale": "de_DE"}},
        "price": {"number": {"min": 5, "max": 9, "decimals": 2}},
        "tags": {"expression": "[topic, detail]"},
        "mixed": {"expression": "price if topic == 'returns' else 'none'"},
    },
    "split": {"train": 0.8, "validation": 0.1, "test": 0.1},
}


@pytest.fixture
def studio(sqlite_url: str, store_url: str, redis_url: str) -> Iterator[Studio]:
    made = Studio(Settings(database_url=sqlite_url, store_url=store_url, redis_url=redis_url), JOB, EchoBackend)
    with made.http:
        yield made


def rows(studio: Studio, job_id: str) -> list[dict[str, Any]]:
    return [record["output"] for record in studio.client.results(job_id, limit=1000).data]


def test_a_plan_becomes_a_folder_that_datasets_reads(studio: Studio, tmp_path: Path) -> None:
    job_id = studio.submit()
    studio.work()
    job = studio.client.job(job_id)
    assert (job.status, job.counts.ok, job.counts.failed) == ("completed", 120, 0)
    made = rows(studio, job_id)
    assert list(made[0]) == ["language", *JOB["columns"]]
    for row in made:
        said = f"{row['person']['first_name']} in {row['language']} of {row['topic']}, {row['detail']}"
        assert (row["dialogue"], row["loud"]) == (said, said.upper())
    assert Counter(row["topic"] for row in made) == {"delivery": 60, "returns": 60}
    assert [row["score"] for row in made[::2]] == [1 + index % 5 for index in range(60)]
    assert row_texts({"output": {"a": "x", "b": 1}}) == ["a: x", "b: 1"]

    folder = save_job(studio.client, job, tmp_path / "out", "csv")
    assert folder == tmp_path / "out" / "dataset"
    found = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert set(found) == {"train", "validation", "test"}
    assert sum(len(split) for split in found.values()) == 120
    assert len(found["train"]) > len(found["test"]) > 0
    read = [row for split in found.values() for row in split]
    assert {row["dialogue"] for row in read} == {row["dialogue"] for row in made}
    features = found["train"].features
    assert features["person"]["age"].dtype == "int64"
    assert features["price"].dtype == "float64"
    assert features["mixed"].dtype == "string"
    assert features["tags"].feature.dtype == "string"
    card = (folder / "README.md").read_text()
    assert "| rows here | 120 |" in card
    assert "written by the model" in card
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["dialogue"] for line in table] == [row["dialogue"] for row in made]


def test_rows_are_the_same_whatever_the_sharding_and_whoever_died(studio: Studio) -> None:
    first = studio.submit()
    studio.work()
    again = studio.submit()
    studio.work(lost=True)
    assert rows(studio, first) == rows(studio, again)
    other = studio.submit(seed=4)
    studio.work()
    assert [row["person"] for row in rows(studio, other)] != [row["person"] for row in rows(studio, first)]


def test_a_plan_that_asks_no_model_needs_none(studio: Studio) -> None:
    fields = {"columns": {"a": {"number": {"min": 1, "max": 2}}}, "source": {"count": 5}, "split": None}
    job_id = studio.client.submit({**JOB, **fields, "model": None} | {"model": "echo"}, key="alone").id
    studio.work()
    assert all(row["a"] in {1, 2} for row in rows(studio, job_id))


def test_a_column_that_fails_ends_its_row_and_no_other(studio: Studio, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    prompt = '{% if index == 2 %}no{% else %}{"n": {{ index }}}{% endif %}'
    columns = {
        "fact": {"model": {"prompt": prompt, "schema": schema}},
        "twice": {"expression": "fact.n * 2"},
        "half": {"expression": "10 // (index - 3)"},
    }
    job_id = studio.submit(columns=columns, source={"count": 5}, split=None)
    studio.work()
    records = studio.client.results(job_id, limit=10).data
    assert [record["status"] for record in records] == ["ok", "ok", "failed", "failed", "ok"]
    assert records[2]["error"]["code"] == "invalid_output"
    assert records[2]["error"]["message"].startswith("fact: the output is not JSON")
    assert records[3]["error"] == {"code": "invalid_prompt", "message": "half: integer division or modulo by zero"}
    assert records[4]["output"] == {"fact": {"n": 4}, "twice": 8, "half": 10}

    folder = save_job(studio.client, studio.client.job(job_id), tmp_path, "jsonl")
    card = (folder / "README.md").read_text()
    assert "| left out, `invalid_output` | 1 |" in card
    assert len(datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), split="train")) == 3


def test_rows_of_a_source_are_kept_together_by_a_column(studio: Studio, tmp_path: Path) -> None:
    items = [{"name": name, "n": n} for n in range(4) for name in "abcdefghijkl"]
    job_id = studio.submit(
        source={"items": items},
        columns={"said": {"model": {"prompt": "{{ name }} {{ n }}"}}},
        output=["name", "said"],
        split={"train": 0.5, "test": 0.5},
        split_by="name",
    )
    studio.work()
    folder = save_job(studio.client, studio.client.job(job_id), tmp_path, "jsonl")
    found = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    names = {split: set(found[split]["name"]) for split in found}
    assert names["train"]
    assert names["test"]
    assert not names["train"] & names["test"]
    assert names["train"] | names["test"] == set("abcdefghijkl")
    assert orjson.loads((tmp_path / "results.jsonl").read_bytes().splitlines()[0])["output"] == {
        "name": "a",
        "said": "a 0",
    }


RULED: dict[str, Any] = {
    "source": {"count": 40},
    "split": None,
    "columns": {
        "price": {"number": {"min": 1, "max": 10}},
        "said": {"model": {"prompt": "price {{ price }}"}},
        "score": {"judge": {"prompt": '{"score": {{ 1 + price // 3 }}}'}},
    },
}


def test_a_column_that_breaks_its_rule_is_asked_again_with_the_reason(studio: Studio) -> None:
    # The echo model answers with what it was told last: the reasons, which are longer.
    accept = {"rules": [{"field": "said", "words": [5, None]}], "repairs": 1, "draws": 0}
    job_id = studio.submit(**RULED, accept=accept)
    studio.work()
    records = studio.client.results(job_id, limit=100).data
    assert {record["status"] for record in records} == {"ok"}
    assert all("it has 2 words; at least 5 are asked for" in record["output"]["said"] for record in records)
    assert records[0]["checks"] == {"tries": 2, "repaired": True, "rules": {"words": 1}}
    assert records[0]["output"]["score"] == 1 + records[0]["output"]["price"] // 3


def test_a_row_that_a_judge_turns_down_is_drawn_anew_until_it_is_right(studio: Studio, tmp_path: Path) -> None:
    accept = {"rules": [{"field": "score", "expression": "output >= 3"}], "repairs": 2, "draws": 20}
    job_id = studio.submit(**RULED, accept=accept)
    studio.work(lost=True)
    records = studio.client.results(job_id, limit=100).data
    assert len(records) == 40
    assert all(record["output"]["score"] == record["output"]["price"] // 3 + 1 >= 3 for record in records)
    assert any(record["checks"]["tries"] > 1 for record in records if "checks" in record)
    assert not any(record["checks"].get("repaired") for record in records if "checks" in record)
    again = studio.submit(**RULED, accept=accept)
    studio.work()
    assert rows(studio, again) == [record["output"] for record in records]
    figures = studio.client.job(job_id).checks
    assert figures is not None
    assert figures.rules["expression"].failed == 0 < figures.rules["expression"].mended


def test_a_row_that_is_never_right_says_by_which_rule(studio: Studio) -> None:
    accept = {"rules": [{"expression": "output.price > 10", "name": "dear"}], "draws": 2}
    job_id = studio.submit(**RULED, accept=accept)
    studio.work()
    job = studio.client.job(job_id)
    assert (job.status, job.counts.ok, job.counts.failed) == ("completed", 0, 40)
    error = studio.client.results(job_id, limit=1).data[0]["error"]
    assert error == {"code": "rejected", "message": "after 3 draws: dear: it does not satisfy: output.price > 10"}


def test_a_retry_draws_rows_that_failed_from_where_they_were(studio: Studio) -> None:
    accept = {"rules": [{"field": "price", "expression": "output > 7", "name": "dear"}], "draws": 1}
    job_id = studio.submit(**RULED, accept=accept)
    studio.work()
    first = studio.client.job(job_id)
    assert 0 < first.counts.failed < 40
    before = {record["index"]: record for record in studio.client.results(job_id, limit=100).data}
    studio.client.act(job_id, "retry")
    studio.work()
    after = {record["index"]: record for record in studio.client.results(job_id, limit=100).data}
    assert 0 < studio.client.job(job_id).counts.failed < first.counts.failed
    for index, record in before.items():
        assert record["status"] == "failed" or after[index] == record


def test_what_a_rule_redacts_is_kept_redacted(studio: Studio) -> None:
    columns = {
        "mail": {"model": {"prompt": "write to anna@example.com"}},
        "quoted": {"expression": "'> ' ~ mail"},
    }
    accept = {"rules": [{"field": "mail", "pii": "redact", "kinds": ["email"]}]}
    job_id = studio.submit(columns=columns, source={"count": 2}, split=None, accept=accept)
    studio.work()
    for record in studio.client.results(job_id, limit=10).data:
        assert "anna@example.com" not in str(record["output"])
        assert record["output"]["quoted"] == "> " + record["output"]["mail"]
        assert record["checks"]["found"] == {"pii": {"email": 1}}
