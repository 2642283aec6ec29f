"""Jobs are planned once, by whoever is alive, and what is wrong with their source leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine

from orchestrator import claims, planner
from orchestrator.finalize import staged_prefix
from orchestrator.jobs import Jobs
from orchestrator.lifecycle import JobStatus
from orchestrator.planner import SILENT_SECONDS, TRIES, Heartbeat, Planner
from orchestrator.spec import parse_job
from tests.support.clocks import ManualClock
from tests.support.shards import echo_spec, new_shards, shard_row, take
from workers.contracts import Work
from workers.store import ObjectStore, StoreError, open_store


class Desk:
    """Planners of one database, on a monotonic clock that the test moves."""

    def __init__(self, engine: Engine, clock: ManualClock, store: ObjectStore) -> None:
        self.engine = engine
        self.clock = clock
        self.store = store
        self.steady = ManualClock(10.0)
        self.stop = threading.Event()
        self.jobs = Jobs(engine, clock)
        self.woken = 0

    def planner(self) -> Planner:
        return Planner(
            self.engine, self.store, wake=self._wake, stop=self.stop, clock=self.clock, monotonic=self.steady
        )

    def _wake(self) -> None:
        self.woken += 1

    def submit(self, **fields: Any) -> str:
        return self.jobs.create(parse_job({"kind": "echo", "prompt": "say {{ name }}", **fields})).id

    def submit_file(self, name: str, data: bytes, **fields: Any) -> str:
        self.store.put(f"inputs/x/{name}", data)
        return self.submit(source={"file": f"nightmill://inputs/x/{name}"}, **fields)

    def staged(self, job: str) -> list[str]:
        return list(self.store.list(staged_prefix(job)))


@pytest.fixture
def desk(engine: Engine, clock: ManualClock, folder_url: str) -> Desk:
    return Desk(engine, clock, open_store(folder_url))


def test_a_job_is_planned_whole_and_opened(desk: Desk) -> None:
    rows = b"".join(b'{"name": "tent %d", "custom_id": "t%d"}\n' % (number, number) for number in range(100))
    job = desk.submit_file("p.jsonl", rows)
    assert desk.planner().step()
    view = desk.jobs.get(job)
    assert (view.status, view.items, desk.woken) == (JobStatus.IN_PROGRESS, 100, 1)
    assert view.shard_count == sum(view.shards.values()) >= 4
    assert view.planned_at == desk.clock()
    tasks = take(desk.engine, job, desk.clock)
    assert sum(task.count for task in tasks) == 100
    assert isinstance(tasks[0].work, Work)
    assert tasks[0].work.custom_id == "custom_id"
    assert not desk.planner().step()


def test_a_job_of_many_batches_keeps_every_shard(desk: Desk) -> None:
    job = desk.submit(source={"count": 40_000}, model="echo", prompt="{{ index }}")
    desk.planner().step()
    view = desk.jobs.get(job)
    assert view.items == 40_000
    assert shard_row(desk.engine, job, view.shard_count - 1).first > 0


def test_inline_items_are_staged_and_kept(desk: Desk) -> None:
    job = desk.submit(source={"items": [{"name": "tent"}, {"name": "stove"}]})
    desk.planner().step()
    assert len(desk.staged(job)) == 1
    [task] = take(desk.engine, job, desk.clock)
    assert msgspec.to_builtins(task.source)["uri"] == desk.staged(job)[0]


@pytest.mark.parametrize(
    ("data", "line", "says"),
    [
        (b"name\ntent\nstove,too many\n", 3, "cells"),
        (b"price\n3\n", 1, "name"),
        (b"", None, "empty"),
    ],
)
def test_a_bad_source_fails_the_job_and_leaves_nothing(desk: Desk, data: bytes, line: int | None, says: str) -> None:
    job = desk.submit_file("p.csv", data)
    desk.planner().step()
    view = desk.jobs.get(job)
    assert (view.status, view.items, view.shards, view.finished_at) == (JobStatus.FAILED, 0, {}, desk.clock())
    assert view.error is not None
    assert says in view.error.message
    assert view.error.file == "p.csv"
    assert view.error.line == line
    assert desk.staged(job) == []
    assert desk.woken == 0


def test_a_row_that_is_bad_late_takes_the_committed_shards_with_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.planning.SHARD_BATCH", 2)
    rows = b"".join(b'{"name": "tent %d"}\n' % number for number in range(50_000))
    job = desk.submit_file("p.jsonl", rows + b"{broken\n")
    added = []
    add = claims.add_shards

    def note(*arguments: Any, **named: Any) -> bool:
        added.append(arguments)
        return add(*arguments, **named)

    monkeypatch.setattr(claims, "add_shards", note)
    desk.planner().step()
    view = desk.jobs.get(job)
    assert added
    assert view.error is not None
    assert (view.status, view.error.line, view.shards) == (JobStatus.FAILED, 50_001, {})


def test_two_planners_plan_a_job_once(desk: Desk) -> None:
    jobs = [desk.submit(source={"count": 10}, prompt="{{ index }}") for _ in range(6)]
    planners = [desk.planner() for _ in range(2)]

    def work(planner: Planner) -> int:
        done = 0
        while planner.step():
            done += 1
        return done

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(work, planners))
    assert sum(done) == 6
    assert {desk.jobs.get(job).status for job in jobs} == {JobStatus.IN_PROGRESS}


def test_a_planner_that_died_is_taken_over_and_its_shards_are_void(desk: Desk) -> None:
    job = desk.submit(source={"count": 4}, prompt="{{ index }}")
    [seen] = claims.waiting(desk.engine)
    claims.claim(desk.engine, seen, "dead")
    claims.add_shards(desk.engine, job, "dead", new_shards(3, 1))
    desk.store.put(f"{staged_prefix(job)}dead/half.jsonl", b"{}\n")
    living = desk.planner()
    assert not living.step()
    desk.steady.advance(SILENT_SECONDS - 0.1)
    assert not living.step()
    desk.steady.advance(0.1)
    assert living.step()
    view = desk.jobs.get(job)
    assert (view.status, view.items) == (JobStatus.IN_PROGRESS, 4)
    assert not claims.add_shards(desk.engine, job, "dead", new_shards(1, 1, first=9))
    assert desk.jobs.get(job) == view
    assert desk.staged(job) == []


def test_a_planner_that_is_alive_is_left_alone(desk: Desk) -> None:
    job = desk.submit(source={"count": 4}, prompt="{{ index }}")
    [seen] = claims.waiting(desk.engine)
    claims.claim(desk.engine, seen, "slow")
    other = desk.planner()
    for _ in range(5):
        assert not other.step()
        desk.steady.advance(SILENT_SECONDS)
        assert claims.beat(desk.engine, job, "slow")
    assert not other.step()


def test_the_heart_beats_and_notices_a_lost_claim(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "BEAT_SECONDS", 0.001)
    job = desk.submit(source={"count": 4}, prompt="{{ index }}")
    [seen] = claims.waiting(desk.engine)
    claims.claim(desk.engine, seen, "me")
    told = threading.Event()
    beat = claims.beat

    def note(*arguments: Any) -> bool:
        alive = beat(*arguments)
        if not alive:
            told.set()
        return alive

    monkeypatch.setattr(claims, "beat", note)
    with Heartbeat(desk.engine, job, "me") as heart:
        desk.jobs.cancel(job)
        assert told.wait(30)
    assert heart.lost
    assert claims.waiting(desk.engine) == []


@pytest.mark.parametrize("meddle", ["cancel", "stop"])
def test_planning_ends_when_the_job_or_the_process_does(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, meddle: str
) -> None:
    job = desk.submit(source={"items": [{"name": "tent"}]})

    def interfere(really: Callable[..., Any]) -> Callable[..., Any]:
        def plan(*arguments: Any, **named: Any) -> Any:
            if meddle == "cancel":
                desk.jobs.cancel(job)
            else:
                desk.stop.set()
            return really(*arguments, **named)

        return plan

    monkeypatch.setattr(planner, "plan", interfere(planner.plan))
    desk.planner().step()
    view = desk.jobs.get(job)
    assert view.shards == {}
    assert view.status is (JobStatus.CANCELLING if meddle == "cancel" else JobStatus.VALIDATING)
    assert desk.staged(job) == []
    assert [seen.planner for seen in claims.waiting(desk.engine)] == ([] if meddle == "cancel" else [None])


def test_a_source_that_cannot_be_reached_is_tried_again_and_then_fails_the_job(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = desk.submit(source={"count": 4}, prompt="{{ index }}")

    def unreachable(*_: Any) -> None:
        raise StoreError("the bucket data cannot be reached")

    monkeypatch.setattr(planner, "open_source", unreachable)
    one = desk.planner()
    for _ in range(TRIES - 1):
        assert one.step()
        assert desk.jobs.get(job).status is JobStatus.VALIDATING
        assert not one.step()
        desk.steady.advance(60)
    assert one.step()
    view = desk.jobs.get(job)
    assert view.error is not None
    assert (view.status, view.error.code) == (JobStatus.FAILED, "source_unreachable")


def test_a_bug_in_planning_fails_its_job_and_is_raised(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job = desk.jobs.create(echo_spec()).id

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(planner, "plan", broken)
    with pytest.raises(RuntimeError):
        desk.planner().step()
    view = desk.jobs.get(job)
    assert view.error is not None
    assert (view.status, view.error.code) == (JobStatus.FAILED, "internal_error")
