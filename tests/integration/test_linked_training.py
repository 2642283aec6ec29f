"""Linked tables as training jobs: both tables fetched and split by subject, fitted, and sampled one after the other."""

from __future__ import annotations

import asyncio
import csv
import io
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from models.errors import ModelError
from models.spec import ModelInfo
from models.tabular.saved import CONFIG
from models.training_run import TableData, TrainedFiles, TrainingPlace, TrainingRequest
from orchestrator.settings import Settings
from tests.support.linked import OF_PEOPLE
from tests.support.workshop import Workshop
from workers.execute import Execution
from workers.keys import source_tables_prefix
from workers.trained_models import read_model

CUSTOMERS = 240


@pytest.fixture
def workshop(sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[Workshop]:
    store_url = f"file://{tmp_path}/store"
    made = Workshop(Settings(database_url=sqlite_url, store_url=store_url, redis_url=redis_url), tmp_path)
    with made.http:
        yield made


def customers() -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    regions, tiers = generator.choice(["north", "south"], CUSTOMERS), generator.choice(["basic", "gold"], CUSTOMERS)
    return [
        {"customer_id": 100 + number, "region": str(regions[number]), "tier": str(tiers[number])}
        for number in range(CUSTOMERS)
    ]


def orders() -> list[dict[str, Any]]:
    """A basic customer has one order or two, of 10 or so; a gold one four or five, of 1,000 or so."""
    generator = np.random.default_rng(2)
    made: list[dict[str, Any]] = []
    for customer in customers()[:-5]:
        gold = customer["tier"] == "gold"
        for number in range(int(generator.integers(4, 6) if gold else generator.integers(1, 3))):
            made.append(
                {
                    "order_id": 7000 + len(made),
                    "customer_id": customer["customer_id"],
                    "day": f"2024-0{number + 1}-1{generator.integers(0, 9)}",
                    "amount": round(float(generator.normal(1000 if gold else 10, 2)), 2),
                }
            )
    return made


def upload(workshop: Workshop, name: str, rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return str(workshop.http.put(f"/v1/inputs/{name}", content=text.getvalue().encode()).json()["uri"])


def training(model: str, data: dict[str, Any], epochs: int) -> dict[str, Any]:
    options = {"epochs": epochs, "size": "S"}
    fit = {"family": "tabular-argn", "options": options}
    return {"kind": "train", "model": model, "data": {**data, "license": "CC0-1.0"}, "training": fit, "seed": 3}


def of_customers(workshop: Workshop, epochs: int = 2) -> dict[str, Any]:
    return training("customers", {"file": upload(workshop, "customers.csv", customers())}, epochs)


def of_orders(workshop: Workshop, epochs: int = 2, **data: Any) -> dict[str, Any]:
    parent = {"file": upload(workshop, "customers.csv", customers()), "key": "customer_id"}
    own = {"file": upload(workshop, "orders.csv", orders()), "foreign_key": "customer_id", "order_by": "day"}
    return training("orders", {**own, "parent": parent, **data}, epochs)


def source_table(workshop: Workshop, job_id: str, name: str) -> pa.Table:
    return pq.read_table(io.BytesIO(workshop.store.get(source_tables_prefix(job_id) + name)))


class Listener:
    """A `TrainingBackend` that fits nothing, and remembers what it was to fit."""

    def __init__(self) -> None:
        self.data: TableData | None = None

    async def load(self) -> ModelInfo:
        return ModelInfo(
            model="training", revision="", engine="training", context_length=0, reproducible="exact", shards_in_flight=1
        )

    async def train(self, request: TrainingRequest, place: TrainingPlace) -> TrainedFiles:
        assert isinstance(request.data, TableData)
        self.data = request.data
        return TrainedFiles(
            files={CONFIG: b"{}"},
            family="tabular-argn",
            rows=request.data.table.num_rows,
            columns=request.data.columns,
            linked=OF_PEOPLE,
            source="",
            license="",
            step=1,
            losses={},
            seconds=1.0,
            finished=True,
        )

    def quiet_seconds(self) -> float:
        return 0.0

    async def close(self) -> None:
        return None


def heard(workshop: Workshop, job: dict[str, Any]) -> tuple[str, TableData]:
    """A job up to its end; and what the engine was given."""
    job_id = workshop.post(job)
    workshop.plan()
    run = workshop.start(workshop.take(job_id))
    listener = Listener()

    async def go(run: Execution) -> Any:
        return await run.run(listener, await listener.load())

    workshop.finish(run, asyncio.run(go(run)))
    assert workshop.job(job_id)["status"] == "completed"
    assert listener.data is not None
    return job_id, listener.data


def test_whole_subjects_reach_the_engine_and_the_report(workshop: Workshop) -> None:
    job_id, data = heard(workshop, of_orders(workshop))
    assert (data.foreign_key, data.order_by) == ("customer_id", "day")
    assert {column.name: column.kind for column in data.columns} == {
        "order_id": "id",
        "customer_id": "id",
        "day": "datetime",
        "amount": "numeric",
    }
    assert data.parent is not None
    assert (data.parent.key, data.parent.columns[0].kind) == ("customer_id", "id")
    names = ("train.parquet", "holdout.parquet", "parent.parquet", "holdout-parent.parquet")
    learned, holdout, parent, holdout_parent = (source_table(workshop, job_id, name) for name in names)
    assert learned.equals(data.table)
    assert parent.equals(data.parent.table)
    assert data.held_out == holdout.num_rows
    assert learned.num_rows + holdout.num_rows == len(orders())
    assert parent.num_rows + holdout_parent.num_rows == CUSTOMERS
    assert 20 <= holdout_parent.num_rows <= 80
    for rows, subjects in ((learned, parent), (holdout, holdout_parent)):
        assert pc.all(pc.is_in(rows["customer_id"], subjects["customer_id"].combine_chunks())).as_py()
    trained = read_model(workshop.store, "orders", job_id)
    assert trained is not None
    assert trained.linked == OF_PEOPLE
    assert workshop.record(job_id)["trained"]["linked"]["foreign_key"] == "person"


def test_both_tables_come_out_of_a_database(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE customers (customer_id INTEGER, region TEXT, tier TEXT)")
        connection.executemany("INSERT INTO customers VALUES (:customer_id, :region, :tier)", customers())
        connection.execute("CREATE TABLE orders (customer_id INTEGER, amount REAL)")
        connection.executemany("INSERT INTO orders VALUES (:customer_id, :amount)", orders())
    connection.close()
    monkeypatch.setenv("NIGHTMILL_SOURCE_SHOP", f"sqlite:///{tmp_path}/shop.db")
    parent = {"query": "SELECT * FROM customers ORDER BY customer_id", "key": "customer_id"}
    own = {"query": "SELECT * FROM orders ORDER BY rowid", "database": "shop", "foreign_key": "customer_id"}
    _, data = heard(workshop, training("orders", {**own, "parent": parent}, 1))
    assert data.parent is not None
    assert data.table.num_rows + data.held_out == len(orders())
    assert data.parent.table.column_names == ["customer_id", "region", "tier"]


@pytest.mark.parametrize(
    ("data", "param", "says"),
    [
        ({"foreign_key": "customer"}, "data.foreign_key", "no column 'customer'; did you mean 'customer_id'"),
        ({"order_by": "dai"}, "data.order_by", "did you mean 'day'"),
    ],
)
def test_columns_that_there_are_not_fail_the_job_before_it_runs(
    workshop: Workshop, data: dict[str, Any], param: str, says: str
) -> None:
    job_id = workshop.post(of_orders(workshop, **data))
    workshop.plan()
    error = workshop.job(job_id)["error"]
    assert (error["param"], error["code"]) == (param, "invalid_source")
    assert says in error["message"]


def test_a_parent_that_cannot_be_read_is_told_apart(workshop: Workshop) -> None:
    parent = {"file": upload(workshop, "customers.csv", customers()), "key": "key"}
    job_id = workshop.post(of_orders(workshop, parent=parent))
    gone = workshop.post(of_orders(workshop, parent={**parent, "file": "nightmill://inputs/01X/gone.csv"}))
    workshop.plan()
    error = workshop.job(job_id)["error"]
    assert (error["param"], error["file"]) == ("data.parent.key", parent["file"])
    assert "no column 'key'" in error["message"]
    assert workshop.job(gone)["error"]["param"] == "data.parent.file"
    _, param, message = workshop.error(**of_orders(workshop, parent={**parent, "file": "/tmp/customers.csv"}))
    assert param == "data.parent.file"
    assert "is a path on your machine" in message


def test_rows_without_a_subject_fail_the_training(workshop: Workshop) -> None:
    rows = [*orders(), {"order_id": 1, "customer_id": 99, "day": "2024-01-01", "amount": 1.0}]
    job_id = workshop.post(of_orders(workshop, file=upload(workshop, "orders.csv", rows)))
    workshop.plan()
    with pytest.raises(ModelError, match=r"column 'customer_id' holds 99 in row .* of the parent does not"):
        workshop.run(workshop.start(workshop.take(job_id)))


def sampled(workshop: Workshop, **job: Any) -> tuple[str, pa.Table]:
    """A table's job up to its end, and its rows."""
    job_id = workshop.post({"kind": "tabular", "seed": 5, "report": False, **job})
    workshop.plan()
    run = workshop.start(workshop.take(job_id))
    workshop.finish(run, workshop.run(run))
    assert workshop.job(job_id)["status"] == "completed", workshop.job(job_id)
    content = workshop.http.get(f"/v1/jobs/{job_id}/results/content?format=parquet").content
    return job_id, pq.read_table(io.BytesIO(content))


def test_customers_and_their_orders_are_fitted_and_sampled(workshop: Workshop) -> None:
    workshop.train_job(of_customers(workshop, epochs=3))
    orders_job = workshop.train_job(of_orders(workshop, epochs=20))
    trained = read_model(workshop.store, "orders", orders_job)
    assert trained is not None
    assert trained.linked is not None
    assert (trained.linked.foreign_key, trained.linked.parent_key) == ("customer_id", "customer_id")
    parent, people = sampled(workshop, model="customers", table={"rows": 200, "block": 100})
    job_id, rows = sampled(
        workshop, model="orders", table={"parent": parent, "accept": {"rules": ["amount > 0"], "candidates": 100}}
    )
    assert workshop.job(job_id)["rows"] == rows.num_rows > 0
    assert rows.column_names == ["order_id", "customer_id", "day", "amount"]
    keys = people["customer_id"].combine_chunks()
    assert pc.all(pc.is_in(rows["customer_id"], keys)).as_py()
    assert len(set(rows["order_id"].to_pylist())) == rows.num_rows
    assert min(rows["amount"].to_pylist()) > 0
    # Grouped, in the order of the customers.
    places = pc.index_in(rows["customer_id"], keys).to_pylist()
    assert places == sorted(places)
    # How long a sequence is hangs on its customer.
    tier = dict(zip(keys.to_pylist(), people["tier"].to_pylist(), strict=True))
    made = Counter(tier[key] for key in rows["customer_id"].to_pylist())
    of_tier = Counter(tier.values())
    assert made["gold"] / of_tier["gold"] > 1.2 * made["basic"] / of_tier["basic"]
