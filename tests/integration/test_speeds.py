"""How fast models are, measured from shards as they end; and when jobs are expected to be done."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from orchestrator import database, forecasts, speeds
from orchestrator.forecasts import EVERY_SECONDS, FIRST_AFTER_SECONDS, Forecaster
from orchestrator.jobs import Jobs
from orchestrator.planner import Planner
from orchestrator.speeds import ENOUGH_SHARDS, MAX_SHARD_ITEMS, Measured
from orchestrator.tables import Job, JobSpeed
from orchestrator.views import Prediction
from tests.support.clocks import ManualClock
from tests.support.shards import apply, echo_spec, execution_id, finish_all, planned_job, report, take
from workers.contracts import Counts
from workers.store import open_store


def started(engine: Engine, clock: ManualClock, **fields: Any) -> str:
    """A planned job whose shards are measured."""
    job = planned_job(engine, clock, **fields)
    speeds.prepare(engine, job, Jobs(engine, clock).spec(job))
    return job


def record(engine: Engine, clock: ManualClock, job: str, *, items: int, seconds: float, times: int = 1) -> None:
    for _ in range(times):
        database.write(
            engine,
            lambda connection: speeds.record(connection, job, items=items, seconds=seconds, now=clock()),
        )


def measured(engine: Engine, job: str) -> Measured:
    with database.reading(engine) as connection:
        return speeds.measured(connection.execute(forecasts.in_progress().where(Job.id == job)).one())


def test_nothing_is_known_at_first(engine: Engine, clock: ManualClock) -> None:
    found = measured(engine, started(engine, clock))
    assert (found, found.shard_items(), found.engine_seconds(5)) == (Measured(None, 1.0, 0), None, None)


def test_shards_that_run_side_by_side_share_the_engine_s_seconds(engine: Engine, clock: ManualClock) -> None:
    """Four at a time, each 40 s long, one ending every ten seconds: an item takes a shard 4 s, and the engine 1 s."""
    job = started(engine, clock)
    for _ in range(200):
        clock.advance(10)
        record(engine, clock, job, items=10, seconds=40.0)
    found = measured(engine, job)
    assert found.per_item == pytest.approx(4.0)
    assert found.engine_seconds(1) == pytest.approx(1.0, rel=0.05)
    assert found.shard_items() == 16


def test_shards_that_end_together_are_not_counted_as_one_after_the_other(engine: Engine, clock: ManualClock) -> None:
    job = started(engine, clock)
    for _ in range(50):
        clock.advance(40)
        record(engine, clock, job, items=10, seconds=40.0, times=4)
    assert measured(engine, job).engine_seconds(1) == pytest.approx(1.0, rel=0.05)


def test_time_in_which_nothing_ran_is_not_counted(engine: Engine, clock: ManualClock) -> None:
    job = started(engine, clock)
    for _ in range(5):
        clock.advance(10_000)
        record(engine, clock, job, items=10, seconds=20.0)
    assert measured(engine, job).engine_seconds(1) == pytest.approx(2.0)


def test_the_latest_shards_weigh_most(engine: Engine, clock: ManualClock) -> None:
    job = started(engine, clock)
    record(engine, clock, job, items=10, seconds=10.0, times=30)
    record(engine, clock, job, items=10, seconds=50.0, times=30)
    assert measured(engine, job).per_item == pytest.approx(5.0, rel=0.25)


def test_a_job_is_as_fast_as_those_like_it_until_its_own_shards_say_otherwise(
    engine: Engine, clock: ManualClock
) -> None:
    record(engine, clock, started(engine, clock), items=10, seconds=10.0, times=20)
    job = started(engine, clock)
    assert measured(engine, job).per_item == pytest.approx(1.0)
    record(engine, clock, job, items=10, seconds=30.0, times=ENOUGH_SHARDS - 1)
    assert measured(engine, job).per_item == pytest.approx(1.0, rel=0.3)
    record(engine, clock, job, items=10, seconds=30.0)
    assert measured(engine, job).per_item == pytest.approx(3.0)


def test_work_of_another_shape_says_nothing(engine: Engine, clock: ManualClock) -> None:
    record(engine, clock, started(engine, clock), items=10, seconds=10.0)
    assert measured(engine, started(engine, clock, n=4)).per_item is None
    assert measured(engine, started(engine, clock, sampling={"max_tokens": 2_000})).per_item is None


def test_a_shard_whose_part_was_found_is_not_measured(engine: Engine, clock: ManualClock) -> None:
    job = started(engine, clock)
    record(engine, clock, job, items=10, seconds=0.0)
    record(engine, clock, job, items=0, seconds=5.0)
    assert measured(engine, job).own_shards == 0


def test_a_job_of_an_earlier_version_is_left_alone(engine: Engine, clock: ManualClock) -> None:
    job = planned_job(engine, clock)
    record(engine, clock, job, items=10, seconds=5.0)
    assert measured(engine, job).own_shards == 0


@pytest.mark.parametrize(("seconds", "size"), [(1_000.0, 60), (0.001, MAX_SHARD_ITEMS), (100_000.0, 16)])
def test_shards_are_planned_to_take_about_a_minute(
    engine: Engine, clock: ManualClock, folder_url: str, seconds: float, size: int
) -> None:
    """At 1,000 seconds for 1,000 items a minute is 60; what is very fast or slow is bounded."""
    like = started(engine, clock)
    record(engine, clock, like, items=1_000, seconds=seconds)
    job = Jobs(engine, clock).create(echo_spec(items=200_000)).id
    planner = Planner(
        engine, open_store(folder_url), wake=lambda: None, stop=threading.Event(), clock=clock, monotonic=clock
    )
    assert planner.step()
    assert take(engine, job, clock, limit=1)[0].count == size
    with database.reading(engine) as connection:
        assert connection.execute(select(JobSpeed.shards).where(JobSpeed.job_id == job)).scalar_one() == 0


def test_a_job_in_progress_says_when_it_is_expected_to_be_done(engine: Engine, clock: ManualClock) -> None:
    job = started(engine, clock, shards=100, size=10)
    forecaster = Forecaster(engine, clock=clock)
    forecaster.step()
    assert Jobs(engine, clock).get(job).predicted_finish_at is None
    record(engine, clock, job, items=10, seconds=5.0)
    clock.advance(EVERY_SECONDS)
    forecaster.step()
    assert Jobs(engine, clock).get(job).predicted_finish_at == pytest.approx(clock() + 500.0)


def test_what_runs_counts_by_what_is_left_of_it(engine: Engine, clock: ManualClock) -> None:
    job = started(engine, clock, shards=2, size=100)
    [task] = take(engine, job, clock, limit=1)
    execution = execution_id()
    apply(
        engine,
        clock,
        report(task, "started", execution, sequence=1),
        report(task, "progress", execution, sequence=2, counts=Counts(ok=40), phase="generating"),
    )
    record(engine, clock, job, items=10, seconds=10.0)
    Forecaster(engine, clock=clock).step()
    assert Jobs(engine, clock).get(job).predicted_finish_at == pytest.approx(clock() + 160.0)


def test_other_jobs_of_the_model_are_in_the_way(engine: Engine, clock: ManualClock) -> None:
    job = started(engine, clock, shards=10, size=10, tenant="a")
    other = started(engine, clock, shards=10, size=10, tenant="b")
    record(engine, clock, job, items=10, seconds=10.0)
    Forecaster(engine, clock=clock).step()
    jobs = Jobs(engine, clock)
    assert jobs.get(job).predicted_finish_at == pytest.approx(clock() + 200.0)
    jobs.pause(other)
    assert jobs.get(other).predicted_finish_at is None
    Forecaster(engine, clock=clock).step()
    assert jobs.get(job).predicted_finish_at == pytest.approx(clock() + 100.0)


def test_the_first_prediction_is_kept(engine: Engine, clock: ManualClock) -> None:
    job = started(engine, clock, shards=10, size=10)
    jobs, forecaster = Jobs(engine, clock), Forecaster(engine, clock=clock)
    record(engine, clock, job, items=10, seconds=10.0)
    forecaster.step()
    assert jobs.get(job).first_prediction is None
    clock.advance(FIRST_AFTER_SECONDS)
    forecaster.step()
    first = Prediction(clock(), clock() + 100.0)
    assert jobs.get(job).first_prediction == first
    for _ in range(9):
        clock.advance(90.0)
        record(engine, clock, job, items=10, seconds=90.0)
    forecaster.step()
    view = jobs.get(job)
    assert view.first_prediction == first
    assert view.predicted_finish_at is not None
    assert view.predicted_finish_at > first.finish_at + 300.0


def test_large_jobs_are_counted_less_often(engine: Engine, clock: ManualClock) -> None:
    job = started(engine, clock, shards=4, size=10)
    with engine.begin() as connection:
        connection.execute(update(Job).where(Job.id == job).values(shard_count=5_000_000))
    record(engine, clock, job, items=10, seconds=10.0, times=ENOUGH_SHARDS)
    forecaster = Forecaster(engine, clock=clock)
    forecaster.step()
    before = Jobs(engine, clock).get(job).predicted_finish_at
    finish_all(engine, clock, job)
    clock.advance(200.0)
    forecaster.step()
    assert Jobs(engine, clock).get(job).predicted_finish_at == pytest.approx((before or 0.0) + 200.0)
    clock.advance(60.0)
    forecaster.step()
    assert Jobs(engine, clock).get(job).predicted_finish_at == pytest.approx(clock())
