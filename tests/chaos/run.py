"""A job while it runs: where it stands in SQL, and what appears in the store, looked at past every fault."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import orjson
from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.exc import DBAPIError

from orchestrator.lifecycle import ShardStatus
from orchestrator.tables import Execution, Job, Shard
from tests.chaos.stand import Stand
from tests.chaos.workload import Work
from tests.support.eventually import eventually
from workers.keys import parts_prefix
from workers.store import MissingObjectError

Found = TypeVar("Found")
LOOK_SECONDS = 0.1
STEP_SECONDS = 0.005
FOLLOW_SECONDS = 30.0
"""How long a moment that a fault waits for may take to come."""


class JobRow(NamedTuple):
    """A job in SQL."""

    status: str
    planner: str | None
    planned_at: float | None
    finished_at: float | None


class ExecutionRow(NamedTuple):
    """A line of the history of a shard."""

    id: str
    shard: int
    worker: str
    granted_at: float
    ended_at: float | None
    ending: str | None


class ShardRow(NamedTuple):
    """A shard in SQL."""

    number: int
    items: int
    status: str
    started_at: float | None
    finished_at: float | None
    part_key: str | None


@dataclass
class Run:
    """A job that was submitted."""

    stand: Stand
    workload: Work
    job: str
    answers: list[str]
    parts: PartWatch
    submitted_at: float

    def row(self) -> JobRow:
        """The job as it stands; waits while the database is away."""

        def look() -> JobRow:
            with self.stand.reading() as connection:
                columns = (Job.status, Job.planner, Job.planned_at, Job.finished_at)
                return JobRow(*connection.execute(select(*columns).where(Job.id == self.job)).one())

        return _patiently(look)

    def shards(self) -> list[ShardRow]:
        """Its shards, in item order."""

        def look() -> list[ShardRow]:
            columns = (Shard.number, Shard.count, Shard.status, Shard.started_at, Shard.finished_at, Shard.part_key)
            with self.stand.reading() as connection:
                statement = select(*columns).where(Shard.job_id == self.job).order_by(Shard.first)
                return [ShardRow(*row) for row in connection.execute(statement)]

        return _patiently(look)

    def executions(self) -> list[ExecutionRow]:
        """Every execution that was granted a shard of it, the oldest first."""
        return self._executions(Execution.job_id == self.job)

    def family(self) -> list[ExecutionRow]:
        """As `executions`, with those of the passes over it."""
        passes = select(Job.id).where(Job.flow == self.job)
        return self._executions(or_(Execution.job_id == self.job, Execution.job_id.in_(passes)))

    def _executions(self, which: ColumnElement[bool]) -> list[ExecutionRow]:
        def look() -> list[ExecutionRow]:
            columns = (
                *(Execution.id, Execution.shard, Execution.worker),
                *(Execution.granted_at, Execution.ended_at, Execution.ending),
            )
            with self.stand.reading() as connection:
                statement = select(*columns).where(which).order_by(Execution.granted_at)
                return [ExecutionRow(*row) for row in connection.execute(statement)]

        return _patiently(look)

    def passing(self) -> tuple[str | None, bool]:
        """Where the passes over it are, and whether one runs now."""

        def look() -> tuple[str | None, bool]:
            runs = select(Shard.job_id).join(Job, Job.id == Shard.job_id)
            runs = runs.where(Job.flow == self.job, Shard.status == ShardStatus.RUNNING.value)
            with self.stand.reading() as connection:
                at = connection.scalars(select(Job.pass_at).where(Job.id == self.job)).one()
                return at, connection.execute(runs).first() is not None

        return _patiently(look)

    def await_running(self) -> None:
        """Wait until a worker has begun with a shard."""
        self.follow(lambda: any(shard.status == ShardStatus.RUNNING for shard in self.shards()), "no shard runs")

    def follow(self, look: Callable[[], object], what: str) -> None:
        """Wait until `look` gives something true, looking as often as can be: for moments that are short."""
        deadline = time.monotonic() + FOLLOW_SECONDS
        pause = threading.Event()
        while not look():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {FOLLOW_SECONDS:g} s: {what}")
            pause.wait(STEP_SECONDS)

    def await_end(self, within: float) -> None:
        """Wait until the job has ended; AssertionError after `within` seconds."""
        eventually(lambda: self.row().finished_at is not None, within=within, what=f"{self.row()} {self._open()}")

    def _open(self) -> list[ShardRow]:
        return [shard for shard in self.shards() if shard.finished_at is None]


class SeenPart(NamedTuple):
    """A part as it was first seen."""

    at: float
    """Seconds since the epoch."""
    records: int


class PartWatch:
    """Looks at every part as it appears: when that was, and whether it was whole."""

    def __init__(self, stand: Stand, job: str) -> None:
        self.seen: dict[str, SeenPart] = {}
        """By key."""
        self.broken: list[str] = []
        """Keys of parts that were visible before they were whole."""
        self._stand = stand
        self._prefix = parts_prefix(job)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="parts", daemon=True)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def whole(self) -> list[str]:
        """Keys of the parts seen so far that hold every item of their shard."""
        return [key for key in list(self.seen) if not key.endswith(".partial.jsonl")]

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            try:
                keys = list(self._stand.store.list(self._prefix))
            except FileNotFoundError:
                continue  # a folder went while we were in it
            for key in keys:
                if key not in self.seen:
                    self._look(key)

    def _look(self, key: str) -> None:
        now = time.time()
        try:
            data = self._stand.store.get(key)
        except MissingObjectError:
            return  # a losing part, swept since we listed it
        self.seen[key] = SeenPart(now, data.count(b"\n"))
        if not data.endswith(b"\n") or not all(_is_json(line) for line in data.splitlines()):
            self.broken.append(key)


def submit(stand: Stand, workload: Work, folder: Path, chance: random.Random) -> Run:
    """Make ready what a job needs, and submit it."""
    with stand.client() as client:
        spec, answers = workload.prepare(client, folder, chance)
        submitted_at = time.time()
        job = client.submit(spec, key=f"{time.time_ns()}").id
    return Run(stand, workload, job, answers, PartWatch(stand, job), submitted_at)


def warm_up(stand: Stand, workload: Work, folder: Path, chance: random.Random) -> None:
    """Run a small job, after which every process has its connections and the actor has its model."""
    run = submit(stand, workload.small(), folder, chance)
    run.await_end(within=180.0)


def _patiently(look: Callable[[], Found]) -> Found:
    for _ in range(600):
        try:
            return look()
        except DBAPIError:
            threading.Event().wait(0.1)  # PostgreSQL is restarting: a fault of ours
    return look()


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True
