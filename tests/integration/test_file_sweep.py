"""Images of executions that lost go; nothing that a record names ever does."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson
import pytest
from sqlalchemy import Engine

from models.errors import FailureKind
from models.spec import ItemError, Usage
from orchestrator import results
from orchestrator.collector import SETTLE_SECONDS, Collector
from orchestrator.finalize import Finaliser
from orchestrator.jobs import Jobs
from tests.support.clocks import ManualClock
from tests.support.shards import Outbox, apply, execution_id, failure, planned_job, report, shard_row, take
from workers.contracts import Counts, Part, ShardTask
from workers.keys import images_folder, part_key, partial_key
from workers.records import Record, StoredImage, describe_part, earlier_records, encode_record
from workers.store import ObjectStore, open_store

LEASE = 60.0


class Studio:
    """A database, a store and a collector; the test plays the workers of image jobs."""

    def __init__(self, engine: Engine, clock: ManualClock, store: ObjectStore) -> None:
        self.engine, self.clock, self.store = engine, clock, store
        self.jobs = Jobs(engine, clock)
        self.finaliser = Finaliser(engine, store, Outbox(), clock=clock)
        self.collector = Collector(engine, store, lease_seconds=LEASE, retention_days=0, clock=clock)

    def planned(self, **fields: Any) -> str:
        return planned_job(self.engine, self.clock, kind="image", model="echo", prompt="{{ index }}", **fields)

    def paint(self, task: ShardTask, execution: str, index: int) -> str:
        key = f"{images_folder(task.job, task.shard, task.token, execution)}{index}.png"
        self.store.put(key, b"png", content_type="image/png")
        return key

    def leave(
        self, task: ShardTask, execution: str, *, failed: Collection[int] = (), ended: Collection[int] | None = None
    ) -> Part:
        """Images and part of an execution; with `ended`, the partial part of those items."""
        earlier = {} if task.carry_from is None else earlier_records(self.store.get(task.carry_from))
        lines = []
        indexes = range(task.first, task.first + task.count) if ended is None else sorted(ended)
        for index in indexes:
            before = earlier.get(index)
            if before is not None and before.ok:
                lines.append(before.line)
            elif index in failed:
                lines.append(encode_record(Record(index=index, status="failed", error=ItemError("bad", "it is"))))
            else:
                image = StoredImage(
                    key=self.paint(task, execution, index),
                    width=1,
                    height=1,
                    bytes=3,
                    sha256="0",
                    content_type="image/png",
                    seed=1,
                    batch=1,
                )
                lines.append(encode_record(Record(index=index, status="ok", images=(image,))))
        data = b"\n".join([*lines, b""])
        name = part_key if ended is None else partial_key
        key = name(task.job, task.shard, task.token, execution)
        self.store.put(key, data)
        bad = len(set(failed) & set(indexes))
        return describe_part(key, data, Counts(len(lines) - bad, bad), Usage())

    def finish(self, job: str, *, failed: Collection[int] = ()) -> list[str]:
        """Run every queued shard to its end; their executions."""
        executions = []
        for task in take(self.engine, job, self.clock):
            execution = execution_id()
            part = self.leave(task, execution, failed=failed)
            done = report(task, "finished", execution, part=part, counts=part.counts)
            apply(self.engine, self.clock, report(task, "started", execution), done)
            executions.append(execution)
        return executions

    def settle(self, job: str) -> int:
        """Let the job end and its time come; how many objects were then deleted."""
        self.finaliser.step()
        assert self.jobs.get(job).ended
        self.clock.advance(SETTLE_SECONDS + LEASE)
        return self.collector.step()

    def images(self, job: str) -> set[str]:
        return set(self.store.list(f"jobs/{job}/images/"))

    def named(self, job: str) -> set[str]:
        records = map(orjson.loads, results.read(self.store, self.jobs, job, limit=1000).records)
        return {image["key"] for record in records for image in record.get("images", ())}


@pytest.fixture
def studio(engine: Engine, clock: ManualClock, store_url: str) -> Studio:
    return Studio(engine, clock, open_store(store_url))


def test_images_of_an_execution_that_lost_go_with_its_part(studio: Studio) -> None:
    job = studio.planned(shards=2)
    lost = [studio.paint(task, execution_id(), task.first) for task in _expired(studio, job)]
    studio.finish(job)
    named = studio.named(job)
    assert len(named) == 4
    assert studio.settle(job) == len(lost)
    assert studio.images(job) == named


def _expired(studio: Studio, job: str) -> list[ShardTask]:
    """Attempts at every shard that came to nothing."""
    tasks = take(studio.engine, job, studio.clock)
    for task in tasks:
        execution = execution_id()
        broken = report(task, "failed", execution, failure=failure())
        apply(studio.engine, studio.clock, report(task, "started", execution), broken)
    studio.clock.advance(120)
    return tasks


def test_a_retry_names_images_of_the_execution_before_and_they_stay(studio: Studio) -> None:
    job = studio.planned(shards=1, size=4)
    [first] = studio.finish(job, failed=[2])
    assert studio.settle(job) == 0
    studio.jobs.retry(job)
    [second] = studio.finish(job)
    named = studio.named(job)
    assert sorted(first in key for key in named) == [False, True, True, True]
    assert second != first
    # What was painted for the failed item, and never named, goes; with it the part that was carried over.
    [task_folder] = {key.rpartition("/")[0] for key in named if first in key}
    stray = f"{task_folder}/2.png"
    studio.store.put(stray, b"png")
    assert studio.settle(job) == 2
    assert studio.images(job) == named


def test_both_halves_of_a_split_shard_keep_what_the_whole_had_painted(studio: Studio) -> None:
    job = studio.planned(shards=1, size=4)
    for _ in range(2):
        [task] = take(studio.engine, job, studio.clock)
        execution = execution_id()
        kept = studio.leave(task, execution, ended=[0, 3])
        broke = report(task, "failed", execution, failure=failure(), part=kept)
        apply(studio.engine, studio.clock, report(task, "started", execution), broke)
        studio.clock.advance(60)
    assert len(studio.finish(job)) == 2
    named = studio.named(job)
    assert sum("-0001-" in key for key in named) == 2
    studio.settle(job)
    assert studio.images(job) == named


def test_images_of_a_shard_that_has_no_part_wait_for_a_retry(studio: Studio) -> None:
    job = studio.planned(shards=1)
    [task] = take(studio.engine, job, studio.clock)
    execution = execution_id()
    for event in ("started", "failed"):
        why = {} if event == "started" else {"failure": failure(FailureKind.ITEM, "source_gone")}
        apply(studio.engine, studio.clock, report(task, event, execution, **why))
    late = studio.leave(task, execution)
    painted = studio.images(job)
    assert len(painted) == 2
    assert studio.settle(job) == 0
    studio.jobs.retry(job)
    [again] = take(studio.engine, job, studio.clock)
    assert again.earlier == (late.key,)
    assert studio.images(job) == painted


def test_a_cancelled_job_keeps_only_the_images_that_a_record_names(studio: Studio) -> None:
    job = studio.planned(shards=2)
    one, other = take(studio.engine, job, studio.clock)
    execution = execution_id()
    part = studio.leave(one, execution)
    done = report(one, "finished", execution, part=part, counts=part.counts)
    apply(studio.engine, studio.clock, report(one, "started", execution), done)
    studio.paint(other, execution_id(), other.first)
    studio.jobs.cancel(job)
    named = studio.named(job)
    assert studio.settle(job) == 1
    assert studio.images(job) == named
    assert len(named) == 2


def test_a_retry_that_begins_before_the_deletion_loses_nothing(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    job = studio.planned(shards=1, size=4)
    [first] = studio.finish(job, failed=[2])
    [folder] = {key.rpartition("/")[0] for key in studio.images(job)}
    studio.store.put(f"{folder}/2.png", b"png")
    delete, begun = studio.store.delete, []

    def late(key: str) -> None:
        if not begun:
            begun.append(studio.jobs.retry(job))
            studio.finish(job)
        delete(key)

    monkeypatch.setattr(studio.store, "delete", late)
    studio.settle(job)
    studio.finaliser.step()
    named = studio.named(job)
    assert begun
    assert first
    assert named <= studio.images(job)
    assert len(named) == 4


def test_images_of_an_attempt_that_this_database_does_not_know_stay(studio: Studio) -> None:
    job = studio.planned(shards=1)
    studio.finish(job)
    row = shard_row(studio.engine, job)
    unknown = f"{images_folder(job, 0, row.token + 1, execution_id())}0.png"
    studio.store.put(unknown, b"png")
    assert studio.settle(job) == 0
    assert unknown in studio.images(job)


def test_a_part_that_is_gone_lets_no_image_go(studio: Studio) -> None:
    job = studio.planned(shards=1)
    studio.finish(job)
    painted = studio.images(job)
    studio.store.delete(shard_row(studio.engine, job).part_key)
    assert studio.settle(job) == 0
    assert studio.images(job) == painted
