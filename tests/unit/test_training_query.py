"""Tables out of a database."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from models.errors import FailureKind, ModelError
from workers.training_data import FetchStoppedError
from workers.training_query import fetch_query


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE sales (id INTEGER, town TEXT, price REAL, odd ANY)")
        rows = [(number, None if number % 3 else "Graz", number / 2, number) for number in range(30)]
        connection.executemany("INSERT INTO sales VALUES (?, ?, ?, ?)", [*rows, (30, "Linz", 1.0, "text")])
    connection.close()
    monkeypatch.setenv("NIGHTMILL_SOURCE_SHOP", f"sqlite:///{path}")
    return path


def rows_of(query: str, database: str = "shop", limit: int = 100) -> list[dict[str, object]]:
    return fetch_query(query, database, limit=limit, stop=threading.Event()).to_pylist()


@pytest.mark.usefixtures("shop")
def test_rows_come_as_a_table() -> None:
    found = rows_of("SELECT id, town, price FROM sales WHERE id < 4 ORDER BY id DESC")
    assert found[0] == {"id": 3, "town": "Graz", "price": 1.5}
    assert [row["town"] for row in found] == ["Graz", None, None, "Graz"]
    assert rows_of("SELECT id FROM sales WHERE id > 99") == []


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("query", "code", "says"),
    [
        ("SELECT odd FROM sales", "training_data_unreadable", "'odd' holds values of several types"),
        ("SELECT * FROM sales a, sales b", "training_data_unreadable", "more than 100 rows"),
        ("DELETE FROM sales WHERE id = 1", "query_failed", "does not return rows"),
    ],
)
def test_what_is_no_table_says_why(query: str, code: str, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        rows_of(query)
    assert (caught.value.kind, caught.value.code) == (FailureKind.MODEL, code)
    assert len(rows_of("SELECT id FROM sales")) == 31


def test_a_database_that_nobody_has_given_is_not_read(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="'till' is none that workers have: NIGHTMILL_SOURCE_TILL") as caught:
        rows_of("SELECT 1", "till")
    assert caught.value.code == "unknown_database"
    monkeypatch.setenv("NIGHTMILL_SOURCE_TILL", "nonsense://user:secret@host")
    with pytest.raises(ModelError) as caught:
        rows_of("SELECT 1", "till")
    assert caught.value.code == "unknown_database"
    assert "secret" not in caught.value.message
    monkeypatch.setenv("NIGHTMILL_SOURCE_TILL", f"sqlite:///{shop.parent}/nowhere/x.db")
    with pytest.raises(ModelError) as caught:
        rows_of("SELECT 1", "till")
    assert (caught.value.kind, caught.value.code) == (FailureKind.PLATFORM, "database_unreachable")


@pytest.mark.usefixtures("shop")
def test_reading_stops_when_it_is_told_to() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(FetchStoppedError):
        fetch_query("SELECT * FROM sales", "shop", limit=100, stop=stop)
