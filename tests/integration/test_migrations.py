"""The schema is Alembic's alone: it is what the tables say, it comes up once, and its history is never edited."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from orchestrator import database
from orchestrator.tables import Base

MIGRATIONS = Path(database.__file__).parent / "migrations"


def test_tables_and_migrations_agree(database_url: str) -> None:
    engine = database.connect(database_url)
    with engine.connect() as connection:
        differences = compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True}), Base.metadata
        )
    engine.dispose()
    assert differences == []


def test_starters_at_once_migrate_once(empty_database_url: str) -> None:
    starters = 4
    barrier = Barrier(starters)

    def start(_: int) -> None:
        barrier.wait()
        database.migrate(empty_database_url)

    with ThreadPoolExecutor(starters) as pool:
        list(pool.map(start, range(starters)))
    engine = database.connect(empty_database_url)
    assert set(inspect(engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
    database.check(engine)
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite_url", "postgres_url"])
def test_a_schema_of_a_later_version_is_refused(request: pytest.FixtureRequest, kind: str) -> None:
    database_url = request.getfixturevalue(kind)
    engine = database.connect(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(database.DatabaseError, match="is not one that this version knows"):
        database.migrate(database_url)


def test_a_released_revision_is_never_edited() -> None:
    recorded = dict(
        reversed(line.split(maxsplit=1)) for line in (MIGRATIONS / "hashes.txt").read_text().splitlines() if line
    )
    actual = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (MIGRATIONS / "versions").glob("*.py")
    }
    assert actual == recorded


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with pytest.raises(database.DatabaseError, match=r"127\.0\.0\.1:1/") as caught:
        database.migrate("postgresql://someone:hunter2@127.0.0.1:1/nightmill")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "not a database URL"),
        ("mysql://localhost/x", "not on 'mysql'"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, says: str) -> None:
    with pytest.raises(database.DatabaseError, match=says):
        database.connect(url)


def test_a_database_without_schema_is_refused(empty_database_url: str) -> None:
    engine = database.connect(empty_database_url)
    with pytest.raises(database.DatabaseError, match="cannot be used"):
        database.check(engine)
    engine.dispose()
