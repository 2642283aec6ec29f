"""What a scenario runs against: a whole stack of its own, and ways to look at it past every fault."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import boto3
import httpx
import psutil
import psycopg
from sqlalchemy import Connection, Engine, text

from orchestrator import database
from orchestrator.client import Client
from orchestrator.stackfile import read_record, with_descendants
from tests.support import databases, services
from tests.support.commands import Nightmill
from tests.support.eventually import eventually
from tests.support.faulty_s3 import FaultyS3, faulty_s3
from tests.support.tcp_proxy import TcpProxy
from workers.store import ObjectStore, open_store

LEASE_SECONDS = 3.0
HANG_SECONDS = 3.0
SETTINGS = {
    "NIGHTMILL_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
    "NIGHTMILL_HANG_SECONDS": f"{HANG_SECONDS:g}",
    "NIGHTMILL_ALLOW_FAULTS": "1",
    "NIGHTMILL_PREWARM": "false",  # importing an engine that no scenario asks for takes half a minute of a core
}
BUCKET = "nightmill"
ACTOR = "ray:ModelActor"
"""What a process that holds a model is called."""
Place: TypeAlias = Literal["embedded", "services"]
"""Where a stack keeps its state: SQLite and a folder of its own; or PostgreSQL, S3 and Redis, each behind a proxy."""


class RedisServer:
    """A Redis that can be restarted, which leaves it empty."""

    def __init__(self) -> None:
        self.port = services.free_port()
        self._held = ExitStack()

    def start(self) -> None:
        """Start it."""
        self._held.enter_context(services.redis_server(port=self.port))

    def stop(self) -> None:
        """Stop it."""
        self._held.close()


@dataclass(frozen=True)
class Services:
    """The services of every scenario that does not run embedded, and what stands before each."""

    postgres_url: str
    sql: TcpProxy
    redis: RedisServer
    broker: TcpProxy
    s3: FaultyS3
    objects: TcpProxy

    def mend(self) -> None:
        """Take every fault away."""
        for proxy in (self.sql, self.broker, self.objects):
            proxy.lose_answers(b"", 0)
            proxy.restore()
        self.s3.mend()


@contextmanager
def running_services() -> Iterator[Services]:
    """Start them all. The process's own AWS variables then name the S3 server that makes no faults."""
    with ExitStack() as held:
        postgres_url = held.enter_context(services.postgres_server())
        endpoint = held.enter_context(services.s3_server())
        os.environ.update(services.s3_environment(endpoint))
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        client.close()
        s3, s3_port = held.enter_context(faulty_s3())
        redis = RedisServer()
        redis.start()
        held.callback(redis.stop)
        yield Services(
            postgres_url,
            sql=held.enter_context(TcpProxy(urlsplit(postgres_url).port or 0)),
            redis=redis,
            broker=held.enter_context(TcpProxy(redis.port)),
            s3=s3,
            objects=held.enter_context(TcpProxy(s3_port)),
        )


@dataclass
class Stand:
    """One stack. `engine` and `store` reach its database and its objects directly, past the proxies."""

    place: Place
    nightmill: Nightmill
    engine: Engine
    store: ObjectStore
    services: Services | None
    killed: dict[str, set[int]] = field(default_factory=dict)
    """Processes that faults have ended, by role."""

    @property
    def given(self) -> Services:
        """The services, of a scenario that runs on them."""
        assert self.services is not None
        return self.services

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client of the stack's API, once that answers: it may have been killed a moment ago."""
        record = eventually(lambda: read_record(self.nightmill.data_dir), what="there is no stack")
        eventually(lambda: _answers(record.url), what="the API does not answer")
        with Client(record.url) as client:
            yield client

    def pids(self, role: str) -> list[int]:
        """The processes of a role, as `nightmill status` names it, that run now."""
        record = read_record(self.nightmill.data_dir)
        found = [] if record is None else with_descendants(record.processes)
        return [process.pid for process in found if process.role == role and process.pid is not None]

    def kill(self, role: str, pids: list[int], how: signal.Signals = signal.SIGKILL) -> None:
        """Signal these processes, and remember that we did."""
        for pid in pids:
            self.killed.setdefault(role, set()).add(pid)
            try:
                os.kill(pid, how)
            except ProcessLookupError:
                continue  # it ended in this moment, which is as good

    def restarted_at(self, role: str) -> float | None:
        """When the process of a role began that runs now, in seconds since the epoch; None where it is the first."""
        for pid in self.pids(role):
            if pid not in self.killed.get(role, set()):
                try:
                    return psutil.Process(pid).create_time()
                except psutil.NoSuchProcess:
                    continue
        return None

    @contextmanager
    def stopped(self, role: str) -> Iterator[None]:
        """Let a process of this role do nothing meanwhile (SIGSTOP)."""
        pids = self.pids(role)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    continue  # it was killed meanwhile

    @contextmanager
    def writes_locked(self) -> Iterator[None]:
        """Let no other connection write to the database meanwhile."""
        with self.engine.connect() as connection, connection.begin():
            if self.place == "services":
                connection.execute(text("LOCK TABLE jobs, shards, executions IN EXCLUSIVE MODE"))
            yield

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A look at the database."""
        with database.reading(self.engine) as connection:
            yield connection

    def log(self, role: str) -> str:
        """What a process has said so far."""
        path = self.nightmill.data_dir / "logs" / f"{role}.log"
        return path.read_text(errors="replace") if path.exists() else ""


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=5.0).is_success
    except httpx.TransportError:
        return False


@contextmanager
def standing(place: Place, folder: Path, given: Services | None, settings: dict[str, str]) -> Iterator[Stand]:
    """Bring up a stack in a folder. It is stopped, and nothing of it may be left, when the scenario is over.

    Args:
        place: where it keeps its state.
        folder: an empty one.
        given: the services, for a stack that is not embedded.
        settings: more settings of the stack.
    """
    with ExitStack() as held:
        data_dir = folder / "data"
        environment = {**SETTINGS, **settings}
        database_url, store_url = f"sqlite:///{data_dir / 'nightmill.db'}", (data_dir / "store").as_uri()
        if place == "services":
            assert given is not None
            given.mend()
            database_url = held.enter_context(databases.postgres_copy(given.postgres_url, None))
            store_url = f"s3://{BUCKET}/{folder.name}-{time.time_ns():x}"
            through = urlsplit(database_url)
            environment |= {
                "NIGHTMILL_DATABASE_URL": through._replace(netloc=f"nightmill@127.0.0.1:{given.sql.port}").geturl(),
                "NIGHTMILL_REDIS_URL": f"redis://127.0.0.1:{given.broker.port}/0",
                "NIGHTMILL_STORE_URL": store_url,
                **services.s3_environment(f"http://127.0.0.1:{given.objects.port}"),
            }
        nightmill = Nightmill(data_dir, environment)
        engine = database.connect(database_url)
        held.callback(engine.dispose)
        held.callback(_end_all, nightmill)
        nightmill.run("up", "--detach", "--port", "0")
        yield Stand(place, nightmill, engine, open_store(store_url), given if place == "services" else None)


def crash_postgres(url: str) -> None:
    """Have PostgreSQL end every connection and recover, as it does when one of its processes is killed."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        os.kill(int(row[0]), signal.SIGKILL)


def _end_all(nightmill: Nightmill) -> None:
    """End what a scenario that broke off has left; one that did not has checked that there is nothing."""
    for pid in nightmill.processes():
        try:
            psutil.Process(pid).kill()
        except psutil.NoSuchProcess:
            continue
