"""What an execution asks of its store is asked again while that is away, within a bound, until somebody says stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import msgspec
import pytest

from models.spec import Message, ModelInfo, Output, TextRequest, TextResult, Usage
from tests.support.clocks import ManualClock
from workers.contracts import ByteRange, CountRange, ShardTask, Work
from workers.execute import LONGEST_PAUSE, STORE_SECONDS, Execution
from workers.records import read_part
from workers.sources import SourceError
from workers.store import StoreError
from workers.store_folder import FolderStore

INFO = ModelInfo(model="echo", revision="1", engine="echo", context_length=64, reproducible="exact", shards_in_flight=1)
TASK = ShardTask(
    job="job_1",
    shard=0,
    token=1,
    first=0,
    count=3,
    source=CountRange(start=0, count=3),
    work=Work(model="echo", engine="auto", messages=(Message("user", "item {{ index }}"),), sampling={}, seed=1),
)


class Engine:
    """Answers at once, and counts how often it had to."""

    def __init__(self) -> None:
        self.answered = 0

    async def load(self) -> ModelInfo:
        return INFO

    async def generate(self, requests: Sequence[TextRequest]) -> AsyncGenerator[Sequence[TextResult], None]:
        self.answered += len(requests)
        yield [
            TextResult(index=request.index, outputs=(Output("yes", "stop", request.seed),), usage=Usage(1, 1))
            for request in requests
        ]

    def quiet_seconds(self) -> float:
        return 0.0

    async def close(self) -> None:
        """Nothing to end."""


class AwayStore(FolderStore):
    """A store to which nothing can be written until a time."""

    def __init__(self, root: Path, clock: ManualClock, until: float) -> None:
        super().__init__(root)
        self.clock = clock
        self.until = until
        self.tries = 0
        self.unreadable_until = 0.0

    def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> None:
        self.tries += 1
        if self.clock() < self.until:
            raise StoreError("the store is away")
        super().put(key, data, content_type=content_type)

    def get(self, key: str, *, offset: int = 0, length: int | None = None, etag: str | None = None) -> bytes:
        if self.clock() < self.unreadable_until:
            raise StoreError("the store is away")
        return super().get(key, offset=offset, length=length, etag=etag)


class Run:
    """An execution whose time passes only while it pauses."""

    def __init__(self, root: Path, *, away: float = 0.0, task: ShardTask = TASK) -> None:
        self.clock = ManualClock(0.0)
        self.engine = Engine()
        self.store = AwayStore(root, self.clock, away)
        self.pauses: list[float] = []
        self.bounds: list[float] = []
        self.paused = asyncio.Event()
        self.blocked = False
        self.execution = Execution(
            task, "01J0000000000000000000000A", self.store, clock=self.clock, sleep=self.sleep, between=self.between
        )
        self.execution.granted.set()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(seconds)
        self.paused.set()
        if self.blocked:
            await asyncio.Event().wait()

    def between(self, low: float, high: float) -> float:
        self.bounds.append(high)
        return low + (high - low) * 0.8


async def test_a_minute_without_the_store_costs_no_generation(tmp_path: Path) -> None:
    run = Run(tmp_path, away=60.0)
    part = await run.execution.run(run.engine, INFO)
    assert read_part(part.key, run.store.get(part.key), first=0, count=3) == part
    assert run.engine.answered == 3
    assert run.bounds[:6] == [0.5, 1.0, 2.0, 4.0, 8.0, LONGEST_PAUSE]
    assert max(run.bounds) == LONGEST_PAUSE
    assert run.execution.progress().phase == "writing"


async def test_a_store_that_stays_away_fails_the_shard_after_a_bounded_time(tmp_path: Path) -> None:
    run = Run(tmp_path, away=1e9)
    with pytest.raises(StoreError, match="the store is away"):
        await run.execution.run(run.engine, INFO)
    assert STORE_SECONDS - LONGEST_PAUSE <= sum(run.pauses) < STORE_SECONDS
    assert run.store.tries == len(run.pauses) + 1


async def test_an_execution_that_is_told_to_stop_writes_no_part_any_more(tmp_path: Path) -> None:
    run = Run(tmp_path, away=1.0)
    run.blocked = True
    working = asyncio.create_task(run.execution.run(run.engine, INFO))
    await run.paused.wait()
    run.clock.advance(10.0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert list(run.store.list("")) == []
    kept = await run.execution.salvage()
    assert kept is not None
    assert list(run.store.list("")) == [run.execution.partial_key]


def reading_task(store: FolderStore) -> ShardTask:
    """A shard whose rows lie in the store, and which may have an earlier part there that is not."""
    data = b'{"index": 0}\n{"index": 1}\n{"index": 2}\n'
    store.put("rows.jsonl", data)
    source = ByteRange(uri="rows.jsonl", etag=None, format="jsonl", offset=0, length=len(data))
    return msgspec.structs.replace(TASK, source=source, earlier=("jobs/job_1/parts/000000-0001-none.jsonl",))


async def test_a_minute_without_the_store_costs_a_shard_that_reads_no_try(tmp_path: Path) -> None:
    run = Run(tmp_path, task=reading_task(FolderStore(tmp_path)))
    run.store.unreadable_until = 60.0
    part = await run.execution.run(run.engine, INFO)
    assert part.counts.ok == 3
    assert run.clock() >= 60.0
    assert run.bounds[:6] == [0.5, 1.0, 2.0, 4.0, 8.0, LONGEST_PAUSE]


async def test_a_store_that_cannot_be_read_fails_the_shard_after_a_bounded_time(tmp_path: Path) -> None:
    run = Run(tmp_path, task=reading_task(FolderStore(tmp_path)))
    run.store.unreadable_until = 1e9
    with pytest.raises(StoreError, match="the store is away"):
        await run.execution.run(run.engine, INFO)
    assert STORE_SECONDS - LONGEST_PAUSE <= sum(run.pauses) < STORE_SECONDS
    assert run.engine.answered == 0


async def test_rows_that_are_gone_are_not_asked_for_again(tmp_path: Path) -> None:
    task = reading_task(FolderStore(tmp_path))
    FolderStore(tmp_path).delete("rows.jsonl")
    run = Run(tmp_path, task=task)
    with pytest.raises((StoreError, SourceError)):
        await run.execution.run(run.engine, INFO)
    assert run.pauses == []
