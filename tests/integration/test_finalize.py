"""How jobs end: once, with frozen totals and a manifest, whichever way they came there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import orjson
import pytest
from sqlalchemy import Engine

from models.errors import FailureKind
from orchestrator import claims, finalize, manifest
from orchestrator.finalize import Finaliser, staged_prefix
from orchestrator.jobs import Jobs
from orchestrator.lifecycle import JobStatus
from orchestrator.manifest import manifest_key
from tests.support.clocks import ManualClock
from tests.support.shards import (
    Outbox,
    apply,
    echo_spec,
    execution_id,
    failure,
    finish_all,
    finished,
    new_shards,
    partial_of,
    planned_job,
    report,
    shard_row,
    take,
)
from workers.broker import BrokerError
from workers.store import ObjectStore, open_store


class End:
    """A finaliser and what it needs."""

    def __init__(self, engine: Engine, clock: ManualClock, store: ObjectStore) -> None:
        self.engine = engine
        self.clock = clock
        self.store = store
        self.outbox = Outbox()
        self.jobs = Jobs(engine, clock)
        self.finaliser = self.another()

    def another(self) -> Finaliser:
        return Finaliser(self.engine, self.store, self.outbox, clock=self.clock)

    def manifest(self, job: str) -> Any:
        return orjson.loads(self.store.get(manifest_key(job)))


@pytest.fixture
def end(engine: Engine, clock: ManualClock, folder_url: str) -> End:
    return End(engine, clock, open_store(folder_url))


def test_a_job_whose_shards_are_done_completes(end: End) -> None:
    job = planned_job(end.engine, end.clock, shards=2, size=3)
    end.clock.advance(10)
    finish_all(end.engine, end.clock, job, failed=[4])
    end.clock.advance(5)
    assert end.finaliser.step() == 1
    view = end.jobs.get(job)
    assert (view.status, view.finished_at, view.timings.wall) == (JobStatus.COMPLETED, end.clock(), 15.0)
    assert (view.counts.ok, view.counts.failed, view.usage.prompt_tokens) == (5, 1, 10)
    assert end.finaliser.step() == 0
    assert end.outbox.stopped == []


def test_a_job_with_an_open_shard_goes_on(end: End) -> None:
    job = planned_job(end.engine, end.clock, shards=2)
    task, _ = take(end.engine, job, end.clock)
    execution = execution_id()
    apply(end.engine, end.clock, report(task, "started", execution), finished(task, execution))
    assert end.finaliser.step() == 0
    assert end.jobs.get(job).status is JobStatus.IN_PROGRESS


@pytest.mark.parametrize("kind", ["folder_url", "s3_url"])
def test_the_manifest_lists_winning_parts_and_what_was_never_run(
    engine: Engine, clock: ManualClock, request: pytest.FixtureRequest, kind: str
) -> None:
    end = End(engine, clock, open_store(request.getfixturevalue(kind)))
    job = planned_job(engine, clock, shards=3, size=2, name="autumn")
    first, second, _ = take(engine, job, clock)
    one, two = execution_id(), execution_id()
    won = finished(first, one, failed=[1])
    gone = report(second, "failed", two, failure=failure(FailureKind.ITEM, "source_changed"))
    apply(engine, clock, report(first, "started", one), won, report(second, "started", two), gone)
    end.jobs.cancel(job)
    end.finaliser.step()
    written = end.manifest(job)
    assert won.part is not None
    assert written["shards"] == [
        {
            "shard": 0,
            "first": 0,
            "count": 2,
            "status": "done",
            "key": won.part.key,
            "bytes": won.part.bytes,
            "sha256": won.part.sha256,
            "ok": 1,
            "failed": 1,
        },
        {
            "shard": 1,
            "first": 2,
            "count": 2,
            "status": "failed",
            "error": {"code": "source_changed", "message": "it broke"},
        },
        {"shard": 2, "first": 4, "count": 2, "status": "cancelled"},
    ]
    assert (written["manifest"], written["version"], written["job"], written["name"]) == (1, 1, job, "autumn")
    assert (written["outcome"], written["items"]) == ("cancelled", 6)
    assert written["counts"] == {"ok": 1, "failed": 3, "cancelled": 2, "expired": 0}
    assert written["spec"].startswith("sha256:")


def test_a_retry_writes_the_next_version(end: End) -> None:
    job = planned_job(end.engine, end.clock, shards=1)
    finish_all(end.engine, end.clock, job, failed=[0])
    end.finaliser.step()
    old = end.manifest(job)
    end.jobs.retry(job)
    finish_all(end.engine, end.clock, job)
    end.finaliser.step()
    new = end.manifest(job)
    assert (old["version"], new["version"]) == (1, 2)
    assert old["shards"][0]["key"] != new["shards"][0]["key"]
    assert new["counts"] == {"ok": 2, "failed": 0, "cancelled": 0, "expired": 0}


def test_a_manifest_of_many_shards_is_written_in_pages(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "PAGE", 7)
    job = planned_job(end.engine, end.clock, shards=20, size=1)
    finish_all(end.engine, end.clock, job)
    end.finaliser.step()
    assert [shard["first"] for shard in end.manifest(job)["shards"]] == list(range(20))


def test_a_cancelled_job_ends_once_nothing_of_it_runs(end: End) -> None:
    job = planned_job(end.engine, end.clock, shards=2)
    task, _ = take(end.engine, job, end.clock, limit=2)
    execution = execution_id()
    apply(end.engine, end.clock, report(task, "started", execution))
    end.jobs.cancel(job)
    assert end.finaliser.step() == 0
    assert end.outbox.stopped == [(job, "the job is cancelled")]
    apply(end.engine, end.clock, report(task, "handed_back", execution))
    assert end.finaliser.step() == 1
    view = end.jobs.get(job)
    assert (view.status, view.shards, view.counts.cancelled) == (JobStatus.CANCELLED, {"cancelled": 2}, 4)
    assert end.outbox.stopped == [(job, "the job is cancelled")]


def test_a_deadline_ends_a_job_and_keeps_what_is_finished(end: End) -> None:
    job = planned_job(end.engine, end.clock, shards=3, deadline="1h")
    first, second, _ = take(end.engine, job, end.clock)
    one, two = execution_id(), execution_id()
    apply(end.engine, end.clock, report(first, "started", one), finished(first, one), report(second, "started", two))
    end.clock.advance(3599)
    assert end.finaliser.step() == 0
    end.clock.advance(1)
    assert end.finaliser.step() == 0
    assert end.jobs.get(job).shards == {"done": 1, "running": 1, "expired": 1}
    assert end.outbox.stopped == [(job, "the job is expired")]
    kept = partial_of(second, two, [3])
    apply(end.engine, end.clock, report(second, "handed_back", two, part=kept))
    assert end.finaliser.step() == 1
    view = end.jobs.get(job)
    assert (view.status, view.shards) == (JobStatus.EXPIRED, {"done": 1, "expired": 2})
    assert (view.counts.ok, view.counts.expired) == (3, 3)
    assert end.manifest(job)["shards"][1]["key"] == kept.key
    late = apply(end.engine, end.clock, finished(second, two))
    assert late.directives[two].command == "stop"
    assert end.jobs.get(job) == view


def test_a_paused_job_expires_as_well(end: End) -> None:
    job = planned_job(end.engine, end.clock, deadline="1h")
    end.jobs.pause(job)
    end.clock.advance(3600)
    end.finaliser.step()
    assert end.jobs.get(job).status is JobStatus.EXPIRED


@pytest.mark.parametrize("way", ["cancelled", "expired"])
def test_a_job_that_ends_while_it_is_planned_leaves_nothing_behind(end: End, way: str) -> None:
    job = end.jobs.create(echo_spec(deadline="1h")).id
    [seen] = claims.waiting(end.engine)
    claims.claim(end.engine, seen, "planner")
    claims.add_shards(end.engine, job, "planner", new_shards(2, 2))
    end.store.put(f"{staged_prefix(job)}try/source.csv", b"a,b\n")
    if way == "cancelled":
        end.jobs.cancel(job)
    end.clock.advance(3600)
    end.finaliser.step()
    view = end.jobs.get(job)
    assert (view.status, view.items, view.shards) == (way, 0, {})
    assert list(end.store.list(staged_prefix(job))) == []
    assert not claims.add_shards(end.engine, job, "planner", new_shards(2, 2))


def test_a_fault_of_the_model_ends_the_job_with_its_error(end: End) -> None:
    job = planned_job(end.engine, end.clock, shards=2)
    task, _ = take(end.engine, job, end.clock)
    execution = execution_id()
    fault = failure(FailureKind.MODEL, "model_incomplete")
    apply(end.engine, end.clock, report(task, "started", execution), report(task, "failed", execution, failure=fault))
    end.finaliser.step()
    view = end.jobs.get(job)
    assert (view.status, view.counts.failed) == (JobStatus.FAILED, 4)
    assert end.manifest(job)["error"] == {"code": "model_incomplete", "message": "it broke"}
    assert shard_row(end.engine, job, 1).error_code == "model_incomplete"


def test_two_finalisers_end_a_job_once(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have written the manifest before either freezes the job."""
    job = planned_job(end.engine, end.clock, shards=2)
    finish_all(end.engine, end.clock, job)
    both = Barrier(2, timeout=30)
    freeze = finalize.freeze

    def meet(*arguments: Any, **named: Any) -> bool:
        both.wait()
        return freeze(*arguments, **named)

    monkeypatch.setattr(finalize, "freeze", meet)
    finalize.close(end.engine, job)
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda _: end.another().step(), range(2)))
    assert sorted(ended) == [0, 1]
    assert end.jobs.get(job).status is JobStatus.COMPLETED


def test_a_slow_finaliser_cannot_freeze_a_job_that_went_on(end: End) -> None:
    job = planned_job(end.engine, end.clock, shards=1)
    finish_all(end.engine, end.clock, job, failed=[0])
    finalize.close(end.engine, job)
    [slow] = finalize.jobs_ending(end.engine)
    totals = manifest.write_manifest(end.engine, end.store, job)
    end.finaliser.step()
    end.jobs.retry(job)
    finish_all(end.engine, end.clock, job)
    finalize.close(end.engine, job)
    assert not finalize.freeze(end.engine, slow, totals, now=end.clock())
    assert end.jobs.get(job).counts.ok == 2


def test_a_finaliser_that_died_is_followed_by_the_next(end: End) -> None:
    job = planned_job(end.engine, end.clock, shards=1)
    finish_all(end.engine, end.clock, job)
    finalize.close(end.engine, job)
    assert end.another().step() == 1
    assert end.jobs.get(job).status is JobStatus.COMPLETED


def test_a_stop_that_could_not_be_said_is_said_later(end: End) -> None:
    job = planned_job(end.engine, end.clock, shards=1)
    end.jobs.cancel(job)
    end.outbox.broken = True
    with pytest.raises(BrokerError):
        end.finaliser.step()
    end.outbox.broken = False
    assert end.finaliser.step() == 1
    assert end.outbox.stopped == [(job, "the job is cancelled")]
