"""What workers say, applied: once, in any order, by whoever still has the right to say it."""

from __future__ import annotations

import itertools
import math
import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as given_property
from hypothesis import strategies as st
from sqlalchemy import Engine, select, update

from models.errors import FailureKind
from orchestrator import database, dispatch, endings, reports
from orchestrator.jobs import Jobs
from orchestrator.lifecycle import MAX_ATTEMPTS, JobStatus, ShardStatus
from orchestrator.reports import Applied
from orchestrator.tables import Execution, Shard
from tests.support.clocks import ManualClock
from tests.support.shards import (
    commands,
    execution_id,
    failure,
    finished,
    part_of,
    partial_of,
    planned_job,
    report,
    shard_row,
    take,
)
from workers.contracts import MODEL_NOT_LOADED, Counts, ShardReport, ShardTask, Timings


class Given:
    """A job with one dispatched shard, and reports about it."""

    def __init__(self, engine: Engine, clock: ManualClock, *, shards: int = 1, size: int = 2) -> None:
        self.engine = engine
        self.clock = clock
        self.job = planned_job(engine, clock, shards=shards, size=size)
        self.task, *self.others = take(engine, self.job, clock)
        self.execution = execution_id()

    def apply(self, *batch: ShardReport) -> Applied:
        return reports.apply(self.engine, batch, now=self.clock(), chance=random.Random(3))

    def say(self, event: str, **fields: Any) -> str:
        """Apply a report of the first execution; the command that answers it."""
        applied = self.apply(report(self.task, event, self.execution, **fields))
        return applied.directives[self.execution].command

    @property
    def row(self) -> Any:
        return shard_row(self.engine, self.job)


@pytest.fixture
def given(engine: Engine, clock: ManualClock) -> Given:
    return Given(engine, clock)


def test_the_first_report_grants_the_shard_and_counts_an_attempt(given: Given) -> None:
    given.clock.advance(5)
    assert given.say("started") == "run"
    assert (given.row.status, given.row.execution, given.row.attempts) == ("running", given.execution, 1)
    assert given.row.started_at == given.clock()


def test_a_second_execution_of_the_same_attempt_is_told_to_stop(given: Given) -> None:
    other = execution_id()
    applied = given.apply(report(given.task, "started", given.execution), report(given.task, "started", other))
    assert commands(applied.directives) == {given.execution: "run", other: "stop"}
    assert given.row.execution == given.execution


def test_the_first_report_again_is_answered_again(given: Given) -> None:
    given.say("started")
    again = report(given.task, "started", given.execution)
    applied = given.apply(again)
    assert applied.directives[given.execution].command == "run"
    assert applied.directives[given.execution].acknowledged == again.sequence
    assert given.row.attempts == 1


def test_a_report_of_an_older_attempt_changes_nothing(given: Given) -> None:
    given.say("started")
    given.say("failed", failure=failure())
    given.clock.advance(120)
    [newer] = take(given.engine, given.job, given.clock)
    assert newer.token == given.task.token + 1
    before = given.row
    assert given.say("progress", counts=Counts(1, 0)) == "stop"
    assert given.row == before


def test_progress_overwrites_and_never_goes_back(given: Given) -> None:
    given.say("started")
    early = report(given.task, "progress", given.execution, counts=Counts(1, 0), phase="generating")
    late = report(given.task, "progress", given.execution, counts=Counts(1, 1), phase="writing")
    given.apply(late)
    applied = given.apply(early)
    assert commands(applied.directives) == {given.execution: "run"}
    assert (given.row.ok, given.row.failed, given.row.phase, given.row.sequence) == (1, 1, "writing", late.sequence)


def test_progress_before_the_first_report_is_as_good_as_it(given: Given) -> None:
    started = report(given.task, "started", given.execution)
    progress = report(given.task, "progress", given.execution, counts=Counts(1, 0))
    given.apply(progress)
    given.apply(started)
    assert (given.row.status, given.row.ok, given.row.attempts) == ("running", 1, 1)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_order_of_reports_ends_the_same(given: Given, order: tuple[int, ...]) -> None:
    said = [
        report(given.task, "started", given.execution),
        report(given.task, "progress", given.execution, counts=Counts(1, 0)),
        finished(given.task, given.execution),
    ]
    answers = [given.apply(said[index]).directives[given.execution].command for index in order]
    assert answers == ["run", "run", "run"]
    assert (given.row.status, given.row.part_ok, given.row.execution) == ("done", 2, None)
    view = Jobs(given.engine).get(given.job)
    assert (view.counts.ok, view.usage.prompt_tokens, view.usage.completion_tokens) == (2, 4, 6)


def test_finished_twice_is_finished_once(given: Given) -> None:
    given.say("started")
    done = finished(given.task, given.execution)
    first = given.apply(done)
    before = given.row
    second = given.apply(done)
    assert (first.wake, second.wake) == (True, False)
    assert commands(second.directives) == {given.execution: "run"}
    assert given.row == before


def test_timings_of_a_job_come_from_its_shards(given: Given) -> None:
    given.clock.advance(7)
    given.say("started")
    given.apply(finished(given.task, given.execution))
    timings = Jobs(given.engine).get(given.job).timings
    assert (timings.queued, timings.load, timings.read, timings.generate, timings.write) == (7.0, 1.0, 0.25, 2.0, 0.5)


def test_the_first_complete_part_wins_though_its_lease_is_gone(given: Given) -> None:
    given.say("started")
    late = finished(given.task, given.execution)
    given.say("failed", failure=failure(FailureKind.PLATFORM, "worker_lost"))
    given.clock.advance(120)
    [again] = take(given.engine, given.job, given.clock)
    second = execution_id()
    given.apply(report(again, "started", second))
    assert given.apply(late).directives[given.execution].command == "run"
    assert (given.row.status, given.row.part_key) == ("done", late.part.key if late.part else None)
    applied = given.apply(report(again, "progress", second), finished(again, second))
    assert commands(applied.directives) == {second: "stop"}
    assert given.row.part_key == (late.part.key if late.part else None)


def test_a_late_part_mends_a_shard_that_was_given_up(given: Given) -> None:
    given.say("started")
    late = finished(given.task, given.execution)
    given.say("failed", failure=failure(FailureKind.ITEM, "source_changed"))
    assert given.row.status == "failed"
    given.apply(late)
    assert (given.row.status, given.row.error_code) == ("done", None)


def test_an_earlier_executions_part_can_be_reported_by_a_later_one(given: Given) -> None:
    given.say("started")
    earlier, _ = part_of(given.task, given.execution)
    given.say("failed", failure=failure(FailureKind.PLATFORM, "worker_lost"))
    given.clock.advance(120)
    [again] = take(given.engine, given.job, given.clock)
    assert again.earlier == (earlier.key,)
    second = execution_id()
    adopting = report(again, "finished", second, part=earlier, counts=earlier.counts)
    assert given.apply(adopting).directives[second].command == "run"
    assert given.apply(adopting).directives[second].command == "run"
    assert given.row.part_key == earlier.key


@pytest.mark.parametrize("wrong", ["other job", "other shard", "later attempt", "too few items", "none", "odd key"])
def test_a_part_of_something_else_is_refused(given: Given, wrong: str) -> None:
    given.say("started")
    part, _ = part_of(given.task, given.execution)
    change = {
        "other job": {"key": part.key.replace(given.job, execution_id())},
        "other shard": {"key": part.key.replace("/000000-", "/000001-")},
        "later attempt": {"key": part.key.replace("-0001-", "-0002-")},
        "too few items": {"counts": Counts(1, 0)},
        "odd key": {"key": "jobs/../../etc/passwd"},
        "none": {},
    }[wrong]
    given_part = None if wrong == "none" else msgspec.structs.replace(part, **change)
    assert given.say("finished", part=given_part) == "stop"
    assert given.row.status == "running"


def test_a_failure_goes_back_to_the_queue_with_backoff(given: Given) -> None:
    given.say("started")
    given.say("progress", counts=Counts(1, 0), timings=Timings(generate=9))
    applied = given.apply(report(given.task, "failed", given.execution, failure=failure()))
    assert applied.wake
    row = given.row
    assert (row.status, row.execution, row.failures, row.losses, row.ok) == ("queued", None, 1, 0, 0)
    assert row.generate_seconds == 0
    assert 0 < row.available_at - given.clock() <= 1.0
    assert take(given.engine, given.job, given.clock) == []
    given.clock.advance(1.0)
    assert len(take(given.engine, given.job, given.clock)) == 1


def test_a_shard_that_breaks_its_engine_runs_alone_and_then_in_halves(given: Given) -> None:
    given.say("started")
    given.say("failed", failure=failure())
    given.clock.advance(120)
    [whole] = take(given.engine, given.job, given.clock)
    assert (whole.alone, whole.count) == (True, 2)
    given.apply(report(whole, "failed", execution_id(), failure=failure()))
    given.clock.advance(120)
    halves = take(given.engine, given.job, given.clock)
    assert [(half.shard, half.first, half.count, half.skip, half.alone) for half in halves] == [
        (0, 0, 1, 0, True),
        (1, 1, 1, 1, True),
    ]
    good, bad = execution_id(), execution_id()
    given.apply(report(halves[0], "started", good), finished(halves[0], good))
    given.apply(report(halves[1], "failed", bad, failure=failure()))
    row = shard_row(given.engine, given.job, 1)
    assert (row.status, row.error_code, row.error_message) == ("failed", "engine_died", "it broke")
    view = Jobs(given.engine).get(given.job)
    assert (view.status, view.counts.ok, view.counts.failed, view.items) == (JobStatus.IN_PROGRESS, 1, 1, 2)
    assert (view.shard_count, view.shards) == (2, {"done": 1, "failed": 1})


class Engines:
    """Runs whatever is dispatched as a worker with one engine would, which some items break."""

    def __init__(self, given: Given, bad: set[int]) -> None:
        self.given = given
        self.bad = bad
        self.restarts = 0

    def run(self) -> None:
        together = [given for given in [self.given.task, *self.given.others] if given.token == 1]
        while together:
            for group in [[task for task in together if not task.alone], *([t] for t in together if t.alone)]:
                self._run_at_once(group)
            self.given.clock.advance(120)
            together = take(self.given.engine, self.given.job, self.given.clock)

    def _run_at_once(self, tasks: list[ShardTask]) -> None:
        broken = any(task.first <= item < task.first + task.count for task in tasks for item in self.bad)
        self.restarts += broken
        for task in tasks:
            execution = execution_id()
            ended = report(task, "failed", execution, failure=failure()) if broken else finished(task, execution)
            self.given.apply(report(task, "started", execution), ended)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given_property(bad=st.sets(st.integers(0, 8 * 37 - 1), min_size=1, max_size=3))
def test_bad_items_are_found_in_few_restarts_and_cost_nothing_else(
    engine: Engine, clock: ManualClock, bad: set[int]
) -> None:
    given = Given(engine, clock, shards=8, size=37)
    engines = Engines(given, bad)
    engines.run()
    view = Jobs(engine, clock).get(given.job)
    assert (view.counts.ok, view.counts.failed) == (8 * 37 - len(bad), len(bad))
    assert engines.restarts <= len(bad) * (math.ceil(math.log2(8 * 37)) + 2)
    with database.reading(engine) as connection:
        rows = connection.execute(
            select(Shard.first, Shard.count.label("items"), Shard.status)
            .where(Shard.job_id == given.job)
            .order_by(Shard.first)
        ).all()
    assert [row.first for row in rows if row.status == "failed"] == sorted(bad)
    ends = [row.first + row.items for row in rows]
    assert [row.first for row in rows] == [0, *ends[:-1]]


def test_an_engine_that_breaks_under_everything_fails_the_job(engine: Engine, clock: ManualClock) -> None:
    given = Given(engine, clock, shards=4, size=64)
    Engines(given, set(range(4 * 64))).run()
    view = Jobs(engine).get(given.job)
    assert (view.status, view.error and view.error.code) == (JobStatus.FINALIZING, "engine_died")
    assert view.counts.failed == 4 * 64


def test_a_model_that_no_worker_can_load_fails_the_job_unless_another_worker_can(
    engine: Engine, clock: ManualClock
) -> None:
    given = Given(engine, clock, shards=12)
    not_loaded = failure(FailureKind.PLATFORM, MODEL_NOT_LOADED)

    def fail_all(tasks: list[ShardTask]) -> None:
        for task in tasks:
            execution = execution_id()
            given.apply(report(task, "started", execution), report(task, "failed", execution, failure=not_loaded))
        clock.advance(120)

    first, *rest = [given.task, *given.others]
    fail_all(rest)
    execution = execution_id()
    given.apply(report(first, "started", execution), finished(first, execution))
    fail_all(take(engine, given.job, clock))
    assert Jobs(engine).get(given.job).status is JobStatus.IN_PROGRESS
    fail_all(take(engine, given.job, clock))
    view = Jobs(engine).get(given.job)
    assert (view.status, view.error and view.error.code) == (JobStatus.FINALIZING, MODEL_NOT_LOADED)
    assert (view.counts.ok, view.counts.failed) == (2, 22)


def test_what_an_interrupted_execution_had_is_carried_over(given: Given) -> None:
    given.say("started")
    part = partial_of(given.task, given.execution, [1])
    given.say("handed_back", part=part)
    assert (given.row.status, given.row.part_key, given.row.part_ok) == ("queued", part.key, 1)
    assert Jobs(given.engine).get(given.job).counts.ok == 1
    given.clock.advance(120)
    [again] = take(given.engine, given.job, given.clock)
    assert again.carry_from == part.key
    assert part.key not in again.earlier
    second = execution_id()
    given.apply(report(again, "started", second), finished(again, second))
    assert (given.row.status, given.row.carry_from, given.row.part_ok) == ("done", None, 2)


def test_a_part_of_what_was_interrupted_never_finishes_a_shard(given: Given) -> None:
    given.say("started")
    assert given.say("finished", part=partial_of(given.task, given.execution, [0, 1])) == "stop"
    assert given.row.status == "running"


def test_what_was_done_when_a_job_was_cancelled_is_kept(given: Given) -> None:
    given.say("started")
    Jobs(given.engine, given.clock).cancel(given.job)
    assert given.say("progress", counts=Counts(1, 0)) == "stop"
    given.say("handed_back", part=partial_of(given.task, given.execution, [1]))
    assert given.row.status == "cancelled"
    counts = Jobs(given.engine).get(given.job).counts
    assert (counts.ok, counts.cancelled) == (1, 1)


def test_a_shard_that_has_shown_results_is_never_split(given: Given) -> None:
    given.say("started")
    given.apply(finished(given.task, given.execution, failed=[0]))
    with given.engine.begin() as connection:
        connection.execute(
            update(Shard).values(status="queued", carry_from=Shard.part_key, settled_token=1, alone=True)
        )
    [again] = take(given.engine, given.job, given.clock)
    given.apply(report(again, "failed", execution_id(), failure=failure()))
    assert (given.row.status, given.row.part_ok, given.row.part_failed) == ("done", 1, 1)


def test_a_failure_by_an_execution_without_a_lease_counts_for_nothing(given: Given) -> None:
    given.say("started")
    other = execution_id()
    applied = given.apply(report(given.task, "failed", other, failure=failure()))
    assert commands(applied.directives) == {other: "stop"}
    assert (given.row.status, given.row.failures) == ("running", 0)


def test_a_failure_whose_first_report_was_lost_counts_once(given: Given) -> None:
    failed = report(given.task, "failed", given.execution, failure=failure())
    given.apply(failed)
    given.apply(failed)
    assert (given.row.status, given.row.failures, given.row.attempts) == ("queued", 1, 1)


def test_a_fault_of_the_model_fails_the_job_and_keeps_what_is_finished(engine: Engine, clock: ManualClock) -> None:
    given = Given(engine, clock, shards=4)
    first, second = execution_id(), execution_id()
    given.apply(report(given.task, "started", first), finished(given.task, first))
    given.apply(report(given.others[0], "started", second))
    fault = failure(FailureKind.MODEL, "model_incomplete")
    given.apply(report(given.others[0], "failed", second, failure=fault))
    view = Jobs(engine).get(given.job)
    assert (view.status, view.shards) == (JobStatus.FINALIZING, {"done": 1, "failed": 3})
    assert view.error is not None
    assert (view.error.code, view.error.message) == ("model_incomplete", "it broke")
    assert shard_row(engine, given.job, 3).error_code == "model_incomplete"
    third = execution_id()
    applied = given.apply(report(given.others[1], "started", third))
    assert commands(applied.directives) == {third: "stop"}


def test_a_shard_handed_back_costs_nothing_and_waits_a_moment(given: Given) -> None:
    given.say("started")
    given.say("handed_back")
    row = given.row
    assert (row.status, row.failures, row.losses) == ("queued", 0, 0)
    assert row.available_at == given.clock() + endings.HAND_BACK_SECONDS


def test_a_shard_is_not_handed_back_for_ever(given: Given) -> None:
    given.say("started")
    with given.engine.begin() as connection:
        connection.execute(update(Shard).values(attempts=MAX_ATTEMPTS))
    given.say("handed_back")
    assert (given.row.status, given.row.error_code) == ("failed", "attempts_exhausted")


@pytest.mark.parametrize("event", ["failed", "handed_back"])
def test_what_ends_while_its_job_is_cancelled_is_cancelled(given: Given, event: str) -> None:
    given.say("started")
    Jobs(given.engine, given.clock).cancel(given.job)
    assert given.row.status == "running"
    given.say(event, failure=failure() if event == "failed" else None)
    assert (given.row.status, given.row.failures) == ("cancelled", 0)


def test_a_part_that_is_finished_while_its_job_is_cancelled_is_kept(given: Given) -> None:
    given.say("started")
    Jobs(given.engine, given.clock).cancel(given.job)
    given.apply(finished(given.task, given.execution))
    assert given.row.status == "done"


def test_reports_about_nothing_known_are_told_to_stop(given: Given) -> None:
    no_job = msgspec.structs.replace(given.task, job=execution_id())
    no_shard = msgspec.structs.replace(given.task, shard=99)
    first, second = execution_id(), execution_id()
    applied = given.apply(report(no_job, "started", first), report(no_shard, "started", second))
    assert commands(applied.directives) == {first: "stop", second: "stop"}


def test_history_keeps_every_execution_and_how_it_ended(given: Given) -> None:
    given.say("started")
    given.say("failed", failure=failure())
    given.clock.advance(120)
    [again] = take(given.engine, given.job, given.clock)
    second = execution_id()
    given.apply(report(again, "started", second), finished(again, second))
    with database.reading(given.engine) as connection:
        rows = connection.execute(
            select(Execution.id, Execution.token, Execution.ending).order_by(Execution.token)
        ).all()
    assert [tuple(row) for row in rows] == [(given.execution, 1, "engine_died"), (second, 2, "finished")]


def let_two_meet(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches meet where both have read the job: on PostgreSQL in their transactions, on SQLite before them."""
    both = Barrier(2, timeout=30)
    module, name = (endings, "lock_shard") if given.engine.dialect.name == "postgresql" else (database, "write")
    really = getattr(module, name)

    def meet(*arguments: Any) -> Any:
        both.wait()
        return really(*arguments)

    monkeypatch.setattr(module, name, meet)


def told(answers: list[Applied]) -> dict[str, str]:
    return {execution: command for answer in answers for execution, command in commands(answer.directives).items()}


def test_two_control_workers_grant_a_shard_once(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [report(given.task, "started", execution_id()) for _ in range(2)]
    let_two_meet(given, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        answers = told(list(pool.map(given.apply, said)))
    assert sorted(answers.values()) == ["run", "stop"]
    assert answers[given.row.execution] == "run"


def test_two_executions_that_finish_at_once_leave_one_winner(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    given.say("started")
    first = finished(given.task, given.execution)
    given.say("failed", failure=failure(FailureKind.PLATFORM, "worker_lost"))
    given.clock.advance(120)
    [again] = take(given.engine, given.job, given.clock)
    execution = execution_id()
    given.apply(report(again, "started", execution))
    second = finished(again, execution)
    let_two_meet(given, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        answers = told(list(pool.map(given.apply, [first, second])))
    assert sorted(answers.values()) == ["run", "stop"]
    winner = first if answers[first.execution] == "run" else second
    assert winner.part is not None
    assert given.row.part_key == winner.part.key


def test_a_dispatcher_meets_a_cancellation(given: Given) -> None:
    """A cancelled job's shards are never dispatched, not even by a dispatcher that looked before."""
    Jobs(given.engine, given.clock).cancel(given.job)
    assert dispatch.take(given.engine, given.job, 10, now=given.clock()) == []
    assert given.row.status == ShardStatus.CANCELLED.value
