"""Which shards are offered, when, how many, and by whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from threading import Barrier

import msgspec
import pytest
from sqlalchemy import Engine

from models.errors import FailureKind
from orchestrator import claims, dispatch, speeds
from orchestrator.dispatch import Dispatcher
from orchestrator.finalize import Finaliser
from orchestrator.jobs import Jobs
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
    planned_job,
    report,
    shard_row,
    take,
)
from workers.broker import BrokerError
from workers.contracts import CountRange, Counts, ShardTask, Timings
from workers.keys import part_key
from workers.store import open_store


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


def dispatcher(engine: Engine, outbox: Outbox, clock: Callable[[], float], *, window: int = 32) -> Dispatcher:
    return Dispatcher(engine, outbox, forget_stop=outbox.forget_stop, window=window, clock=clock)


def test_shards_are_offered_in_order_with_all_that_a_worker_needs(
    engine: Engine, outbox: Outbox, clock: ManualClock
) -> None:
    job = planned_job(engine, clock, shards=3, size=2, seed=7)
    assert dispatcher(engine, outbox, clock).step() == 3
    assert [(task.job, task.shard, task.token, task.first, task.count) for task in outbox.shards] == [
        (job, 0, 1, 0, 2),
        (job, 1, 1, 2, 2),
        (job, 2, 1, 4, 2),
    ]
    task = outbox.shards[1]
    assert task.source == CountRange(start=2, count=2)
    assert (task.work.model, task.work.seed, task.work.messages[0].content) == ("echo", 7, "say {{ index }}")
    assert (task.earlier, task.carry_from) == ((), None)


def test_nothing_is_offered_twice(engine: Engine, outbox: Outbox, clock: ManualClock) -> None:
    planned_job(engine, clock)
    assert [dispatcher(engine, outbox, clock).step() for _ in range(2)] == [3, 0]


def test_the_window_bounds_what_is_outstanding_of_a_model(engine: Engine, outbox: Outbox, clock: ManualClock) -> None:
    job = planned_job(engine, clock, shards=5)
    planned_job(engine, clock, shards=5)
    scheduler = dispatcher(engine, outbox, clock, window=3)
    assert [scheduler.step(), scheduler.step()] == [3, 0]
    execution = execution_id()
    apply(engine, clock, report(outbox.shards[0], "started", execution))
    assert scheduler.step() == 0
    apply(engine, clock, finished(outbox.shards[0], execution))
    assert scheduler.step() == 1
    assert {task.job for task in outbox.shards} == {job}


def test_of_one_tenant_the_more_urgent_then_the_nearer_deadline_then_the_older_job_comes_first(
    engine: Engine, outbox: Outbox, clock: ManualClock
) -> None:
    def job(**fields: str) -> str:
        clock.advance(1)
        return planned_job(engine, clock, shards=1, **fields)

    low = job(priority="low")
    old, young = job(), job()
    far, near = job(deadline="9h"), job(deadline="2h")
    urgent = job(priority="urgent")
    dispatcher(engine, outbox, clock).step()
    assert [task.job for task in outbox.shards] == [urgent, near, far, old, young, low]


def test_a_shard_waits_for_its_backoff(engine: Engine, outbox: Outbox, clock: ManualClock) -> None:
    job = planned_job(engine, clock, shards=1)
    scheduler = dispatcher(engine, outbox, clock)
    scheduler.step()
    execution = execution_id()
    broke = report(outbox.shards[0], "failed", execution, failure=failure())
    apply(engine, clock, report(outbox.shards[0], "started", execution), broke)
    available = shard_row(engine, job).available_at
    clock.now = available - 0.001
    assert scheduler.step() == 0
    clock.now = available
    assert scheduler.step() == 1
    assert outbox.shards[1].token == 2


def test_parts_of_earlier_executions_are_named_newest_first(engine: Engine, clock: ManualClock) -> None:
    job = planned_job(engine, clock, shards=2)
    executions = []
    for token in (1, 2):
        task = take(engine, job, clock, limit=1)[0]
        executions.append(execution_id())
        gone = failure(FailureKind.PLATFORM, "worker_lost")
        apply(
            engine, clock, report(task, "started", executions[-1]), report(task, "failed", executions[-1], failure=gone)
        )
        assert task.token == token
        clock.advance(60)
    first, second = take(engine, job, clock)
    assert first.earlier == (part_key(job, 0, 2, executions[1]), part_key(job, 0, 1, executions[0]))
    assert second.earlier == ()


def test_no_shard_can_be_taken_before_all_are_committed(engine: Engine, outbox: Outbox, clock: ManualClock) -> None:
    job = Jobs(engine, clock).create(echo_spec(items=4))
    [seen] = claims.waiting(engine)
    claims.claim(engine, seen, "planner")
    claims.add_shards(engine, job.id, "planner", new_shards(1, 2))
    assert dispatcher(engine, outbox, clock).step() == 0
    assert take(engine, job.id, clock) == []


def test_what_could_not_be_published_stays_dispatched(engine: Engine, outbox: Outbox, clock: ManualClock) -> None:
    job = planned_job(engine, clock, shards=2)
    outbox.broken = True
    with pytest.raises(BrokerError):
        dispatcher(engine, outbox, clock).step()
    assert [shard_row(engine, job, number).status for number in range(2)] == ["dispatched", "dispatched"]


def test_a_job_that_was_taken_up_again_has_its_stop_forgotten(
    engine: Engine, outbox: Outbox, clock: ManualClock, folder_url: str
) -> None:
    job = planned_job(engine, clock, shards=1)
    finish_all(engine, clock, job, failed=[0])
    Finaliser(engine, open_store(folder_url), outbox, clock=clock).step()
    assert outbox.forgotten == []
    Jobs(engine, clock).retry(job)
    assert dispatcher(engine, outbox, clock).step() == 1
    assert outbox.forgotten == [job]


def test_two_dispatchers_share_the_shards_out(engine: Engine, clock: ManualClock) -> None:
    """Both have looked, and found the same shards, before either takes one."""
    planned_job(engine, clock, shards=8)
    both = Barrier(2, timeout=30)

    def work(_: int) -> list[int]:
        looked = iter([False, True])

        def meeting_clock() -> float:
            if next(looked, False):
                both.wait()
            return clock()

        outbox = Outbox()
        dispatcher(engine, outbox, meeting_clock, window=8).step()
        return [task.shard for task in outbox.shards]

    with ThreadPoolExecutor(2) as pool:
        offered = list(pool.map(work, range(2)))
    assert sorted(offered[0] + offered[1]) == list(range(8))


def test_a_pause_between_look_and_take_is_obeyed(engine: Engine, clock: ManualClock) -> None:
    job = planned_job(engine, clock)
    candidates, _ = dispatch.look(engine, clock(), 32, {})
    assert [candidate.job for candidate in candidates] == [job]
    Jobs(engine, clock).pause(job)
    assert dispatch.take(engine, job, 10, now=clock()) == []


def test_tenants_share_a_window(engine: Engine, outbox: Outbox, clock: ManualClock) -> None:
    first = planned_job(engine, clock, shards=40)
    second = planned_job(engine, clock, shards=40, tenant="other")
    dispatcher(engine, outbox, clock, window=24).step()
    assert Counter(task.job for task in outbox.shards) == {first: 12, second: 12}


def test_a_small_job_does_not_wait_for_the_end_of_a_large_one(
    engine: Engine, outbox: Outbox, clock: ManualClock
) -> None:
    planned_job(engine, clock, shards=100)
    scheduler = dispatcher(engine, outbox, clock, window=1)
    small = planned_job(engine, clock, shards=1)
    for number in range(8):
        scheduler.step()
        finish(engine, clock, outbox.shards[number], seconds=30.0)
    assert small in {task.job for task in outbox.shards}


def test_turns_that_a_job_cannot_use_go_to_the_others(engine: Engine, outbox: Outbox, clock: ManualClock) -> None:
    """It is not known beforehand how many shards a job has left."""
    jobs = [planned_job(engine, clock, shards=1) for _ in range(5)]
    large = planned_job(engine, clock, shards=50)
    assert dispatcher(engine, outbox, clock, window=20).step() == 20
    assert Counter(task.job for task in outbox.shards) == {large: 15, **dict.fromkeys(jobs, 1)}


def test_a_full_window_of_one_model_holds_up_no_other(engine: Engine, outbox: Outbox, clock: ManualClock) -> None:
    planned_job(engine, clock, shards=3)
    scheduler = dispatcher(engine, outbox, clock, window=2)
    assert scheduler.step() == 2
    other = planned_job(engine, clock, shards=3, kind="text", model="smollm2-135m")
    assert scheduler.step() == 2
    assert [task.job for task in outbox.shards[2:]] == [other, other]


def test_a_tenant_pays_for_what_its_shards_took(engine: Engine, outbox: Outbox, clock: ManualClock) -> None:
    """A shard that took ten times as long as one of the other tenant's counts ten times."""
    jobs = {
        planned_job(engine, clock, shards=200, tenant="slow"): 50.0,
        planned_job(engine, clock, shards=200, tenant="fast"): 5.0,
    }
    scheduler = dispatcher(engine, outbox, clock, window=1)
    for number in range(110):
        scheduler.step()
        task = outbox.shards[number]
        finish(engine, clock, task, seconds=jobs[task.job])
    counts = Counter(task.job for task in outbox.shards)
    [slow, fast] = jobs
    assert counts[fast] / counts[slow] == pytest.approx(10, rel=0.3)


def test_a_shard_that_would_take_much_too_long_is_cut_before_it_is_offered(
    engine: Engine, outbox: Outbox, clock: ManualClock
) -> None:
    job = planned_job(engine, clock, shards=2, size=100)
    measure(engine, clock, job, items=100, seconds=250.0)
    scheduler = dispatcher(engine, outbox, clock, window=3)
    assert [scheduler.step(), scheduler.step()] == [2, 1]
    # 2.5 s an item: 24 items take a minute, and 100 more than three.
    assert [(task.first, task.count, task.skip) for task in outbox.shards] == [(0, 24, 0), (100, 24, 0), (24, 24, 24)]
    assert outbox.shards[0].source == outbox.shards[2].source
    assert Jobs(engine, clock).get(job).shard_count == 5
    taken = take(engine, job, clock)
    covered = sorted((task.first, task.count) for task in [*outbox.shards, *taken])
    assert [first for first, _ in covered] == list(accumulate([0, *(count for _, count in covered[:-1])]))
    assert sum(count for _, count in covered) == 200


def test_a_shard_of_about_the_right_size_is_left_whole(engine: Engine, outbox: Outbox, clock: ManualClock) -> None:
    job = planned_job(engine, clock, shards=1, size=100)
    measure(engine, clock, job, items=100, seconds=170.0)
    dispatcher(engine, outbox, clock).step()
    assert [task.count for task in outbox.shards] == [100]


def test_a_shard_that_was_tried_keeps_its_size(engine: Engine, outbox: Outbox, clock: ManualClock) -> None:
    """The part of its first execution may still come, and is only good for the shard as it was."""
    job = planned_job(engine, clock, shards=1, size=100)
    [task] = take(engine, job, clock)
    execution = execution_id()
    gone = failure(FailureKind.PLATFORM, "worker_lost")
    apply(engine, clock, report(task, "started", execution), report(task, "failed", execution, failure=gone))
    measure(engine, clock, job, items=1, seconds=100.0)
    clock.advance(60)
    dispatcher(engine, outbox, clock).step()
    assert [task.count for task in outbox.shards] == [100]


@pytest.mark.parametrize(("ran", "size"), [(100.0, 100), (200.0, 16)])
def test_a_shard_that_runs_far_too_long_has_the_next_ones_cut(
    engine: Engine, outbox: Outbox, clock: ManualClock, ran: float, size: int
) -> None:
    """None was measured yet, as none has ended."""
    planned_job(engine, clock, shards=2, size=100)
    dispatcher(engine, outbox, clock, window=1).step()
    [task] = outbox.shards
    execution = execution_id()
    progress = report(
        task, "progress", execution, counts=Counts(ok=2), timings=Timings(generate=ran), phase="generating"
    )
    apply(engine, clock, report(task, "started", execution, sequence=1), progress)
    dispatcher(engine, outbox, clock, window=2).step()
    assert outbox.shards[1].count == size


def finish(engine: Engine, clock: ManualClock, task: ShardTask, *, seconds: float) -> None:
    """Let a shard be done after so long in its engine."""
    execution = execution_id()
    done = msgspec.structs.replace(finished(task, execution), timings=Timings(generate=seconds))
    apply(engine, clock, report(task, "started", execution), done)


def measure(engine: Engine, clock: ManualClock, job: str, *, items: int, seconds: float) -> None:
    """Note a speed of the job, as the end of a shard of so many items does."""
    speeds.prepare(engine, job, Jobs(engine, clock).spec(job))
    with engine.begin() as connection:
        speeds.record(connection, job, items=items, seconds=seconds, now=clock())
