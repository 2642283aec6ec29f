"""A shard from its rows to its part: the same bytes however a job is cut, and what an interrupted one keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from models.backends.echo import GROUP, EchoBackend
from models.spec import Message, TextRequest, TextResult
from workers.contracts import CountRange, ShardTask, Work
from workers.execute import Execution
from workers.records import earlier_records
from workers.store_folder import FolderStore

ITEMS = 60


class OneGroup(EchoBackend):
    """Answers the first group, and then nothing more."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = asyncio.Event()

    async def generate(self, requests: Sequence[TextRequest]) -> AsyncIterator[Sequence[TextResult]]:
        async for results in super().generate(requests[:GROUP]):
            yield results
        self.waits.set()
        await asyncio.Event().wait()


def work(**fields: Any) -> Work:
    return Work(model="echo", engine="auto", messages=(Message("user", "{{ index }} {{ tone }}"),), **fields)


def task(first: int = 0, count: int = ITEMS, *, start: int = 0, skip: int = 0, **fields: Any) -> ShardTask:
    """Items of a job of rows that are crossed with two tones; its source begins at row `start`."""
    source = CountRange(start=start, count=ITEMS // 2 - start)
    job = work(sampling={}, seed=7, grid={"tone": ("warm", "bold")})
    return ShardTask(job="j", shard=0, token=1, first=first, count=count, source=source, skip=skip, work=job, **fields)


async def run(store: FolderStore, shard: ShardTask) -> bytes:
    backend = EchoBackend()
    execution = Execution(shard, f"E{shard.first}", store)
    execution.granted.set()
    part = await execution.run(backend, await backend.load())
    return store.get(part.key)


@pytest.mark.parametrize("size", [1, 3, 8, 59])
async def test_a_job_has_the_same_records_however_it_is_cut(tmp_path: Path, size: int) -> None:
    store = FolderStore(tmp_path)
    whole = await run(store, task())
    cut = [await run(store, task(first, min(size, ITEMS - first), start=first // 2)) for first in range(0, ITEMS, size)]
    assert b"".join(cut) == whole


async def test_a_shard_that_was_split_off_reads_the_source_of_the_whole(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    whole = await run(store, task(first=10, count=30, start=5))
    halves = [
        await run(store, task(first=10, count=13, start=5)),
        await run(store, task(first=23, count=17, start=5, skip=13)),
    ]
    assert b"".join(halves) == whole


async def test_an_interrupted_execution_keeps_what_had_ended(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    backend = OneGroup()
    info = await backend.load()
    shard = ShardTask(
        job="j",
        shard=0,
        token=1,
        first=0,
        count=2000,
        source=CountRange(start=0, count=2000),
        work=Work(model="echo", engine="auto", messages=(Message("user", "{{ index }}"),), sampling={}, seed=7),
    )
    execution = Execution(shard, "E", store)
    running = asyncio.create_task(execution.run(backend, info))
    await backend.waits.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await execution.salvage() is None  # it was never granted
    execution.granted.set()
    part = await execution.salvage()
    assert part is not None
    assert part.counts.ok == GROUP
    assert (part.key, part.bytes) == (execution.partial_key, len(store.get(part.key)))
    assert sorted(earlier_records(store.get(part.key))) == list(range(part.counts.ok))

    # The next one carries it over, unchanged, and does the rest.
    again = Execution(ShardTask(**{**_fields(shard), "token": 2, "carry_from": part.key}), "F", store)
    again.granted.set()
    done = await again.run(EchoBackend(), info)
    assert store.get(done.key).startswith(store.get(part.key))
    records = [orjson.loads(line) for line in store.get(done.key).splitlines()]
    assert [(record["output"], record["attempts"]) for record in records] == [(str(i), 1) for i in range(2000)]


def _fields(shard: ShardTask) -> dict[str, Any]:
    return {name: getattr(shard, name) for name in shard.__struct_fields__}
