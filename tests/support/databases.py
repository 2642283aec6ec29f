"""A migrated database for each test, cheaply: copies of one that Alembic built once a session, or one that is emptied.

What a test reads and writes by itself needs no database of its own: an emptied one is as good, and an engine that is
kept has compiled its statements before.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
from psycopg import sql

from orchestrator import database

_numbers = count(1)


def migrated_file(folder: Path) -> Path:
    """A SQLite file with the schema."""
    path = folder / "migrated.db"
    database.migrate(f"sqlite:///{path}")
    return path


@contextmanager
def sqlite_copy(migrated: Path, folder: Path) -> Iterator[str]:
    """URL of a copy of the migrated file."""
    path = folder / "nightmill.db"
    for old in folder.glob(f"{path.name}*"):  # what SQLite had beside it, too
        old.unlink()
    shutil.copyfile(migrated, path)
    yield f"sqlite:///{path}"


def migrated_template(server_url: str) -> str:
    """A PostgreSQL database with the schema, to be copied by name."""
    _run(server_url, sql.SQL("CREATE DATABASE migrated"))
    database.migrate(database_named(server_url, "migrated"))
    return "migrated"


@contextmanager
def postgres_copy(server_url: str, template: str | None) -> Iterator[str]:
    """URL of a copy of the template; of an empty database, where template is None."""
    name = f"test_{next(_numbers)}"
    source = sql.SQL("") if template is None else sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
    _run(server_url, sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(name), source))
    try:
        yield database_named(server_url, name)
    finally:
        _run(server_url, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def emptied(url: str) -> None:
    """End every other connection to a PostgreSQL database, and leave nothing in its tables but the schema's version."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
        names = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        )
        tables = sql.SQL(", ").join(sql.Identifier(str(name)) for (name,) in names)
        connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(tables))


def database_named(server_url: str, name: str) -> str:
    """The URL of another database of the same server."""
    return f"{server_url.rpartition('/')[0]}/{name}"


def _run(server_url: str, statement: sql.Composable) -> None:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(statement)
