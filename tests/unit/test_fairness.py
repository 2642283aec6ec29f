"""The scheduler's choices, through nights of hundreds of thousands of shards in simulated time."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.fairness import (
    CLASS_SHARES,
    QUANTUM_SECONDS,
    TURN_SECONDS,
    UNDATED_SHARES,
    FairQueue,
    Offer,
    Standing,
    standing,
)
from tests.support.nights import Night, NightJob

ENDLESS = 10_000_000


def shares(jobs: list[NightJob], key: str) -> dict[object, float]:
    had: Counter[object] = Counter()
    for job in jobs:
        had[getattr(job, key)] += job.had
    total = sum(had.values())
    return {name: seconds / total for name, seconds in had.items()}


def offer(job: str, *, tenant: str = "a", seconds: float = 10.0, created_at: float = 0.0, **fields: object) -> Offer:
    given: dict[str, object] = {"model": "m", "priority": 1, **fields}
    return Offer(job=job, tenant=tenant, seconds=seconds, created_at=created_at, **given)  # type: ignore[arg-type]


def order(queue: FairQueue, offers: list[Offer], turns: int) -> list[str]:
    by_tenant: dict[str, list[Offer]] = {}
    for each in offers:
        by_tenant.setdefault(each.tenant, []).append(each)
    return [queue.choose(by_tenant, ()).job for _ in range(turns)]


def test_tenants_get_their_weights_however_large_their_shards_and_wrong_their_estimates() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 5.0}
    jobs = [
        NightJob("a1", ENDLESS, tenant="a", seconds=45, estimate=0.3, spread=0.9),
        NightJob("b1", ENDLESS, tenant="b", seconds=2, estimate=4.0, spread=0.5),
        NightJob("b2", ENDLESS, tenant="b", seconds=15, priority=0),
        NightJob("c1", ENDLESS, tenant="c", seconds=10, estimate=0.1),
    ]
    night = Night(jobs, weights=weights, window=32)
    night.run(until=lambda: night.ran >= 100_000)
    for tenant, share in shares(jobs, "tenant").items():
        assert share == pytest.approx(weights[str(tenant)] / 8.0, rel=0.05)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.5, 1.0, 3.0]), st.floats(1.0, 90.0), st.floats(0.25, 4.0)), min_size=2, max_size=5
    )
)
def test_shares_hold_for_any_weights_and_sizes(tenants: list[tuple[float, float, float]]) -> None:
    weights = {str(number): weight for number, (weight, _, _) in enumerate(tenants)}
    jobs = [
        NightJob(str(number), ENDLESS, tenant=str(number), seconds=seconds, estimate=estimate)
        for number, (_, seconds, estimate) in enumerate(tenants)
    ]
    night = Night(jobs, weights=weights)
    night.run(until=lambda: night.now >= 1_000 * QUANTUM_SECONDS)
    for tenant, share in shares(jobs, "tenant").items():
        assert share == pytest.approx(weights[str(tenant)] / sum(weights.values()), rel=0.05)


def test_the_many_jobs_of_one_tenant_do_not_outweigh_the_one_of_another() -> None:
    jobs = [NightJob(f"a{number}", ENDLESS, tenant="a") for number in range(50)]
    jobs.append(NightJob("b", ENDLESS, tenant="b"))
    night = Night(jobs)
    night.run(until=lambda: night.ran >= 20_000)
    assert shares(jobs, "tenant") == {"a": pytest.approx(0.5, rel=0.05), "b": pytest.approx(0.5, rel=0.05)}


def test_a_tenant_that_comes_later_neither_waits_for_the_others_nor_catches_up() -> None:
    jobs = [NightJob("a", ENDLESS, tenant="a"), NightJob("b", ENDLESS, tenant="b", arrives=50_000.0)]
    night = Night(jobs)
    night.run(until=lambda: night.now >= 52_000.0)
    assert jobs[1].had == pytest.approx(1_000.0, rel=0.1)


def test_lower_classes_keep_their_minimum_and_the_highest_gets_the_rest() -> None:
    jobs = [NightJob(f"{priority}", ENDLESS, priority=priority, seconds=3 + 8 * priority) for priority in range(3)]
    night = Night(jobs)
    night.run(until=lambda: night.ran >= 50_000)
    got = shares(jobs, "priority")
    assert got[1] == pytest.approx(CLASS_SHARES[1], rel=0.05)
    assert got[2] == pytest.approx(CLASS_SHARES[2], rel=0.05)
    assert got[0] == pytest.approx(1 - CLASS_SHARES[1] - CLASS_SHARES[2], rel=0.05)


def test_a_class_alone_gets_all() -> None:
    jobs = [NightJob("low", 500, priority=2)]
    night = Night(jobs)
    night.run()
    assert jobs[0].finished_at == pytest.approx(5_000.0)


def test_jobs_without_a_deadline_keep_a_share_beside_an_endless_row_of_deadlines() -> None:
    dated = [
        NightJob(f"d{number}", 38, arrives=400.0 * number, deadline=400.0 * number + 9_000) for number in range(150)
    ]
    free = NightJob("free", ENDLESS)
    night = Night([*dated, free])
    night.run(until=lambda: night.now >= 60_000)
    assert free.had / night.now >= UNDATED_SHARES[1] * 0.95


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(0, 2),
            st.integers(1, 8),
            st.floats(0.5, 30.0),
            st.floats(0, 5_000),
            st.none() | st.floats(10.0, 20_000.0),
        ),
        min_size=2,
        max_size=8,
    )
)
def test_nobody_starves(given_jobs: list[tuple[str, int, int, float, float, float | None]]) -> None:
    """Beside urgent work without end, of every tenant, every job is done; and none waits for longer than its share."""
    endless = [NightJob(f"endless-{tenant}", ENDLESS, 40.0, tenant=tenant, priority=0) for tenant in "abc"]
    jobs = [
        NightJob(
            f"{number}",
            shards,
            seconds,
            tenant=tenant,
            priority=priority,
            arrives=arrives,
            deadline=None if span is None else arrives + span,
        )
        for number, (tenant, priority, shards, seconds, arrives, span) in enumerate(given_jobs)
    ]
    work = sum(job.shards * job.seconds for job in jobs)
    night = Night([*endless, *jobs])
    # A third of the engine is a tenant's, of that 5 % its lowest class's, of that 10 % its jobs' without deadline.
    bound = 5_000 + (work + 20 * QUANTUM_SECONDS) * 3 / (CLASS_SHARES[2] * UNDATED_SHARES[1])
    night.run(until=lambda: night.now >= bound or all(job.finished_at is not None for job in jobs))
    assert [job.name for job in jobs if job.finished_at is None] == []


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 80), st.floats(1.0, 20.0)), min_size=1, max_size=12),
    st.lists(st.integers(0, 2), min_size=0, max_size=3),
    st.floats(1.0, 2.0),
)
def test_deadlines_are_met_whenever_they_could_be(
    dated: list[tuple[int, int, float]], endless: list[int], ease: float
) -> None:
    """Whatever their classes, and whatever else waits: as long as the minimum shares of others leave room for them."""
    kept_for_others = sum(CLASS_SHARES.values())
    before = 300.0 + 8 * 20.0  # the window in front of them, and what a class may be owed
    spans = accumulate(shards * seconds for _, shards, seconds in dated)
    jobs = [
        NightJob(
            f"d{number}", shards, seconds, priority=priority, deadline=before + ease * span / (1 - kept_for_others)
        )
        for number, ((priority, shards, seconds), span) in enumerate(zip(dated, spans, strict=True))
    ]
    others = [NightJob(f"e{number}", ENDLESS, priority=priority) for number, priority in enumerate(endless)]
    night = Night([*others, *jobs], forecast_seconds=20.0)
    night.run(until=lambda: all(job.finished_at is not None for job in jobs) or night.now > 100_000)
    late = [(job.name, job.deadline, job.finished_at) for job in jobs if (job.finished_at or 1e9) > (job.deadline or 0)]
    assert late == []


def test_a_deadline_that_is_out_of_reach_costs_no_other_its_own() -> None:
    lost = NightJob("lost", 1_000, deadline=1_000.0)
    kept = NightJob("kept", 100, deadline=1_500.0)
    night = Night([lost, kept])
    night.run(until=lambda: kept.finished_at is not None)
    assert kept.finished_at is not None
    assert kept.finished_at <= 1_500.0


def test_ten_items_do_not_wait_for_ten_million() -> None:
    million = NightJob("million", ENDLESS, seconds=7.0)
    ten = [NightJob(f"ten-{number}", 1, seconds=7.0, arrives=4_000.0 * (number + 1)) for number in range(100)]
    night = Night([million, *ten])
    night.run(until=lambda: night.ran >= 60_000)
    assert million.had >= 0.99 * night.now
    window = 8 * 7.0
    assert all((job.finished_at or 1e12) - job.arrives <= TURN_SECONDS + window + 3 * 7.0 for job in ten)


def test_affinity_saves_switches_and_puts_nobody_far_behind() -> None:
    def night(*, affinity: bool) -> tuple[Night, list[NightJob]]:
        jobs = [NightJob(f"{number}", 400, model="xy"[number % 2], seconds=5.0) for number in range(8)]
        night = Night(jobs, affinity=affinity)
        night.run(until=lambda: night.ran >= 2_400)
        return night, jobs

    near, jobs = night(affinity=True)
    far, _ = night(affinity=False)
    assert near.switches < far.switches / 2
    had = [job.had for job in jobs]
    assert max(had) - min(had) <= TURN_SECONDS + 2 * 5.0


def test_a_turn_goes_on_with_the_same_job() -> None:
    """Its prompts begin alike: 60 seconds of it run in a row."""
    found = order(FairQueue(), [offer("old"), offer("young", created_at=1.0)], 24)
    assert found == ["old"] * 6 + ["young"] * 12 + ["old"] * 6


def test_a_late_job_jumps_classes_but_not_what_they_are_sure_of() -> None:
    urgent = offer("urgent", priority=0)
    late = offer("late", priority=2, deadline_at=100.0, standing=Standing.LATE)
    normal = offer("normal", priority=1)
    found = Counter(order(FairQueue(), [urgent, late, normal], 1_000))
    assert found["urgent"] == pytest.approx(100, rel=0.1)
    assert found["normal"] == pytest.approx(200, rel=0.05)


def test_debt_is_paid_by_waiting() -> None:
    queue = FairQueue()
    offers = [offer("x", tenant="a"), offer("y", tenant="b")]
    order(queue, offers, 2)
    queue.settle("a", "x", 6_000.0)
    assert set(order(queue, offers, 500)) == {"y"}
    assert Counter(order(queue, offers, 400))["x"] > 100


def test_what_was_charged_too_much_is_given_back() -> None:
    queue = FairQueue()
    offers = [offer("x", tenant="a", seconds=100.0), offer("y", tenant="b", seconds=1.0)]
    counts: Counter[str] = Counter()
    for _ in range(6_000):
        chosen = queue.choose({each.tenant: [each] for each in offers}, ())
        queue.settle(chosen.tenant, chosen.job, 1.0 - chosen.seconds)
        counts[chosen.job] += 1
    assert counts["x"] == pytest.approx(counts["y"], rel=0.05)


def test_a_tenant_without_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        FairQueue({"a": 0.0})


@pytest.mark.parametrize(
    ("deadline", "predicted", "earliest", "lag", "found"),
    [
        (None, 50.0, 50.0, 0.0, Standing.FREE),
        (200.0, None, None, 0.0, Standing.DATED),
        (200.0, 150.0, 120.0, 30.0, Standing.DATED),
        (200.0, 150.0, 120.0, 50.0, Standing.LATE),
        (200.0, 195.0, 120.0, 0.0, Standing.LATE),
        (200.0, 900.0, 215.0, 0.0, Standing.LATE),
        (200.0, 900.0, 225.0, 0.0, Standing.HOPELESS),
        (100.0, None, None, 0.0, Standing.HOPELESS),
    ],
)
def test_how_a_job_stands_to_its_deadline(
    deadline: float | None, predicted: float | None, earliest: float | None, lag: float, found: Standing
) -> None:
    assert standing(deadline, 100.0, predicted_finish_at=predicted, earliest_finish_at=earliest, lag=lag) is found
