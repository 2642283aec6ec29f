"""The worker's side of a lease: what it reports, when, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from models.errors import FailureKind
from models.spec import Usage
from workers.broker import BrokerError
from workers.contracts import (
    CountRange,
    Counts,
    Directive,
    Failure,
    Part,
    ShardReport,
    ShardTask,
    Work,
    decode,
    encode,
)
from workers.execute import Progress
from workers.leases import OUTAGE_LEASES, PROGRESS_SECONDS, RESEND_SECONDS, Lease, LeaseKeeper

LEASE_SECONDS = 40.0


def shard(number: int = 0, *, job: str = "job_1", token: int = 1) -> ShardTask:
    work = Work(model="echo", engine="auto", messages=(), sampling={}, seed=0)
    return ShardTask(
        job=job, shard=number, token=token, first=0, count=4, source=CountRange(start=0, count=4), work=work
    )


class World:
    """A broker, an orchestrator's answers, an actor and a clock, all in the test's hands."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sent: list[ShardReport] = []
        self.told: dict[str, Directive] = {}
        self.stopped: dict[str, str] = {}
        self.progress: dict[str, Progress] = {}
        self.beats: list[tuple[list[str], dict[str, str]]] = []
        self.reachable = True
        self.keeper = LeaseKeeper(
            worker="here:1",
            reports=self,
            answers=self,
            exchange=self.exchange,
            lease_seconds=LEASE_SECONDS,
            clock=lambda: self.now,
        )

    def reports(self, reports: Sequence[ShardReport]) -> None:
        if not self.reachable:
            raise BrokerError("Redis at redis://127.0.0.1:1/0 cannot be reached")
        self.sent.extend(decode(encode(report), ShardReport) for report in reports)

    def directives(self, executions: Sequence[str]) -> dict[str, Directive]:
        return {execution: self.told[execution] for execution in executions if execution in self.told}

    def stopped_jobs(self, jobs: Sequence[str]) -> dict[str, str]:
        return {job: self.stopped[job] for job in jobs if job in self.stopped}

    def exchange(self, granted: Sequence[str], stops: Mapping[str, str]) -> dict[str, Progress]:
        self.beats.append((list(granted), dict(stops)))
        return dict(self.progress)

    def open(self, task: ShardTask) -> Lease:
        lease = self.keeper.open(task)
        assert lease is not None
        return lease

    def grant(self, lease: Lease) -> None:
        self.told[lease.execution] = Directive(command="run", acknowledged=lease.sequence)


@pytest.fixture
def world() -> World:
    return World()


def part(key: str = "jobs/job_1/parts/a.jsonl") -> Part:
    return Part(key=key, bytes=10, sha256="0" * 64, counts=Counts(4, 0), usage=Usage(4, 4))


def test_a_new_execution_says_that_it_started(world: World) -> None:
    lease = world.open(shard())
    world.keeper.beat()
    assert [(r.event, r.execution, r.sequence) for r in world.sent] == [("started", lease.execution, 1)]


def test_the_same_attempt_is_not_run_twice_side_by_side(world: World) -> None:
    world.open(shard(3, token=2))
    assert world.keeper.open(shard(3, token=2)) is None
    assert world.keeper.open(shard(3, token=3)) is not None


def test_a_grant_reaches_the_actor_at_the_next_beat(world: World) -> None:
    lease = world.open(shard())
    world.keeper.beat()
    assert not lease.granted
    world.grant(lease)
    world.keeper.beat()
    assert lease.granted
    world.keeper.beat()
    assert world.beats[-1] == ([lease.execution], {})


def test_nothing_is_sent_while_there_is_no_news(world: World) -> None:
    lease = world.open(shard())
    world.keeper.beat()
    world.grant(lease)
    world.keeper.beat()
    said = len(world.sent)
    world.now += RESEND_SECONDS
    world.keeper.beat()
    assert len(world.sent) == said


def test_an_acknowledged_lease_is_renewed_in_good_time(world: World) -> None:
    lease = world.open(shard())
    world.keeper.beat()
    world.grant(lease)
    world.keeper.beat()
    said = len(world.sent)
    world.now += LEASE_SECONDS / 4
    world.keeper.beat()
    assert len(world.sent) == said + 1


def test_a_report_that_is_not_acknowledged_is_sent_again(world: World) -> None:
    world.open(shard())
    world.keeper.beat()
    world.now += RESEND_SECONDS
    world.keeper.beat()
    assert [report.sequence for report in world.sent] == [1, 2]


def test_counts_are_reported_once_a_second_and_a_new_phase_at_once(world: World) -> None:
    lease = world.open(shard())
    world.keeper.beat()
    world.grant(lease)
    world.progress[lease.execution] = Progress(phase="generating", counts=Counts(1, 0))
    world.keeper.beat()
    world.keeper.beat()
    assert world.sent[-1].phase == "generating"
    world.grant(lease)
    world.keeper.beat()
    said = len(world.sent)
    world.progress[lease.execution] = Progress(phase="generating", counts=Counts(3, 0))
    world.keeper.beat()
    assert len(world.sent) == said
    world.now += PROGRESS_SECONDS
    world.keeper.beat()
    assert world.sent[-1].counts == Counts(3, 0)


def test_the_last_report_carries_the_part_and_closes_the_lease_when_acknowledged(world: World) -> None:
    lease = world.open(shard())
    world.keeper.beat()
    lease.finish(part(), Progress(phase="writing", counts=Counts(4, 0)))
    world.keeper.beat()
    assert world.sent[-1].event == "finished"
    assert world.sent[-1].part == part()
    assert not world.keeper.idle
    world.grant(lease)
    world.keeper.beat()
    assert world.keeper.idle


def test_progress_that_arrives_late_does_not_undo_an_end(world: World) -> None:
    lease = world.open(shard())
    world.progress[lease.execution] = Progress(phase="generating")
    lease.finish(part(), Progress(phase="writing"))
    world.keeper.beat()
    assert world.sent[-1].event == "finished"


def test_a_lost_broker_loses_no_report(world: World) -> None:
    lease = world.open(shard())
    world.reachable = False
    lease.fail(Failure(FailureKind.ENGINE, "engine_died", "it died"), Progress())
    world.keeper.beat()
    assert world.sent == []
    world.reachable = True
    world.keeper.beat()
    assert world.sent[-1].failure == Failure(FailureKind.ENGINE, "engine_died", "it died")


def test_an_execution_without_acknowledgement_for_a_lease_stops_by_itself(world: World) -> None:
    lease = world.open(shard())
    world.keeper.beat()
    world.now += LEASE_SECONDS
    world.keeper.beat()
    assert lease.stopped is not None
    world.keeper.beat()
    assert lease.execution in world.beats[-1][1]


def test_an_outage_of_the_broker_costs_no_lease(world: World) -> None:
    lease = world.open(shard())
    world.keeper.beat()
    world.reachable = False
    for _ in range(4):
        world.now += LEASE_SECONDS
        world.keeper.beat()
    assert lease.stopped is None
    world.reachable = True
    world.keeper.beat()
    world.now += LEASE_SECONDS - 1
    world.keeper.beat()
    assert lease.stopped is None
    world.now += 1
    world.keeper.beat()
    assert lease.stopped is not None


def test_an_outage_that_does_not_end_stops_what_runs(world: World) -> None:
    lease = world.open(shard())
    world.reachable = False
    world.keeper.beat()
    world.now += OUTAGE_LEASES * LEASE_SECONDS
    world.keeper.beat()
    assert lease.stopped is not None


def test_an_end_that_nobody_acknowledges_is_left_to_the_reaper(world: World) -> None:
    lease = world.open(shard())
    lease.finish(part(), Progress())
    world.now += LEASE_SECONDS
    world.keeper.beat()
    assert world.keeper.idle


@pytest.mark.parametrize("by", ["directive", "job", "worker"])
def test_a_stop_reaches_the_actor_with_its_reason(world: World, by: str) -> None:
    lease = world.open(shard())
    if by == "directive":
        world.told[lease.execution] = Directive(command="stop", acknowledged=1, reason="stale")
    elif by == "job":
        world.stopped["job_1"] = "cancelled"
    else:
        world.keeper.stop_all("draining")
    world.keeper.beat()
    world.keeper.beat()
    assert world.beats[-1] == ([], {lease.execution: {"directive": "stale", "job": "cancelled"}.get(by, "draining")})
