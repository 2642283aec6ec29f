"""A manifest that is written late never stays above a newer one, though no store need refuse it."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any

import orjson
import pytest
from sqlalchemy import Engine

from orchestrator import finalize, manifest
from orchestrator.collector import SETTLE_SECONDS, Collector
from orchestrator.finalize import Finaliser
from orchestrator.jobs import Jobs
from orchestrator.lifecycle import JobStatus
from orchestrator.manifest import manifest_key, mend_manifest, write_manifest
from tests.support.clocks import ManualClock
from tests.support.shards import Outbox, apply, execution_id, finish_all, planned_job, report, shard_row, take
from workers.contracts import ShardReport
from workers.store import ObjectStore, open_store


class Finalisers:
    """Two finalisers, of which one can be held up: each has a store object of its own."""

    def __init__(self, engine: Engine, clock: ManualClock, store_url: str) -> None:
        self.engine = engine
        self.clock = clock
        self.jobs = Jobs(engine, clock)
        self.slow_store = open_store(store_url)
        self.store = open_store(store_url)
        self.slow = Finaliser(engine, self.slow_store, Outbox(), clock=clock)
        self.quick = Finaliser(engine, self.store, Outbox(), clock=clock)
        self.job = planned_job(engine, clock, shards=2)
        finish_all(engine, clock, self.job, failed=[0], store=self.store)

    def end_and_retry(self) -> None:
        """The quick one ends the job; a retry is run, and ended as well."""
        self.quick.step()
        self.jobs.retry(self.job)
        finish_all(self.engine, self.clock, self.job, store=self.store)
        self.quick.step()

    def read(self) -> Any:
        return orjson.loads(self.store.get(manifest_key(self.job)))

    def is_newest(self) -> bool:
        view = self.jobs.get(self.job)
        written = self.read()
        assert view.status is JobStatus.COMPLETED
        keys = [shard["key"] for shard in written["shards"]]
        named = [shard_row(self.engine, self.job, number).part_key for number in range(2)]
        return (written["version"], keys) == (view.manifest_version, named)


@pytest.fixture
def finalisers(engine: Engine, clock: ManualClock, store_url: str) -> Finalisers:
    return Finalisers(engine, clock, store_url)


def before_writing(monkeypatch: pytest.MonkeyPatch, store: ObjectStore, happen: Callable[[], object]) -> list[str]:
    """Let something happen once, when all is read and looked at, and only the write is still to come."""
    put = store.put_stream
    written: list[str] = []

    def late(key: str, source: IO[bytes], **options: Any) -> int:
        written.append(key)
        if len(written) == 1:
            happen()
        return put(key, source, **options)

    monkeypatch.setattr(store, "put_stream", late)
    return written


def test_a_finaliser_that_was_held_up_before_its_write_mends_what_it_wrote_over(
    finalisers: Finalisers, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = before_writing(monkeypatch, finalisers.slow_store, finalisers.end_and_retry)
    assert finalisers.slow.step() == 0
    assert len(written) == 2
    assert finalisers.is_newest()


def test_a_finaliser_that_was_held_up_while_it_read_writes_nothing(
    finalisers: Finalisers, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = manifest._write

    def late(*arguments: Any) -> None:
        monkeypatch.setattr(manifest, "_write", write)
        write(*arguments)
        finalisers.end_and_retry()

    monkeypatch.setattr(manifest, "_write", late)
    written = before_writing(monkeypatch, finalisers.slow_store, lambda: None)
    assert finalisers.slow.step() == 0
    assert written == []
    assert finalisers.is_newest()


def test_a_late_write_while_a_retry_is_at_work_is_overwritten_at_its_end(
    finalisers: Finalisers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin_retry() -> None:
        finalisers.quick.step()
        finalisers.jobs.retry(finalisers.job)

    before_writing(monkeypatch, finalisers.slow_store, begin_retry)
    assert finalisers.slow.step() == 0
    assert finalisers.read()["version"] == 1
    finish_all(finalisers.engine, finalisers.clock, finalisers.job, store=finalisers.store)
    finalisers.quick.step()
    assert finalisers.is_newest()


def test_a_late_writer_leaves_the_manifest_of_a_retry_that_is_ending_to_whoever_ends_it(
    finalisers: Finalisers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of the retry still run when the late writer looks: what it would read is not what the job comes to."""

    running: list[ShardReport] = []

    def begin_to_end() -> None:
        finalisers.quick.step()
        finalisers.jobs.retry(finalisers.job)
        [task] = take(finalisers.engine, finalisers.job, finalisers.clock)
        execution = execution_id()
        apply(finalisers.engine, finalisers.clock, report(task, "started", execution))
        running.append(report(task, "handed_back", execution))
        finalisers.jobs.cancel(finalisers.job)

    written = before_writing(monkeypatch, finalisers.slow_store, begin_to_end)
    assert finalisers.slow.step() == 0
    assert len(written) == 1
    apply(finalisers.engine, finalisers.clock, *running)
    assert finalisers.quick.step() == 1
    assert (finalisers.read()["version"], finalisers.read()["outcome"]) == (2, "cancelled")


def test_the_collector_mends_what_a_writer_left_that_died_after_a_late_write(finalisers: Finalisers) -> None:
    finalize.close(finalisers.engine, finalisers.job)
    write_manifest(finalisers.engine, finalisers.store, finalisers.job)
    old = finalisers.store.get(manifest_key(finalisers.job))
    finalisers.end_and_retry()
    finalisers.store.put(manifest_key(finalisers.job), old)
    assert not finalisers.is_newest()
    finalisers.clock.advance(SETTLE_SECONDS + 60)
    swept = Collector(
        finalisers.engine, finalisers.store, lease_seconds=60, retention_days=0, clock=finalisers.clock
    ).step()
    assert swept == 1  # the part that the retry replaced
    assert finalisers.is_newest()
    assert not mend_manifest(finalisers.engine, finalisers.store, finalisers.job)


def test_a_manifest_that_is_missing_is_written(finalisers: Finalisers) -> None:
    finalisers.quick.step()
    finalisers.store.delete(manifest_key(finalisers.job))
    assert mend_manifest(finalisers.engine, finalisers.store, finalisers.job)
    assert finalisers.is_newest()
