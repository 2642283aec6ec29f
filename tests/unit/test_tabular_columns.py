"""What columns are taken for, values that are made anew, and the part of a table that is held out."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import ModelError
from models.tabular.columns import Column, find_columns, plain_table, table_schema
from models.tabular.fresh import Fresh, learn_fresh, make_fresh
from workers.contracts import ByteRange, FitWork, RowGroupRange
from workers.store_folder import FolderStore
from workers.training_tables import fetch_table, split_rows

ROWS = 100
NUMBERS = range(ROWS)


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("x", [number % 2 == 0 for number in NUMBERS], "categorical"),
        ("x", [number % 7 for number in NUMBERS], "categorical"),
        ("x", [(number * 7919) % 101 for number in NUMBERS], "integer"),
        ("x", [float(number * 37) for number in NUMBERS], "integer"),
        ("x", [number / 7 for number in NUMBERS], "numeric"),
        ("x", [None] * ROWS, "categorical"),
        ("x", [None if number % 3 else number / 7 for number in NUMBERS], "numeric"),
        ("x", list(NUMBERS), "id"),  # it counts the rows
        ("customer_id", [number * number + 3 for number in NUMBERS], "id"),
        ("customerId", [number * number + 3 for number in NUMBERS], "id"),
        ("humid", [number * number + 3 for number in NUMBERS], "integer"),
        ("", [number * number + 3 for number in NUMBERS], "id"),
        ("x", ["red", "blue"] * 50, "categorical"),
        ("x", [f"town {number % 15}" for number in NUMBERS], "categorical"),
        ("x", [f"+43 660 {number:07}" for number in NUMBERS], "text"),
        ("order_key", [f"K-{number}" for number in NUMBERS], "id"),
        ("x", [f"{number:08x}-0000-4000-8000-000000000000" for number in NUMBERS], "id"),
        ("x", [f"20{10 + number % 10}-02-0{1 + number % 9}" for number in NUMBERS], "datetime"),
        ("x", ["2021-02-31"] * 50 + ["2021-02-01"] * 50, "categorical"),  # no such day
        ("x", [f"01.02.19{number:02}" for number in NUMBERS], "datetime"),
        ("x", [dt.date(2020, 1, 1)] * ROWS, "datetime"),
        ("x", [f"48.{number}, 16.{number}" for number in NUMBERS], "geo"),
    ],
)
def test_kinds_are_found(name: str, values: list[Any], kind: str) -> None:
    [column] = find_columns(pa.table({name: values}), {})
    assert (column.kind, column.nullable) == (kind, None in values)
    assert column.reason
    assert msgspec.json.decode(msgspec.json.encode(column), type=Column) == column
    assert table_schema([column]) == plain_table(pa.table({name: values})).schema


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"y": "numeric"}, "no column 'y'; there are x, text"),
        ({"x": "number"}, "'number' is no kind; take one of categorical, numeric"),
        ({"text": "integer"}, "'text' holds string, which is not integer; take categorical or text"),
        ({"x": "integer"}, "'x' holds fractions; take numeric"),
        ({"text": "datetime"}, "'text' holds no dates"),
        ({"text": "geo"}, "'text' holds no places"),
        ({"x": "text"}, "'x' holds double, not texts"),
        ({"x": "id"}, "keys are texts or whole numbers"),
    ],
)
def test_kinds_that_cannot_be_are_refused(given: dict[str, str], says: str) -> None:
    table = pa.table({"x": [number / 7 for number in NUMBERS], "text": ["a", "b"] * 50})
    with pytest.raises(ValueError, match=says):
        find_columns(table, given)


def test_given_kinds_override_what_is_found() -> None:
    table = pa.table({"x": list(NUMBERS), "word": [f"w{number}" for number in NUMBERS]})
    found = find_columns(table, {"x": "integer", "word": "id"})
    assert [(column.kind, column.reason) for column in found] == [
        ("integer", "as the job says"),
        ("id", "as the job says"),
    ]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (pa.table({"x": [[1]]}), "'x' is of type list"),
        (pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]), "two columns 'x'"),
        (pa.table({}), "no columns"),
    ],
)
def test_tables_that_cannot_be_modelled_are_refused(table: pa.Table, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        find_columns(table, {})


def test_types_that_say_more_than_is_kept_become_plain() -> None:
    table = pa.table(
        {
            "a": pa.array(["x", "y"]).dictionary_encode(),
            "b": pa.array(["x", None], type=pa.large_string()),
            "c": pa.array([1, 2], type=pa.decimal128(9, 2)),
        }
    )
    assert [str(kind) for kind in plain_table(table).schema.types] == ["string", "string", "double"]


def test_kinds_are_found_without_any_engine() -> None:
    code = (
        "import sys, models.tabular.columns, models.tabular.engine, models.tabular.families, workers.training_tables\n"
        "assert not {'torch', 'pandas', 'mostlyai', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def fresh_of(values: list[Any], kind: str) -> tuple[Fresh, Column]:
    [column] = find_columns(pa.table({"x": values}), {"x": kind})
    return learn_fresh(column, pa.array(values)), column


def made(values: list[Any], kind: str, *, rows: int = 200, first: int = 0, seed: int = 1, **more: Any) -> list[Any]:
    fresh, column = fresh_of(values, kind)
    fresh = msgspec.json.decode(msgspec.json.encode(fresh), type=Fresh)
    array = make_fresh(fresh, column, numbers=range(first, first + rows), seed=(seed, 0), **more)
    assert array.type == column.arrow_type
    assert array.equals(make_fresh(fresh, column, numbers=range(first, first + rows), seed=(seed, 0), **more))
    return list(array.to_pylist())


@pytest.mark.parametrize(
    "keys",
    [
        list(NUMBERS),
        [f"K-{number}" for number in NUMBERS],
        [f"SYN1-{number:012}" for number in NUMBERS],  # made by an earlier model
        [f"{number:08x}-0000-4000-8000-000000000000" for number in NUMBERS],
        [f"{number:032x}" for number in NUMBERS],
    ],
)
def test_keys_are_new_and_no_two_are_equal(keys: list[Any]) -> None:
    blocks = [made(keys, "id", first=first, seed=first) for first in (0, 200, 400)]
    together = [key for block in blocks for key in block]
    assert len(set(together)) == 600
    assert not set(together) & set(keys)
    if isinstance(keys[0], str):
        assert ("-" in keys[0]) == ("-" in together[0])


def test_keys_of_a_narrow_type_are_refused() -> None:
    values = pa.array(range(100), type=pa.int8())
    [column] = find_columns(pa.table({"x": values}), {})
    with pytest.raises(ModelError, match="int8 has no room for keys above 99"):
        learn_fresh(column, values)


def test_texts_have_the_shapes_of_the_source() -> None:
    phones = [f"+43 660 {1000000 + 7919 * number}" for number in NUMBERS]
    found = made(phones, "text")
    assert all(text.startswith("+43 660 ") and text[8:].isdecimal() and len(text) == 15 for text in found)
    assert not set(found) & set(phones)
    mixed = [f"AB-{number}" if number % 4 else f"x{number:05}/Q" for number in range(100, 200)]
    found = made(mixed, "text", rows=1000)
    short = [text for text in found if text.startswith("AB-")]
    assert len(short) / 1000 == pytest.approx(0.75, abs=0.05)
    assert all(text[0] == "x" and text[6:] == "/Q" for text in found if text not in short)


def test_names_are_not_given_away() -> None:
    names = [f"{'Abcdefghij'[: 3 + number % 7]} Mc{'Qrstuvwxyz'[: 2 + (number * 3) % 8].lower()}" for number in NUMBERS]
    names = [f"{name} von und zu {number}" if number % 2 else name for number, name in enumerate(names)]
    fresh, _ = fresh_of(names, "text")
    kept = msgspec.json.encode(fresh)
    assert not any(name.split()[0].encode() in kept for name in names if len(name.split()[0]) > 3)
    found = made(names, "text")
    assert not set(found) & set(names)
    assert 3 < np.mean([len(name) for name in found]) < 40


def test_a_pattern_of_few_rows_is_not_kept() -> None:
    texts = [f"A{number:03}" for number in range(96)] + ["Secret-1!", "Secret-2!", "Secret-3!", "Secret-4!"]
    fresh, _ = fresh_of(texts, "text")
    assert b"!" not in msgspec.json.encode(fresh)
    assert all("!" not in text for text in made(texts, "text", rows=2000))


def test_texts_without_case_and_missing_ones() -> None:
    texts = [None if number % 4 == 0 else chr(0x4E00 + number) * 2 for number in NUMBERS]
    found = made(texts, "text", rows=1000)
    assert found.count(None) / 1000 == pytest.approx(0.25, abs=0.05)
    assert all(len(text) == 2 and text.isalpha() for text in found if text is not None)
    assert None not in made(texts, "text", complete=True)


def test_a_column_of_empty_texts_stays_one() -> None:
    assert set(made(["", "", ""] * 10, "text")) == {""}
    assert set(made([None] * 30, "text")) == {None}


def test_a_share_of_the_rows_is_held_out_by_their_numbers() -> None:
    held = split_rows(10_000, 0.2, 3)
    assert held.mean() == pytest.approx(0.2, abs=0.02)
    # Neither how many rows there are nor their neighbours change a row's lot; the seed does.
    assert np.array_equal(split_rows(500, 0.2, 3), held[:500])
    assert not np.array_equal(split_rows(10_000, 0.2, 4), held)
    assert np.corrcoef(held, split_rows(10_000, 0.2, 4))[0, 1] == pytest.approx(0, abs=0.05)
    assert np.corrcoef(held[1:], held[:-1])[0, 1] == pytest.approx(0, abs=0.05)
    assert not split_rows(100, 0.0, 3).any()


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def fetched(store: FolderStore, *rows: Any, **columns: str) -> Any:
    return fetch_table(FitWork(rows=rows, columns=columns), store, threading.Event(), "x.csv")


def test_ranges_of_csv_are_typed_as_one(store: FolderStore) -> None:
    whole = b'1,"a, b",2020-01-01\n2,NA,2020-01-02\n2.5,"",2020-01-03'
    store.put("x.csv", b"n,t,d\n" + whole)
    ranges = [
        ByteRange(uri="x.csv", etag=None, format="csv", offset=6 + start, length=end - start, columns=("n", "t", "d"))
        for start, end in ((0, 20), (20, len(whole)))
    ]
    found = fetched(store, *ranges)
    assert found.table.to_pylist() == [
        {"n": 1.0, "t": "a, b", "d": dt.date(2020, 1, 1)},
        {"n": 2.0, "t": None, "d": dt.date(2020, 1, 2)},
        {"n": 2.5, "t": "", "d": dt.date(2020, 1, 3)},
    ]
    assert found.digest != fetched(store, *ranges, n="categorical").digest


def test_lines_of_json_may_lack_fields(store: FolderStore) -> None:
    data = b'{"a": 1, "b": "x"}\n{"a": 2.5}\n{"b": "y", "c": true}'
    store.put("x.jsonl", data)
    where = ByteRange(uri="x.jsonl", etag=None, format="jsonl", offset=0, length=len(data))
    assert fetched(store, where).table.to_pylist()[1] == {"a": 2.5, "b": None, "c": None}
    data = b'{"a": 1}\n{"a": "x"}'
    store.put("y.jsonl", data)
    with pytest.raises(ModelError, match="column 'a' holds values of several types"):
        fetched(store, ByteRange(uri="y.jsonl", etag=None, format="jsonl", offset=0, length=len(data)))


def test_rows_of_parquet_keep_their_types(store: FolderStore, tmp_path: Path) -> None:
    table = pa.table({"at": pa.array([dt.datetime(2020, 1, 1, 3)] * 6), "n": pa.array(range(6), type=pa.int16())})  # noqa: DTZ001
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=4)
    ranges = [
        RowGroupRange(uri="x.parquet", etag=None, group=0, offset=1, count=3),
        RowGroupRange(uri="x.parquet", etag=None, group=1, offset=0, count=2),
    ]
    assert fetched(store, *ranges).table.equals(table.slice(1))
