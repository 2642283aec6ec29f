"""Leases end by the reaper's own clock, only while reports are being applied, and never cost finished work."""

from __future__ import annotations

import random
from typing import Any

import pytest
from sqlalchemy import Engine, select

from orchestrator import database
from orchestrator.jobs import Jobs
from orchestrator.lifecycle import JobStatus
from orchestrator.reaper import REPUBLISH_SECONDS, SETTLE_SHARE, Reaper, apply_probe
from orchestrator.tables import Probe
from tests.support.clocks import ManualClock
from tests.support.shards import Outbox, apply, execution_id, finished, part_of, planned_job, report, shard_row, take
from workers.broker import BrokerError
from workers.contracts import Timings
from workers.store import ObjectStore, open_store

LEASE = 60.0
SETTLE = LEASE * SETTLE_SHARE


class Night:
    """One running shard, a reaper that watches it, and a control worker that can be asleep."""

    def __init__(self, engine: Engine, clock: ManualClock, store: ObjectStore) -> None:
        self.engine = engine
        self.clock = clock
        self.store = store
        self.steady = ManualClock(50.0)
        self.outbox = Outbox()
        self.waiting = 0
        self.unreachable = False
        self.job = planned_job(engine, clock, shards=1)
        [self.task] = take(engine, self.job, clock)
        self.execution = execution_id()
        self.reaper = self.new_reaper("reaper-1")

    def new_reaper(self, name: str) -> Reaper:
        return Reaper(
            name,
            self.engine,
            self.store,
            self.outbox,
            waiting_shards=self.waiting_shards,
            lease_seconds=LEASE,
            clock=self.clock,
            monotonic=self.steady,
            chance=random.Random(5),
        )

    def waiting_shards(self) -> int:
        if self.unreachable:
            raise BrokerError("Redis is away")
        return self.waiting

    def say(self, event: str, **fields: Any) -> None:
        apply(self.engine, self.clock, report(self.task, event, self.execution, **fields))

    def let_probes_out(self) -> None:
        for reaper, value in self.outbox.probes:
            apply_probe(self.engine, reaper, value, now=self.clock())
        self.outbox.probes.clear()

    def answer_probes(self, *others: Reaper) -> None:
        """Let the probes come out, the reapers see it, and the time pass for which they watch on."""
        self.let_probes_out()
        for watching in (self.reaper, *others):
            assert watching.step() == 0
        self.steady.advance(SETTLE)

    def pass_time(self, seconds: float) -> int:
        self.steady.advance(seconds)
        self.clock.advance(seconds)
        return self.reaper.step()

    @property
    def row(self) -> Any:
        return shard_row(self.engine, self.job)


@pytest.fixture
def night(engine: Engine, clock: ManualClock, folder_url: str) -> Night:
    return Night(engine, clock, open_store(folder_url))


def start_and_fall_silent(night: Night) -> None:
    night.say("started")
    night.reaper.step()
    night.pass_time(LEASE)


def test_a_silent_execution_is_suspected_probed_and_given_up(night: Night) -> None:
    start_and_fall_silent(night)
    assert (night.outbox.probes, night.row.status) == ([("reaper-1", 1)], "running")
    night.answer_probes()
    assert night.reaper.step() == 1
    row = night.row
    assert (row.status, row.losses, row.failures, row.error_code) == ("queued", 1, 0, "worker_lost")
    assert row.available_at > night.clock()


def test_nothing_happens_before_the_lease_is_over(night: Night) -> None:
    night.say("started")
    night.reaper.step()
    night.pass_time(LEASE - SETTLE - 1)
    assert night.outbox.probes == []
    night.pass_time(1)
    night.answer_probes()
    night.steady.advance(-1)
    assert night.reaper.step() == 0
    night.steady.advance(1)
    assert night.reaper.step() == 1


def test_an_outage_of_the_broker_costs_no_lease(night: Night) -> None:
    night.say("started")
    night.reaper.step()
    night.unreachable = True
    with pytest.raises(BrokerError):
        night.pass_time(LEASE)
    night.unreachable = False
    night.pass_time(LEASE)
    night.pass_time(LEASE - SETTLE - 1)
    assert night.outbox.probes == []
    night.pass_time(1)
    assert night.outbox.probes == [("reaper-1", 1)]


def test_a_renewal_that_was_still_in_the_queue_saves_the_lease(night: Night) -> None:
    start_and_fall_silent(night)
    night.say("progress")  # it stood before the probe in the queue
    night.answer_probes()
    assert night.reaper.step() == 0
    assert night.pass_time(LEASE - 1) == 0
    assert night.row.status == "running"


def test_a_renewal_that_a_probe_overtook_saves_the_lease(night: Night) -> None:
    """One of two control workers has taken it off the queue and is slow; the other has let the probe by."""
    start_and_fall_silent(night)
    night.answer_probes()
    night.say("progress")
    assert night.reaper.step() == 0
    assert (night.row.status, night.row.losses) == ("running", 0)


def test_nothing_expires_while_no_reports_are_applied(night: Night) -> None:
    start_and_fall_silent(night)
    for _ in range(100):
        night.pass_time(LEASE)
    assert night.row.status == "running"
    night.answer_probes()
    assert night.reaper.step() == 1


def test_a_probe_that_got_lost_is_sent_again(night: Night) -> None:
    start_and_fall_silent(night)
    night.outbox.probes.clear()
    night.pass_time(REPUBLISH_SECONDS - 1)
    assert night.outbox.probes == []
    night.pass_time(LEASE / 2)
    assert night.outbox.probes == [("reaper-1", 2)]
    night.answer_probes()
    assert night.reaper.step() == 1


def test_a_broker_that_is_away_expires_nothing(night: Night) -> None:
    night.say("started")
    night.reaper.step()
    night.outbox.broken = True
    with pytest.raises(BrokerError):
        night.pass_time(LEASE)
    assert night.row.status == "running"
    night.outbox.broken = False
    night.reaper.step()
    assert night.outbox.probes == [("reaper-1", 1)]


def test_a_reaper_that_just_started_gives_every_lease_its_full_time(night: Night) -> None:
    start_and_fall_silent(night)
    night.answer_probes()
    fresh = night.new_reaper("reaper-2")
    assert fresh.step() == 0
    assert night.row.status == "running"


@pytest.mark.parametrize("store_kind", ["file", "s3"])
def test_a_part_whose_report_got_lost_is_adopted(
    engine: Engine, clock: ManualClock, request: pytest.FixtureRequest, store_kind: str
) -> None:
    url = request.getfixturevalue({"file": "folder_url", "s3": "s3_url"}[store_kind])
    night = Night(engine, clock, open_store(url))
    night.say("started")
    night.say("progress", timings=Timings(generate=4.0))
    part, data = part_of(night.task, night.execution, failed=[1])
    night.store.put(part.key, data)
    night.reaper.step()
    night.pass_time(LEASE)
    night.answer_probes()
    assert night.reaper.step() == 1
    row = night.row
    assert (row.status, row.part_key, row.losses) == ("done", part.key, 0)
    assert row.generate_seconds == 4.0
    assert (row.part_ok, row.part_failed, row.part_sha256, row.part_bytes) == (1, 1, part.sha256, len(data))


@pytest.mark.parametrize("damage", ["cut", "empty", "other items"])
def test_a_broken_part_is_not_adopted(night: Night, damage: str) -> None:
    part, data = part_of(night.task, night.execution)
    broken = {"cut": data[:-1], "empty": b"", "other items": data.replace(b'"index":1', b'"index":7')}[damage]
    night.store.put(part.key, broken)
    start_and_fall_silent(night)
    night.answer_probes()
    assert night.reaper.step() == 1
    assert night.row.status == "queued"


def test_a_late_finish_after_the_loss_still_wins(night: Night) -> None:
    start_and_fall_silent(night)
    night.answer_probes()
    night.reaper.step()
    apply(night.engine, night.clock, finished(night.task, night.execution))
    assert night.row.status == "done"


def test_two_reapers_count_a_loss_once(night: Night) -> None:
    second = night.new_reaper("reaper-2")
    night.say("started")
    for reaper in (night.reaper, second):
        reaper.step()
    night.steady.advance(LEASE)
    for reaper in (night.reaper, second):
        reaper.step()
    night.answer_probes(second)
    assert [night.reaper.step(), second.step()] == [1, 0]
    assert night.row.losses == 1


def test_a_shard_lost_while_its_job_is_cancelled_is_cancelled(night: Night) -> None:
    night.say("started")
    Jobs(night.engine, night.clock).cancel(night.job)
    night.reaper.step()
    night.pass_time(LEASE)
    night.answer_probes()
    night.reaper.step()
    assert night.row.status == "cancelled"
    assert Jobs(night.engine, night.clock).get(night.job).status is JobStatus.CANCELLING


def test_a_message_that_got_lost_is_published_again_by_the_same_token(night: Night) -> None:
    night.reaper.step()
    for published in (1, 2):
        assert night.pass_time(REPUBLISH_SECONDS - 1) == 0
        assert night.outbox.probes == []
        assert night.pass_time(1) == 0
        night.let_probes_out()
        assert night.reaper.step() == 1
        assert night.outbox.shards == published * [night.task]


def test_a_shard_whose_worker_was_not_heard_yet_is_not_published_again(night: Night) -> None:
    night.reaper.step()
    assert night.pass_time(10 * REPUBLISH_SECONDS) == 0
    night.say("started")  # it stood before the probe in the queue
    night.answer_probes()
    assert night.reaper.step() == 0
    assert night.outbox.shards == []


def test_nothing_is_published_again_while_messages_wait(night: Night) -> None:
    night.waiting = 1
    night.reaper.step()
    assert night.pass_time(10 * REPUBLISH_SECONDS) == 0
    assert night.outbox.shards == []


def test_waiting_in_the_queue_burns_no_lease(night: Night) -> None:
    night.waiting = 1
    night.reaper.step()
    night.pass_time(10 * LEASE)
    assert (night.outbox.probes, night.row.status) == ([], "dispatched")


def test_probes_only_grow_and_are_forgotten_with_their_reaper(night: Night) -> None:
    for value in (2, 1, 3, 3):
        apply_probe(night.engine, "reaper-1", value, now=night.clock())
    apply_probe(night.engine, "reaper-2", 9, now=night.clock())
    with database.reading(night.engine) as connection:
        values = {row.reaper: row.value for row in connection.execute(select(Probe.reaper, Probe.value))}
    assert values == {"reaper-1": 3, "reaper-2": 9}
    night.reaper.close()
    with database.reading(night.engine) as connection:
        assert connection.execute(select(Probe.reaper)).scalars().all() == ["reaper-2"]
