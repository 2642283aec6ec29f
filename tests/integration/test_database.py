"""Transactions on both databases: whole or not at all, run again where the server asks for it, back after a loss."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest
from sqlalchemy import Connection, Engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from orchestrator import database
from orchestrator.tables import Probe


def put(connection: Connection, reaper: str, value: int) -> None:
    connection.execute(insert(Probe).values(reaper=reaper, value=value, applied_at=0.0))


def value(engine: Engine, reaper: str) -> int | None:
    with database.reading(engine) as connection:
        found: int | None = connection.execute(select(Probe.value).where(Probe.reaper == reaper)).scalar()
        return found


def test_a_transaction_that_fails_leaves_nothing(engine: Engine) -> None:
    def work(connection: Connection) -> None:
        put(connection, "a", 1)
        put(connection, "a", 2)

    with pytest.raises(IntegrityError):
        database.write(engine, work)
    assert value(engine, "a") is None


def test_a_deadlock_is_run_again_and_both_succeed(postgres_url: str) -> None:
    engine = database.connect(postgres_url)
    database.write(engine, lambda connection: (put(connection, "a", 0), put(connection, "b", 0)))
    both = Barrier(2, timeout=30)
    tries: list[str] = []

    def add(first: str, second: str) -> None:
        met = False

        def work(connection: Connection) -> None:
            nonlocal met
            tries.append(first)
            connection.execute(update(Probe).where(Probe.reaper == first).values(value=Probe.value + 1))
            if not met:
                met = True
                both.wait()
            connection.execute(update(Probe).where(Probe.reaper == second).values(value=Probe.value + 1))

        database.write(engine, work)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(add, ["a", "b"], ["b", "a"]))
    assert (value(engine, "a"), value(engine, "b")) == (2, 2)
    assert len(tries) == 3
    engine.dispose()


def test_running_again_is_bounded(postgres_url: str) -> None:
    engine = database.connect(postgres_url)
    tries = 0

    def work(connection: Connection) -> None:
        nonlocal tries
        tries += 1
        raise OperationalError("x", None, psycopg.errors.DeadlockDetected("always"))

    with pytest.raises(OperationalError):
        database.write(engine, work)
    assert tries == database.RETRIES
    engine.dispose()


def test_other_errors_are_not_run_again(engine: Engine) -> None:
    tries = 0

    def work(connection: Connection) -> None:
        nonlocal tries
        tries += 1
        connection.execute(text("SELECT * FROM nowhere"))

    with pytest.raises(DBAPIError):
        database.write(engine, work)
    assert tries == 1


def test_a_connection_that_was_cut_is_replaced(postgres_url: str) -> None:
    engine = database.connect(postgres_url)
    database.write(engine, lambda connection: put(connection, "a", 1))
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert value(engine, "a") == 1
    engine.dispose()


def test_a_connection_cut_within_a_transaction_is_an_error_that_may_pass(postgres_url: str) -> None:
    engine = database.connect(postgres_url)

    def work(connection: Connection) -> None:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
        connection.execute(text("SELECT 1"))

    with pytest.raises(DBAPIError) as caught:
        database.write(engine, work)
    assert database.is_passing(caught.value)
    engine.dispose()


def test_statements_have_a_time_limit(postgres_url: str) -> None:
    engine = database.connect(postgres_url)
    with engine.connect() as connection:
        limit = connection.execute(text("SHOW statement_timeout")).scalar()
    engine.dispose()
    assert limit == f"{database.STATEMENT_SECONDS}s"


def test_sqlite_is_set_up_for_several_processes(sqlite_url: str) -> None:
    engine = database.connect(sqlite_url)
    with engine.connect() as connection:
        modes = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
        }
    engine.dispose()
    assert modes == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 10_000, "synchronous": 2}


def test_a_sqlite_reader_is_not_in_the_way_of_a_writer(sqlite_url: str) -> None:
    engine = database.connect(sqlite_url)
    with database.reading(engine) as reader:
        assert reader.execute(select(Probe.value)).all() == []
        database.write(engine, lambda connection: put(connection, "a", 1))
        assert reader.execute(select(Probe.value)).all() == []
    assert value(engine, "a") == 1
    engine.dispose()


def test_a_sqlite_writer_takes_its_lock_at_the_start(sqlite_url: str) -> None:
    """A transaction that first reads and then writes must not fail half way because another wrote in between."""
    engine = database.connect(sqlite_url)
    path = sqlite_url.removeprefix("sqlite:///")

    def work(connection: Connection) -> str:
        other = sqlite3.connect(path, timeout=0)
        try:
            other.execute("INSERT INTO probes VALUES ('b', 1, 0)")
        except sqlite3.OperationalError as error:
            return str(error)
        finally:
            other.close()
        return "it could write"

    assert database.write(engine, work) == "database is locked"
    engine.dispose()
