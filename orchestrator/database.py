"""Connections to SQLite and PostgreSQL, and how a transaction runs on each.

SQLite serialises writers: a writing transaction begins with BEGIN IMMEDIATE, so that it waits at its start (and never
fails half way for having read first). PostgreSQL locks rows; what it rolls back for a deadlock or a serialisation
failure is run again, a bounded number of times.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

T = TypeVar("T")

STATEMENT_SECONDS = 30
LOCK_SECONDS = 10
RETRIES = 5
MIGRATION_LOCK = 0x4E4D_1001  # any number, the same in every process of Nightmill
_READ_ONLY = "nightmill_read_only"


class DatabaseError(Exception):
    """The database cannot be used as configured; the message names it, without its password."""


def connect(url: str) -> Engine:
    """An engine for a database URL. Opens no connection yet.

    Raises:
        DatabaseError: the URL is malformed, or of a database that Nightmill does not run on.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        return _connect_sqlite(parsed)
    return create_engine(
        parsed,
        pool_pre_ping=True,
        pool_size=8,
        max_overflow=8,
        connect_args={
            "application_name": "nightmill",
            "connect_timeout": 10,
            "options": f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={LOCK_SECONDS}s"
            f" -c idle_in_transaction_session_timeout={STATEMENT_SECONDS}s",
        },
    )


def shown(url: str) -> str:
    """A database URL as it may be shown: without its password."""
    return _parse(url).render_as_string(hide_password=True)


def check(engine: Engine) -> None:
    """Raise DatabaseError unless the database answers and has this version's schema.

    Raises:
        DatabaseError: it does not.
    """
    where = engine.url.render_as_string(hide_password=True)
    try:
        with reading(engine) as connection:
            connection.execute(text("SELECT count(*) FROM alembic_version"))
    except DBAPIError as error:
        raise DatabaseError(f"the database {where} cannot be used: {first_line(error)}") from error


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads: one consistent view on SQLite, and never in the way of a writer."""
    with engine.connect().execution_options(**{_READ_ONLY: True}) as connection, connection.begin():
        yield connection


def write(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Run `work` in one writing transaction and commit it; again where the database asks for that.

    `work` may run more than once, so all it does must be in the database. It must do nothing slow: no network, no
    store, no waiting.
    """
    for retries_left in reversed(range(RETRIES)):
        try:
            with engine.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            if retries_left == 0 or not _asks_for_retry(error):
                raise
            # Long enough for the winner of a deadlock to commit.
            time.sleep(0.01 * (RETRIES - retries_left))
    raise AssertionError("the last try either returns or raises")


def migrate(url: str) -> None:
    """Bring the schema to this version's. Safe when several processes start at once: one does it, the others wait.

    Raises:
        DatabaseError: the database cannot be reached, or was written by a later version of Nightmill.
    """
    from alembic.util import CommandError  # noqa: PLC0415 - an eighth of a second that only migrations need

    parsed = _parse(url)
    engine = connect(url)
    try:
        if parsed.get_backend_name() == "sqlite":
            with FileLock(f"{parsed.database}.migrate.lock"), engine.begin() as connection:
                _upgrade(connection)
        else:
            with engine.begin() as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                _upgrade(connection)
    except DBAPIError as error:
        where = parsed.render_as_string(hide_password=True)
        raise DatabaseError(f"the database {where} cannot be used: {first_line(error)}") from error
    except CommandError as error:
        where = parsed.render_as_string(hide_password=True)
        raise DatabaseError(f"the schema of {where} is not one that this version knows: {error}") from error
    finally:
        engine.dispose()


def _upgrade(connection: Connection) -> None:
    """Run Alembic; all of its configuration is here, none in a file."""
    from alembic import command  # noqa: PLC0415 - see `migrate`
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise DatabaseError(
            "not a database URL; examples: sqlite:////path/file.db, postgresql://user@host/name"
        ) from error
    backend = parsed.drivername.split("+")[0]
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise DatabaseError("SQLite needs a file that several processes can open: sqlite:////path/file.db")
        return parsed
    if backend in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    raise DatabaseError(f"Nightmill runs on SQLite and PostgreSQL, not on {backend!r}")


def _connect_sqlite(url: URL) -> Engine:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": LOCK_SECONDS}, pool_size=8, max_overflow=8)

    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        assert isinstance(connection, sqlite3.Connection)  # noqa: S101 - narrows the type; the driver is ours to choose
        connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={LOCK_SECONDS * 1000}",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _asks_for_retry(error: DBAPIError) -> bool:
    """Serialisation failure (40001) or deadlock (40P01): the whole transaction was rolled back, and may run again."""
    return getattr(error.orig, "sqlstate", None) in {"40001", "40P01"}


def is_passing(error: DBAPIError) -> bool:
    """Whether the error may go by itself: the connection was lost, or the server is busy, starting or ending.

    On the way there SQLAlchemy drops broken connections from its pool, so the next try gets a fresh one.
    """
    return error.connection_invalidated or isinstance(error, OperationalError)


def first_line(error: DBAPIError) -> str:
    """What the driver says, in one line and without the statement."""
    return str(error.orig).strip().split("\n", 1)[0]
