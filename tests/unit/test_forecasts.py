"""When jobs are expected to be done, from what is left of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.fairness import CLASS_SHARES, QUANTUM_SECONDS, TURN_SECONDS
from orchestrator.forecasts import Load, finish_times
from tests.support.nights import Night, NightJob

NOW = 1_000.0


def load(job: str, seconds: float, *, tenant: str = "a", priority: int = 1, deadline_at: float | None = None) -> Load:
    return Load(job, tenant, priority, 0.0, deadline_at, seconds)


def times(*loads: Load, **weights: float) -> dict[str, float]:
    return {job: finish - NOW for job, finish in finish_times(loads, now=NOW, weights=weights).items()}


def test_a_job_alone_takes_what_is_left_of_it() -> None:
    assert times(load("x", 120.0)) == {"x": 120.0}


def test_a_job_with_nothing_left_is_done_now() -> None:
    assert times(load("x", 0.0), load("y", 5.0)) == {"x": 0.0, "y": 5.0}


def test_nothing_is_predicted_of_nothing() -> None:
    assert times() == {}


def test_jobs_of_equal_standing_run_side_by_side() -> None:
    assert times(load("small", 10.0), load("large", 1_000.0)) == pytest.approx({"small": 20.0, "large": 1_010.0})


def test_tenants_share_by_their_weights() -> None:
    found = times(load("x", 75.0, tenant="a"), load("y", 25.0, tenant="b"), a=3.0, b=1.0)
    assert found == pytest.approx({"x": 100.0, "y": 100.0})


def test_lower_classes_have_their_minimum_until_the_higher_are_done() -> None:
    found = times(load("urgent", 80.0, priority=0), load("normal", 60.0))
    assert found == pytest.approx({"urgent": 100.0, "normal": 140.0})


def test_the_nearer_deadline_comes_first() -> None:
    found = times(load("far", 100.0, deadline_at=NOW + 900), load("near", 50.0, deadline_at=NOW + 500))
    assert found == pytest.approx({"near": 50.0, "far": 150.0})


def test_a_deadline_out_of_reach_is_as_none() -> None:
    found = times(load("lost", 100.0, deadline_at=NOW + 50), load("free", 100.0))
    assert found == pytest.approx({"lost": 200.0, "free": 200.0})


loads = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.floats(0.0, 1e6), st.none() | st.floats(1.0, 1e6)),
    min_size=1,
    max_size=40,
).map(
    lambda rows: [
        load(str(number), seconds, tenant=tenant, priority=priority, deadline_at=None if span is None else NOW + span)
        for number, (tenant, priority, seconds, span) in enumerate(rows)
    ]
)


@given(loads)
def test_no_engine_does_more_than_it_can(given_loads: list[Load]) -> None:
    found = finish_times(given_loads, now=NOW)
    assert set(found) == {each.job for each in given_loads}
    total = sum(each.seconds for each in given_loads)
    last = max(found.values()) - NOW
    assert total - 0.001 <= last <= total * 1.05 + 0.001
    for each in given_loads:
        assert found[each.job] - NOW >= each.seconds - 0.001


def test_thousands_of_jobs_take_few_steps() -> None:
    many = [load(f"{number}", 1.0 + number, tenant=str(number % 7)) for number in range(5_000)]
    found = finish_times(many, now=NOW)
    assert max(found.values()) - NOW == pytest.approx(sum(each.seconds for each in many), rel=0.05)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(100, 400), st.floats(2.0, 12.0)),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_predicted_is_what_the_scheduler_does(rows: list[tuple[str, int, int, float]]) -> None:
    jobs = [
        NightJob(str(number), shards, seconds, tenant=tenant, priority=priority)
        for number, (tenant, priority, shards, seconds) in enumerate(rows)
    ]
    predicted = finish_times([Load(job.name, job.tenant, job.priority, 0.0, None, job.left) for job in jobs], now=0.0)
    Night(jobs).run()
    for job in jobs:
        # What flows in the prediction comes in quanta and turns, which a row with a small share waits for.
        lag = (QUANTUM_SECONDS + TURN_SECONDS) / _first_share(job, jobs)
        assert job.finished_at is not None
        assert abs(job.finished_at - predicted[job.name]) <= 0.1 * predicted[job.name] + lag


def _first_share(job: NightJob, jobs: list[NightJob]) -> float:
    """The part of the engine that a job's class gets of it at the beginning."""
    highest, *below = sorted({other.priority for other in jobs if other.tenant == job.tenant})
    rest = 1.0 - sum(CLASS_SHARES[priority] for priority in below)
    of_tenant = rest if job.priority == highest else CLASS_SHARES[job.priority]
    return of_tenant / len({other.tenant for other in jobs})
