"""A shard of speech from its rows to its part: what is stored, what is named, what an interrupted one keeps."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from models.audio import AudioRequest, AudioResult, AudioSettings
from models.backends.echo_audio import SAMPLE_RATE, EchoAudio, play
from models.errors import FailureKind, ModelError
from tests.support.sounds import read_wav
from tests.support.turns import turns, turns_until
from workers import audio_shard
from workers.contracts import AudioWork, CountRange, ShardTask, Work
from workers.execute import Execution
from workers.records import item_seed
from workers.store import ObjectStore, StoreError, open_store
from workers.store_folder import FolderStore


def task(
    count: int = 6,
    *,
    first: int = 0,
    options: dict[str, Any] | None = None,
    carry_from: str | None = None,
    **audio: Any,
) -> ShardTask:
    audio = {"prompt": "tent number {{ index }}", **audio}
    work = Work(
        model="echo", engine="auto", messages=(), sampling={}, seed=7, options=options, audio=AudioWork(**audio)
    )
    source = CountRange(start=first, count=count)
    return ShardTask(
        job="j", shard=3, token=2, first=first, count=count, source=source, work=work, carry_from=carry_from
    )


async def run(
    store: ObjectStore, shard: ShardTask, *, execution: str = "E", backend: EchoAudio | None = None
) -> list[dict[str, Any]]:
    execution_ = Execution(shard, execution, store)
    execution_.granted.set()
    backend = backend or EchoAudio()
    part = await execution_.run(backend, await backend.load())
    return [orjson.loads(line) for line in store.get(part.key).splitlines()]


async def test_every_item_has_its_sound_in_the_store_and_a_record_that_names_it(store_url: str) -> None:
    store = open_store(store_url)
    records = await run(store, task(settings={"speed": 2}))
    assert [record["index"] for record in records] == list(range(6))
    for record in records:
        index, text = record["index"], f"tent number {record['index']}"
        assert (record["status"], record["prompt"], record["reproducible"]) == ("ok", text, "exact")
        assert (record["seed"], record["settings"]) == (item_seed(7, index), {"speed": 2})
        [sound] = record["audio"]
        assert sound["key"] == f"jobs/j/audio/000003-0002-E/{index}.wav"
        data = store.get(sound["key"])
        assert (sound["bytes"], sound["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert (sound["content_type"], sound["sample_rate"], sound["seconds"]) == ("audio/wav", SAMPLE_RATE, 0.15)
        samples, rate = read_wav(data)
        request = AudioRequest(index=index, seed=record["seed"], text=text, settings=AudioSettings(speed=2))
        assert (samples == play(request)).all()
        assert rate == SAMPLE_RATE


async def test_bytes_are_the_same_whatever_the_shards_and_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    whole = await run(store, task(40))
    sizes: list[int] = []

    class Counting(EchoAudio):
        async def generate(self, requests: Sequence[AudioRequest]) -> AsyncGenerator[Sequence[AudioResult], None]:
            sizes.append(len(requests))
            async for results in super().generate(requests):
                yield results

    monkeypatch.setattr(audio_shard, "CALL_CHARACTERS", 30)
    small = [*await run(store, task(15), execution="F", backend=Counting())]
    small += await run(store, task(25, first=15), execution="G", backend=Counting())
    assert max(sizes) == 3
    assert [record["audio"][0]["sha256"] for record in small] == [record["audio"][0]["sha256"] for record in whole]


async def test_a_file_says_how_it_was_made_unless_the_job_wants_none(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    [record] = await run(store, task(1))
    assert b"model-revision=echo-audio-1; " in store.get(record["audio"][0]["key"])
    [bare] = await run(store, task(1, provenance=False), execution="F")
    assert b"LIST" not in store.get(bare["audio"][0]["key"])


async def test_a_bad_item_costs_itself_and_a_retry_speaks_it_alone(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    before = await run(store, task(6, options={"fail_on": [2]}))
    assert [record["status"] for record in before] == ["ok", "ok", "failed", "ok", "ok", "ok"]
    assert before[2]["error"]["code"] == "echo_failure"
    after = await run(store, task(6, carry_from="jobs/j/parts/000003-0002-E.jsonl"), execution="F")
    assert [record for record in after if record["index"] != 2] == [before[k] for k in (0, 1, 3, 4, 5)]
    assert (after[2]["status"], after[2]["attempts"]) == ("ok", 2)
    assert after[2]["audio"][0]["key"].startswith("jobs/j/audio/000003-0002-F/")


async def test_a_text_without_a_word_is_its_items_error(tmp_path: Path) -> None:
    [record] = await run(FolderStore(tmp_path), task(1, prompt="{{ '' if index == 0 else 'x' }}"))
    assert (record["status"], record["error"]["code"]) == ("failed", "unspeakable")


async def test_nothing_is_stored_before_the_execution_owns_its_shard(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    execution = Execution(task(), "E", store)
    backend = EchoAudio()
    running = asyncio.create_task(execution.run(backend, await backend.load()))
    await turns_until(lambda: execution.progress().phase == "generating")
    await turns(50)
    assert not list(store.list("jobs/"))
    execution.granted.set()
    await running
    assert len(list(store.list("jobs/j/audio/"))) == 6


async def test_an_engine_that_breaks_leaves_what_had_ended(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)

    class Breaking(EchoAudio):
        async def generate(self, requests: Sequence[AudioRequest]) -> AsyncGenerator[Sequence[AudioResult], None]:
            async for results in super().generate(requests):
                yield results
                await turns_until(lambda: execution.progress().counts.ok == 8)
                raise ModelError(FailureKind.ENGINE, "engine_died", "it died")

    execution = Execution(task(20), "E", store)
    execution.granted.set()
    backend = Breaking()
    with pytest.raises(ModelError, match="it died"):
        await execution.run(backend, await backend.load())
    part = await execution.salvage()
    assert part is not None
    assert part.counts.ok == 8
    records = [orjson.loads(line) for line in store.get(part.key).splitlines()]
    assert all(store.get(record["audio"][0]["key"]) for record in records)


async def test_a_store_that_is_full_fails_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)
    put = store.put
    asked = threading.Event()

    def full(key: str, data: bytes, *, content_type: str = "") -> None:
        if key.endswith(".wav"):
            asked.set()
            raise StoreError("the disk is full")
        put(key, data, content_type=content_type)

    monkeypatch.setattr(store, "put", full)
    execution = Execution(task(), "E", store, between=lambda low, high: 1e9)
    execution.granted.set()
    backend = EchoAudio()
    with pytest.raises(StoreError, match="disk is full"):
        await execution.run(backend, await backend.load())
    assert asked.is_set()
    assert not list(store.list("jobs/j/parts/"))
