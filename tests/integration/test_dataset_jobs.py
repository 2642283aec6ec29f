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
