"""Wall clocks of hosts that differ by five minutes either way, or jump: no lease is lost or doubled by that."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import Engine

from orchestrator import endings
from orchestrator.finalize import Finaliser
from orchestrator.jobs import Jobs
from orchestrator.lifecycle import LONGEST_BACKOFF
from orchestrator.reaper import REPUBLISH_SECONDS, SETTLE_SHARE, Reaper, apply_probe
from tests.support.clocks import ManualClock
from tests.support.shards import Outbox, apply, execution_id, finished, planned_job, report, shard_row, take
from workers.store import open_store

LEASE = 60.0
SETTLE = LEASE * SETTLE_SHARE
JUMPS = [-300.0, 300.0]


class Hosts:
    """Three hosts with a wall clock each: the scheduler's, the control worker's and the API's."""

    def __init__(self, engine: Engine, clock: ManualClock, folder_url: str, skew: float) -> None:
        self.engine = engine
        self.scheduler = clock
        self.control = ManualClock(clock() + skew)
        self.api = ManualClock(clock() - skew)
        self.steady = ManualClock(50.0)
        self.outbox = Outbox()
        self.store = open_store(folder_url)
        self.reaper = Reaper(
            "reaper",
            engine,
            self.store,
            self.outbox,
            waiting_shards=lambda: 0,
            lease_seconds=LEASE,
            clock=self.scheduler,
            monotonic=self.steady,
            chance=random.Random(5),
        )

    def pass_time(self, seconds: float) -> int:
        for clock in (self.scheduler, self.control, self.api, self.steady):
            clock.advance(seconds)
        for reaper, value in self.outbox.probes:
            apply_probe(self.engine, reaper, value, now=self.control())
        self.outbox.probes.clear()
        return self.reaper.step()


@pytest.fixture(params=JUMPS, ids=["behind", "ahead"])
def hosts(request: pytest.FixtureRequest, engine: Engine, clock: ManualClock, folder_url: str) -> Hosts:
    return Hosts(engine, clock, folder_url, request.param)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_clock_that_jumps_takes_no_lease(hosts: Hosts, jump: float) -> None:
    job = planned_job(hosts.engine, hosts.scheduler, shards=1)
    [task] = take(hosts.engine, job, hosts.scheduler)
    execution = execution_id()
    apply(hosts.engine, hosts.control, report(task, "started", execution))
    hosts.pass_time(0)
    for clock in (hosts.scheduler, hosts.control):
        clock.advance(jump)
        assert hosts.pass_time(LEASE / 4) == 0
    row = shard_row(hosts.engine, job)
    assert (row.status, row.execution, hosts.outbox.probes) == ("running", execution, [])


@pytest.mark.parametrize("jump", JUMPS)
def test_a_clock_that_jumps_gives_no_lease_more_time(hosts: Hosts, jump: float) -> None:
    job = planned_job(hosts.engine, hosts.scheduler, shards=1)
    [task] = take(hosts.engine, job, hosts.scheduler)
    apply(hosts.engine, hosts.control, report(task, "started", execution_id()))
    hosts.pass_time(0)
    hosts.scheduler.advance(jump)
    assert hosts.pass_time(LEASE - SETTLE) == 0
    assert hosts.pass_time(0) == 0
    assert hosts.pass_time(SETTLE) == 1
    row = shard_row(hosts.engine, job)
    assert (row.status, row.losses) == ("queued", 1)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_clock_that_jumps_offers_no_shard_early(hosts: Hosts, jump: float) -> None:
    job = planned_job(hosts.engine, hosts.scheduler, shards=1)
    [task] = take(hosts.engine, job, hosts.scheduler)
    hosts.pass_time(0)
    hosts.scheduler.advance(jump)
    assert hosts.pass_time(REPUBLISH_SECONDS - 1) == 0
    assert hosts.pass_time(1) == 0  # it asks first whether the worker's report is still on its way
    assert hosts.pass_time(0) == 1
    assert hosts.outbox.shards == [task]


def test_a_backoff_is_stretched_or_cut_by_the_difference_and_runs_once(hosts: Hosts) -> None:
    """The control worker says when the shard is available, the scheduler when that is: never later than it could be."""
    job = planned_job(hosts.engine, hosts.scheduler, shards=1)
    [task] = take(hosts.engine, job, hosts.scheduler)
    execution = execution_id()
    apply(hosts.engine, hosts.control, report(task, "started", execution), report(task, "handed_back", execution))
    ahead = hosts.control() - hosts.scheduler()
    wait = max(0.0, endings.HAND_BACK_SECONDS + ahead)
    if wait > LONGEST_BACKOFF:
        wait = 0.0  # no pause is that long: the clocks differ
    if wait:
        hosts.pass_time(wait - 1)
        assert take(hosts.engine, job, hosts.scheduler) == []
        hosts.pass_time(1)
    [again] = take(hosts.engine, job, hosts.scheduler)
    assert again.token == task.token + 1
    assert take(hosts.engine, job, hosts.scheduler) == []
    assert hosts.pass_time(REPUBLISH_SECONDS - 1) == 0


def test_a_retry_waits_for_no_clock(hosts: Hosts) -> None:
    job = planned_job(hosts.engine, hosts.scheduler, shards=1)
    [task] = take(hosts.engine, job, hosts.scheduler)
    apply(hosts.engine, hosts.control, finished(task, execution_id(), failed=(0,), store=hosts.store))
    Finaliser(hosts.engine, hosts.store, hosts.outbox, clock=hosts.scheduler).step()
    Jobs(hosts.engine, hosts.api).retry(job)
    assert [task.token for task in take(hosts.engine, job, hosts.scheduler)] == [2]


def test_a_deadline_moves_by_the_difference_and_keeps_what_is_finished(hosts: Hosts) -> None:
    """The API says when the deadline is, the scheduler when that is."""
    job = planned_job(hosts.engine, hosts.api, shards=2, deadline="1h")
    hosts.pass_time(301)  # by the scheduler's clock as well it is planned by now
    first, second = take(hosts.engine, job, hosts.scheduler)
    execution = execution_id()
    done = finished(first, execution_id(), store=hosts.store)
    apply(hosts.engine, hosts.control, done, report(second, "started", execution))
    jobs = Jobs(hosts.engine, hosts.api)
    finaliser = Finaliser(hosts.engine, hosts.store, hosts.outbox, clock=hosts.scheduler)
    deadline = jobs.get(job).deadline_at
    assert deadline is not None
    left = deadline - hosts.scheduler()
    assert abs(left - (3600 - 301)) == 300
    hosts.pass_time(left - 1)
    finaliser.step()
    assert jobs.get(job).status == "in_progress"
    hosts.pass_time(1)
    finaliser.step()
    apply(hosts.engine, hosts.control, report(second, "handed_back", execution))
    finaliser.step()
    view = jobs.get(job)
    assert (view.status, view.counts.ok, view.counts.expired) == ("expired", 2, 2)
    assert view.timings.wall is not None
    assert view.timings.wall >= 0
