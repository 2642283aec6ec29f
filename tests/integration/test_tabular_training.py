"""Models of tables as training jobs: fitted to a file, killed and resumed, listed, sampled from the store."""

from __future__ import annotations

import asyncio
import csv
import io
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import FailureKind, ModelError
from models.tabular.engine import TableRequest
from models.tabular.families import open_table_backend
from orchestrator.settings import Settings
from tests.support.shards import execution_id, failure
from tests.support.workshop import DeadlyStore, KilledError, Workshop
from workers.execute import Execution
from workers.keys import source_tables_prefix
from workers.trained_models import fetch_model

ROWS = 200


@pytest.fixture
def workshop(sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[Workshop]:
    store_url = f"file://{tmp_path}/store"
    made = Workshop(Settings(database_url=sqlite_url, store_url=store_url, redis_url=redis_url), tmp_path)
    with made.http:
        yield made


def people(rows: int = ROWS) -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    cities = generator.choice(["Graz", "Linz", "Wien"], rows, p=[0.2, 0.3, 0.5])
    return [
        {
            "id": 1000 + number,
            "city": str(cities[number]),
            "age": int(generator.integers(18, 80)),
            "salary": "" if number % 10 == 0 else round(float(generator.normal(3000, 400)), 2),
            "since": f"20{generator.integers(10, 25)}-0{generator.integers(1, 9)}-1{generator.integers(0, 9)}",
            "phone": f"+43 660 {generator.integers(1000000, 9999999)}",
        }
        for number in range(rows)
    ]


def upload(workshop: Workshop, rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return str(workshop.http.put("/v1/inputs/people.csv", content=text.getvalue().encode()).json()["uri"])


def fitting(workshop: Workshop, rows: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
    data = {"file": upload(workshop, rows or people()), "license": "CC0-1.0"}
    training = {"family": "tabular-argn", "options": {"epochs": 2, "size": "S"}}
    return {"kind": "train", "model": "people", "data": data, "training": training, "seed": 3, **fields}


def source_table(workshop: Workshop, job_id: str, name: str) -> pa.Table:
    return pq.read_table(io.BytesIO(workshop.store.get(source_tables_prefix(job_id) + name)))


TRAININGS: dict[str, dict[str, Any]] = {
    "tabular-argn": {"options": {"epochs": 2, "size": "S"}},
    "tabular-gan": {"options": {"widths": [32], "critic_widths": [32]}, "steps": 20, "batch_size": 32},
    "tabular-vae": {"options": {"widths": [32]}, "steps": 20, "batch_size": 32},
}


@pytest.mark.parametrize("family", TRAININGS)
def test_a_file_becomes_a_model_of_tables(workshop: Workshop, family: str) -> None:
    job_id = workshop.train_job(fitting(workshop, training={"family": family, **TRAININGS[family]}))
    trained = workshop.record(job_id)["trained"]
    kinds = {column["name"]: column["kind"] for column in trained["columns"]}
    assert kinds == {
        "id": "id",
        "city": "categorical",
        "age": "integer",
        "salary": "numeric",
        "since": "datetime",
        "phone": "text",
    }
    learned, held_out = (source_table(workshop, job_id, f"{name}.parquet") for name in ("train", "holdout"))
    assert learned.num_rows == trained["rows"]
    assert 20 <= held_out.num_rows <= 60
    ids = learned["id"].to_pylist() + held_out["id"].to_pylist()
    assert sorted(ids) == [row["id"] for row in people()]
    assert {file["name"].rpartition(".")[2] for file in trained["files"]} == {"safetensors", "json", "md"}

    listed = {entry["id"]: entry for entry in workshop.http.get("/v1/models").json()["data"]}["people"]
    assert (listed["kind"], listed["engines"], listed["rows"]) == ("table", [family], learned.num_rows)
    folder = fetch_model(workshop.store, "people", job_id, workshop.cache)
    assert "phone" in (folder / "README.md").read_text()

    rows = asyncio.run(sampled(folder, TableRequest(rows=50, seed=1, where={"city": "Linz"}, impute=("salary",))))
    assert rows.num_rows == 50
    assert rows.schema == learned.schema
    assert set(rows["city"].to_pylist()) == {"Linz"}
    assert rows["salary"].null_count == 0
    assert not set(rows["id"].to_pylist()) & set(ids)
    assert not set(rows["phone"].to_pylist()) & {row["phone"] for row in people()}


async def sampled(folder: Path, request: TableRequest) -> pa.Table:
    backend = open_table_backend(folder)
    info = await backend.load()
    assert (info.model, info.shards_in_flight) == (f"people@{folder.name}", 1)
    first, again = await asyncio.gather(backend.sample(request), backend.sample(request))
    await backend.close()
    assert first.equals(again)
    return first


def test_a_fitting_that_was_killed_goes_on_from_its_checkpoint(workshop: Workshop) -> None:
    training = {"family": "tabular-argn", "options": {"epochs": 3, "size": "S", "batch_size": 16}}
    job_id = workshop.post(fitting(workshop, training=training))
    workshop.plan()
    task = workshop.take(job_id)
    execution = execution_id()
    workshop.tell(task, "started", execution)
    deadly = DeadlyStore(workshop.store, "complete.json", after=True)
    run = Execution(task, execution, deadly, cache_dir=workshop.cache)
    run.granted.set()
    with pytest.raises(KilledError):
        workshop.run(run)
    workshop.tell(task, "failed", execution, failure=failure(FailureKind.ENGINE, "actor_lost"))
    again = workshop.start(workshop.take(job_id))
    workshop.finish(again, workshop.run(again))
    record = workshop.record(job_id)
    an_epoch = record["training"]["resumed_at"]
    assert an_epoch > 0
    assert record["trained"]["step"] == 3 * an_epoch
    assert record["trained"]["finished"] is True


def test_a_table_comes_out_of_a_database(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(tmp_path / "firm.db") as connection:
        connection.execute("CREATE TABLE people (city TEXT, age INTEGER)")
        connection.executemany("INSERT INTO people VALUES (:city, :age)", people())
    connection.close()
    monkeypatch.setenv("NIGHTMILL_SOURCE_FIRM", f"sqlite:///{tmp_path}/firm.db")
    data = {"query": "SELECT * FROM people WHERE age >= 20 ORDER BY rowid", "database": "firm"}
    job_id = workshop.train_job({**fitting(workshop), "data": data})
    trained = workshop.record(job_id)["trained"]
    assert [column["kind"] for column in trained["columns"]] == ["categorical", "integer"]
    learned, held_out = (source_table(workshop, job_id, f"{name}.parquet") for name in ("train", "holdout"))
    assert learned.num_rows + held_out.num_rows == sum(row["age"] >= 20 for row in people())
    assert workshop.error(**{**fitting(workshop), "data": {"query": "SELECT 1"}})[1] == "data"


def test_columns_that_there_are_not_fail_the_job_before_it_runs(workshop: Workshop) -> None:
    job = fitting(workshop)
    job_id = workshop.post({**job, "data": {**job["data"], "columns": {"town": "categorical"}}})
    other = workshop.post({**job, "data": {**job["data"], "columns": {"citi": "categorical"}}})
    workshop.plan()
    error = workshop.job(job_id)["error"]
    assert error["param"] == "data.columns"
    assert "no column 'town'; there are id, city" in error["message"]
    assert "did you mean 'city'" in workshop.job(other)["error"]["message"]


@pytest.mark.parametrize(
    ("columns", "rows", "code", "says"),
    [
        ({"city": "numeric"}, ROWS, "training_data_unreadable", "'city' holds string, which is not numeric"),
        ({}, 40, "training_data_too_small", "rows to learn from"),
        ({"phone": "categorical"}, ROWS, "table_not_learnable", "'phone': each of its .* is rare"),
    ],
)
def test_a_table_that_cannot_be_learned_from_says_why(
    workshop: Workshop, columns: dict[str, str], rows: int, code: str, says: str
) -> None:
    job = fitting(workshop, people(rows))
    job_id = workshop.post({**job, "data": {**job["data"], "columns": columns}})
    workshop.plan()
    with pytest.raises(ModelError, match=says) as caught:
        workshop.run(workshop.start(workshop.take(job_id)))
    assert (caught.value.kind, caught.value.code) == (FailureKind.MODEL, code)


def test_a_model_of_tables_makes_no_images(workshop: Workshop) -> None:
    workshop.train_job(fitting(workshop))
    _, param, message = workshop.error(kind="image", model="people", prompt="x", source={"count": 1})
    assert param == "model"
    assert "makes tables; set kind: tabular" in message
