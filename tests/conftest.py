"""Fixtures of the real services. A missing one skips its tests on a laptop and fails them where CI is set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3
import pytest
import redis
from sqlalchemy import Engine

from orchestrator import database
from tests.support import databases, services
from tests.support.clocks import ManualClock

BUCKET = "nightmill"


def pytest_configure() -> None:
    """Before an engine is imported: models of tests are so small that threads wait for each other most of the time."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@contextmanager
def _present() -> Iterator[None]:
    try:
        yield
    except services.MissingServiceError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs every service: {error}")
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings of the person who runs it."""
    for name in [name for name in os.environ if name.startswith("NIGHTMILL_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """URL of the session's Redis. Tests use `redis_url`."""
    with ExitStack() as stack:
        with _present():
            url = stack.enter_context(services.redis_server())
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """URL of an empty Redis database."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of the session's PostgreSQL, database `postgres`. Tests use `database_url`, or `postgres_url`."""
    with ExitStack() as stack:
        with _present():
            url = stack.enter_context(services.postgres_server())
        yield url


@pytest.fixture(scope="session")
def migrated_template(postgres_server: str) -> str:
    return databases.migrated_template(postgres_server)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return databases.migrated_file(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> Iterator[str]:
    """URL of a SQLite database of the test's own, with the schema."""
    with databases.sqlite_copy(migrated_file, tmp_path) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str, migrated_template: str) -> Iterator[str]:
    """URL of a PostgreSQL database of the test's own, with the schema."""
    with databases.postgres_copy(postgres_server, migrated_template) as url:
        yield url


@pytest.fixture(scope="session")
def kept_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="session")
def kept_database(postgres_server: str, migrated_template: str) -> Iterator[str]:
    with databases.postgres_copy(postgres_server, migrated_template) as url:
        yield url


@pytest.fixture
def emptied_sqlite_url(migrated_file: Path, kept_folder: Path) -> Iterator[str]:
    with databases.sqlite_copy(migrated_file, kept_folder) as url:
        yield url


@pytest.fixture
def emptied_postgres_url(kept_database: str) -> str:
    databases.emptied(kept_database)
    return kept_database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database with the schema, which stays as it is: the test runs once on each kind."""
    name = {"sqlite": "emptied_sqlite_url", "postgresql": "emptied_postgres_url"}[request.param]
    return str(request.getfixturevalue(name))


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database: the test runs once on each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        with databases.postgres_copy(request.getfixturevalue("postgres_server"), None) as url:
            yield url


@pytest.fixture(scope="session")
def engines() -> dict[str, Engine]:
    """The engines of databases that are emptied for each test, by URL: each compiles its statements once."""
    return {}


@pytest.fixture
def engine(database_url: str, engines: dict[str, Engine]) -> Iterator[Engine]:
    """An engine on `database_url`, with no open connection yet, and no listener but the test's own."""
    if database_url not in engines:
        engines[database_url] = database.connect(database_url)
    engine = engines[database_url].execution_options()
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Endpoint of the session's S3 server. Tests use `s3_url`, or `store_url`."""
    with ExitStack() as stack:
        with _present():
            endpoint = stack.enter_context(services.s3_server())
        yield endpoint


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """URL of an empty prefix of a bucket; the AWS variables point at its server."""
    for name, value in services.s3_environment(s3_server).items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)  # us-east-1 lets an owner create it again
    client.close()
    return f"s3://{BUCKET}/{abs(hash(request.node.nodeid)):x}"


@pytest.fixture
def folder_url(tmp_path: Path) -> str:
    """URL of an empty folder as a store."""
    return (tmp_path / "store").as_uri()


@pytest.fixture(params=["file", "s3"])
def store_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty object store: the test runs once on each kind."""
    return str(request.getfixturevalue({"file": "folder_url", "s3": "s3_url"}[request.param]))


@pytest.fixture(scope="module")
def ray_address(s3_server: str) -> Iterator[str]:
    """Address of a Ray cluster, which is idle for no other module. Its actors find the S3 server by themselves."""
    with ExitStack() as stack:
        with _present():
            address = stack.enter_context(services.ray_head(environment=services.s3_environment(s3_server)))
        yield address


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still until the test moves it."""
    return ManualClock()
