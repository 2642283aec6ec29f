"""Linked tables on their way to a training: fetched, checked, and split by subject."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import ModelError
from workers.contracts import ByteRange, FitWork, ParentWork, RowGroupRange, SourceRange
from workers.store_folder import FolderStore
from workers.training_tables import FetchedTable, fetch_table, split_rows, split_table

CUSTOMERS = "id,region,tier\n" + "".join(
    f"{number},north,{'gold' if number % 3 else 'basic'}\n" for number in range(40)
)
ORDERS = "customer,day,amount\n" + "".join(
    f"{number % 37},2024-01-{1 + number % 28:02d},{number}\n" for number in range(200)
)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def rows(store: FolderStore, name: str, text: str) -> tuple[SourceRange, ...]:
    data = text.encode()
    store.put(name, data)
    header = data.partition(b"\n")[0]
    offset = len(header) + 1
    columns = tuple(header.decode().split(","))
    return (ByteRange(uri=name, etag=None, format="csv", offset=offset, length=len(data) - offset, columns=columns),)


def fetched(
    store: FolderStore,
    orders: str = ORDERS,
    customers: str | None = CUSTOMERS,
    *,
    order_by: str | None = None,
    foreign_key: str = "customer",
    key: str = "id",
) -> FetchedTable:
    parent = None
    if customers is not None:
        found = rows(store, "customers.csv", customers)
        parent = ParentWork(key=key, rows=found, columns={"tier": "categorical"}, name="customers.csv")
    fit = FitWork(rows=rows(store, "orders.csv", orders), foreign_key=foreign_key, order_by=order_by, parent=parent)
    return fetch_table(fit, store, threading.Event(), "orders.csv")


def test_both_tables_come_and_their_keys_are_keys(store: FolderStore) -> None:
    found = fetched(store, order_by="day")
    kinds = {column.name: column.kind for column in found.columns}
    assert kinds == {"customer": "id", "day": "datetime", "amount": "id"}
    assert found.parent is not None
    assert (found.parent.key, found.parent.table.num_rows) == ("id", 40)
    assert {column.name: column.kind for column in found.parent.columns} == {
        "id": "id",
        "region": "categorical",
        "tier": "categorical",
    }
    assert found.columns[0].reason == "the job names it as the key"


def test_the_digest_covers_all_that_the_model_is_fitted_to(store: FolderStore) -> None:
    digests = {
        fetched(store).digest,
        fetched(store, order_by="day").digest,
        fetched(store, customers=CUSTOMERS.replace("3,north", "3,south")).digest,
        fetched(store, customers=None).digest,
        fetched(store, ORDERS.replace(",199\n", ",198\n")).digest,
    }
    assert len(digests) == 5
    assert fetched(store).digest in digests


@pytest.mark.parametrize(
    ("orders", "customers", "says"),
    [
        (
            ORDERS + ",2024-01-01,7\n5,2024-01-01,8\n",
            CUSTOMERS,
            r"data\.foreign_key: column 'customer' is missing in 1 of 202 rows, the first is row 201",
        ),
        (
            ORDERS + "77,2024-01-01,7\n78,2024-01-01,7\n",
            CUSTOMERS,
            r"data\.foreign_key: column 'customer' holds 77 in row 201, which 'id' of the parent does not; 2 of 202",
        ),
        (
            ORDERS,
            CUSTOMERS + "3,west,gold\n",
            r"data\.parent\.key: column 'id' holds 3 2 times; each subject has one row",
        ),
        (
            ORDERS,
            CUSTOMERS + ",west,gold\n",
            r"data\.parent\.key: column 'id' is missing in 1 of 41 rows, the first is row 41",
        ),
        (ORDERS, CUSTOMERS + "x7,west,gold\n", r"'customer' holds int64, and 'id' of the parent string"),
        (ORDERS + "1.5,2024-01-01,7\n", CUSTOMERS, r"data\.foreign_key: column 'customer' holds double"),
        (
            ORDERS,
            CUSTOMERS.replace("id,", "number,"),
            r"data\.parent\.key: there is no column 'id'; there are number, region",
        ),
        (
            ORDERS.replace("customer,", "who,"),
            CUSTOMERS,
            r"data\.foreign_key: there is no column 'customer'; there are who",
        ),
        (
            ORDERS.replace(",day,", ",date,"),
            CUSTOMERS,
            r"data\.order_by: there is no column 'day'; there are customer, date",
        ),
        (
            re.sub(r",2024-[0-9-]+,", ",spring,", ORDERS),
            CUSTOMERS,
            r"data\.order_by: column 'day' is taken as categorical; dates and numbers order a sequence",
        ),
        (ORDERS, CUSTOMERS.replace(",tier", ",level"), r"customers\.csv: there is no column 'tier'"),
    ],
)
def test_tables_that_do_not_fit_together_are_told_apart(
    store: FolderStore, orders: str, customers: str, says: str
) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        fetched(store, orders, customers, order_by="day")
    assert caught.value.code == "training_data_unreadable"


def test_keys_of_other_widths_are_the_same_keys(store: FolderStore, tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"id": pa.array(range(40), pa.int16()), "tier": ["x"] * 40}), tmp_path / "customers.parquet"
    )
    parent = ParentWork(
        key="id", rows=(RowGroupRange(uri="customers.parquet", etag=None, group=0, offset=0, count=40),)
    )
    fit = FitWork(rows=rows(store, "orders.csv", ORDERS), foreign_key="customer", parent=parent)
    found = fetch_table(fit, store, threading.Event(), "orders.csv")
    split = split_table(found, "customer", 0.3, 5)
    assert split.learned.num_rows + split.holdout.num_rows == 200


@pytest.mark.parametrize("with_parent", [True, False])
def test_subjects_are_held_out_whole(store: FolderStore, with_parent: bool) -> None:
    found = fetched(store, customers=CUSTOMERS if with_parent else None)
    split = split_table(found, "customer", 0.3, 5)
    learned, holdout = (set(table["customer"].to_pylist()) for table in (split.learned, split.holdout))
    assert learned
    assert holdout
    assert not learned & holdout
    assert split.learned.num_rows + split.holdout.num_rows == 200
    if not with_parent:
        # By the order in which their first rows come.
        lots = split_rows(37, 0.3, 5)
        assert holdout == {number for number in range(37) if lots[number]}
        assert (split.parent, split.holdout_parent, set(split.files)) == (
            None,
            None,
            {"train.parquet", "holdout.parquet"},
        )
        return
    assert split.parent is not None
    assert split.holdout_parent is not None
    lots = split_rows(40, 0.3, 5)
    assert split.parent.table["id"].to_pylist() == [number for number in range(40) if not lots[number]]
    assert split.holdout_parent["id"].to_pylist() == [number for number in range(40) if lots[number]]
    assert learned <= set(split.parent.table["id"].to_pylist())
    assert holdout <= set(split.holdout_parent["id"].to_pylist())
    files = {name: pq.read_table(pa.BufferReader(data)).num_rows for name, data in split.files.items()}
    assert files == {
        "train.parquet": split.learned.num_rows,
        "holdout.parquet": split.holdout.num_rows,
        "parent.parquet": int((~lots).sum()),
        "holdout-parent.parquet": int(lots.sum()),
    }


def test_rows_that_stand_alone_are_split_as_ever(store: FolderStore) -> None:
    fit = FitWork(rows=rows(store, "orders.csv", ORDERS))
    found = fetch_table(fit, store, threading.Event(), "orders.csv")
    split = split_table(found, None, 0.3, 5)
    assert split.holdout.equals(found.table.filter(split_rows(200, 0.3, 5)))
