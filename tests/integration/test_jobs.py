"""Jobs as their clients see them: created once, steered, and refused where that cannot be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, update

from models.errors import FailureKind
from orchestrator import claims, database, finalize
from orchestrator.jobs import ConflictError, Jobs, UnknownJobError
from orchestrator.lifecycle import JobStatus
from orchestrator.spec import parse_job
from orchestrator.spec_error import SpecError
from orchestrator.tables import Job
from orchestrator.views import JobError, JobView
from tests.support.clocks import ManualClock
from tests.support.shards import (
    Outbox,
    apply,
    echo_spec,
    execution_id,
    failure,
    finish_all,
    finished,
    planned_job,
    report,
    shard_row,
    take,
)
from workers.store import open_store


@pytest.fixture
def jobs(engine: Engine, clock: ManualClock) -> Jobs:
    return Jobs(engine, clock)


def test_a_new_job_waits_to_be_planned(jobs: Jobs, clock: ManualClock) -> None:
    spec = echo_spec(items=3, name="autumn", priority="urgent", metadata={"team": "web"}, deadline="2h")
    job = jobs.create(spec)
    assert (job.status, job.name, job.kind, job.model) == (JobStatus.VALIDATING, "autumn", "echo", "echo")
    assert (job.priority, job.metadata) == ("urgent", {"team": "web"})
    assert (job.created_at, job.deadline_at) == (clock(), clock() + 7200)
    assert not job.ended
    assert jobs.spec(job.id) == spec


def test_a_stored_job_keeps_the_order_that_it_was_written_in(jobs: Jobs) -> None:
    spec = parse_job(
        {
            "kind": "echo",
            "prompt": "{{ tone }} {{ length }}",
            "source": {"grid": {"tone": ["warm", "bold"], "length": ["long", "short"]}},
            "schema": {"type": "object", "properties": {"title": {"type": "string"}, "body": {"type": "string"}}},
        }
    )
    stored = jobs.spec(jobs.create(spec).id)
    assert list(stored.source.grid or {}) == ["tone", "length"]  # or else item 1 is another combination
    assert list((stored.output_schema or {})["properties"]) == ["title", "body"]


def test_a_view_goes_over_the_wire_and_back(jobs: Jobs) -> None:
    job = jobs.create(echo_spec())
    assert msgspec.json.decode(msgspec.json.encode(job), type=JobView) == job
    assert job.to_json()["counts"] == {"ok": 0, "failed": 0, "cancelled": 0, "expired": 0}


def test_a_deadline_that_has_passed_is_refused(jobs: Jobs) -> None:
    with pytest.raises(SpecError, match="in the past"):
        jobs.create(echo_spec(deadline="2001-01-01T00:00:00Z"))
    assert jobs.list() == []


def test_the_same_key_gives_the_same_job(jobs: Jobs) -> None:
    first = jobs.create(echo_spec(), idempotency_key="k")
    assert jobs.create(echo_spec(), idempotency_key="k") == first
    assert jobs.create(echo_spec(), idempotency_key="other").id != first.id
    assert jobs.create(echo_spec(), idempotency_key="k", tenant="another").id != first.id
    with pytest.raises(ConflictError, match="used for another job"):
        jobs.create(echo_spec(items=7), idempotency_key="k")


def test_the_same_key_at_once_makes_one_job(
    engine: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Barrier(2, timeout=30)
    write = database.write

    def meet(*arguments: Any) -> Any:
        # Both have looked for the key and found nothing.
        both.wait()
        return write(*arguments)

    monkeypatch.setattr(database, "write", meet)
    jobs = Jobs(engine, clock)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: jobs.create(echo_spec(), idempotency_key="k").id, range(2)))
    assert made[0] == made[1]
    assert len(jobs.list()) == 1


def test_jobs_are_listed_newest_first_in_pages(jobs: Jobs, clock: ManualClock) -> None:
    made = []
    for _ in range(5):
        made.append(jobs.create(echo_spec()).id)
        clock.advance(1)
    assert [job.id for job in jobs.list(limit=2)] == [made[4], made[3]]
    assert [job.id for job in jobs.list(limit=2, after=made[3])] == [made[2], made[1]]
    jobs.cancel(made[2])
    assert [job.id for job in jobs.list(status=JobStatus.CANCELLING)] == [made[2]]


def test_an_unknown_job_is_said_to_be_unknown(jobs: Jobs) -> None:
    for action in (jobs.get, jobs.spec, jobs.cancel, jobs.pause, jobs.resume, jobs.retry):
        with pytest.raises(UnknownJobError, match="there is no job 'nothing'"):
            action("nothing")


def test_a_planned_job_counts_its_items(engine: Engine, jobs: Jobs, clock: ManualClock) -> None:
    job = jobs.get(planned_job(engine, clock, shards=3, size=2))
    assert (job.status, job.items, job.shard_count, job.shards) == (JobStatus.IN_PROGRESS, 6, 3, {"queued": 3})


def test_live_figures_follow_the_reports(engine: Engine, jobs: Jobs, clock: ManualClock) -> None:
    job_id = planned_job(engine, clock, shards=3, size=2)
    first, second, _ = take(engine, job_id, clock)
    clock.advance(4)
    one, two = execution_id(), execution_id()
    apply(engine, clock, report(first, "started", one), finished(first, one, failed=[1]))
    apply(engine, clock, report(second, "started", two, phase="generating"))
    job = jobs.get(job_id)
    assert (job.counts.ok, job.counts.failed, job.phase) == (1, 1, "generating")
    assert job.shards == {"done": 1, "running": 1, "dispatched": 1}
    assert (job.started_at, job.timings.queued, job.timings.wall) == (clock(), 4.0, None)


def test_cancelling_leaves_what_is_finished_and_stops_the_rest(engine: Engine, jobs: Jobs, clock: ManualClock) -> None:
    job_id = planned_job(engine, clock, shards=4)
    first, second, _ = take(engine, job_id, clock, limit=3)
    one, two = execution_id(), execution_id()
    apply(engine, clock, report(first, "started", one), finished(first, one), report(second, "started", two))
    job = jobs.cancel(job_id)
    assert (job.status, job.shards) == (JobStatus.CANCELLING, {"done": 1, "running": 1, "cancelled": 2})
    assert job.counts.cancelled == 4
    assert jobs.cancel(job_id) == job


def test_a_job_that_is_being_planned_can_be_cancelled(engine: Engine, jobs: Jobs) -> None:
    job = jobs.create(echo_spec())
    [seen] = claims.waiting(engine)
    claims.claim(engine, seen, "planner")
    jobs.cancel(job.id)
    assert not claims.beat(engine, job.id, "planner")
    assert jobs.get(job.id).shards == {}


def test_a_paused_job_dispatches_nothing_until_it_is_resumed(engine: Engine, jobs: Jobs, clock: ManualClock) -> None:
    job_id = planned_job(engine, clock)
    assert jobs.pause(job_id).status is JobStatus.PAUSED
    assert jobs.pause(job_id).status is JobStatus.PAUSED
    assert take(engine, job_id, clock) == []
    assert jobs.resume(job_id).status is JobStatus.IN_PROGRESS
    assert jobs.resume(job_id).status is JobStatus.IN_PROGRESS
    assert len(take(engine, job_id, clock)) == 3


def test_what_runs_when_a_job_is_paused_goes_on(engine: Engine, jobs: Jobs, clock: ManualClock) -> None:
    job_id = planned_job(engine, clock)
    task, waiting, _ = take(engine, job_id, clock)
    one, two = execution_id(), execution_id()
    apply(engine, clock, report(task, "started", one))
    jobs.pause(job_id)
    apply(engine, clock, finished(task, one), report(waiting, "started", two))
    assert jobs.get(job_id).shards == {"done": 1, "running": 1, "dispatched": 1}


FORBIDDEN = {
    "pause": {"validating", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"},
    "resume": {"validating", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"},
    "cancel": {"finalizing", "completed", "failed", "expired"},
    "retry": {"validating", "in_progress", "paused", "finalizing", "cancelling", "cancelled"},
}


@pytest.mark.parametrize(
    ("action", "status"), [(action, status) for action, many in FORBIDDEN.items() for status in sorted(many)]
)
def test_what_a_status_forbids_is_a_conflict(
    engine: Engine, jobs: Jobs, clock: ManualClock, action: str, status: str
) -> None:
    job_id = planned_job(engine, clock)
    with engine.begin() as connection:
        connection.execute(update(Job).values(status=status))
    with pytest.raises(ConflictError, match=f"is {status}, and cannot be"):
        getattr(jobs, action)(job_id)
    assert jobs.get(job_id).status == status


def end(engine: Engine, clock: ManualClock, folder_url: str, job_id: str) -> JobView:
    finalize.Finaliser(engine, open_store(folder_url), Outbox(), clock=clock).step()
    return Jobs(engine, clock).get(job_id)


def test_a_retry_runs_failed_items_again_and_keeps_the_good(
    engine: Engine, jobs: Jobs, clock: ManualClock, folder_url: str
) -> None:
    job_id = planned_job(engine, clock, shards=2, size=3)
    finish_all(engine, clock, job_id, failed=[1])
    assert end(engine, clock, folder_url, job_id).status is JobStatus.COMPLETED
    old = shard_row(engine, job_id, 0)
    clock.advance(60)
    job = jobs.retry(job_id)
    assert (job.status, job.shards, job.manifest_version) == (JobStatus.IN_PROGRESS, {"queued": 1, "done": 1}, 2)
    assert (job.counts.ok, job.counts.failed, job.finished_at) == (5, 1, None)
    [task] = take(engine, job_id, clock)
    assert (task.shard, task.token, task.carry_from, task.earlier) == (0, 2, old.part_key, ())
    execution = execution_id()
    apply(engine, clock, report(task, "started", execution), finished(task, execution))
    job = end(engine, clock, folder_url, job_id)
    assert (job.status, job.counts.ok, job.counts.failed) == (JobStatus.COMPLETED, 6, 0)
    assert shard_row(engine, job_id, 0).part_key != old.part_key


def test_the_part_that_a_retry_replaces_cannot_win_again(
    engine: Engine, jobs: Jobs, clock: ManualClock, folder_url: str
) -> None:
    job_id = planned_job(engine, clock, shards=1, size=3)
    [task] = take(engine, job_id, clock)
    execution = execution_id()
    old = finished(task, execution, failed=[1])
    apply(engine, clock, report(task, "started", execution), old)
    end(engine, clock, folder_url, job_id)
    jobs.retry(job_id)
    assert apply(engine, clock, old).directives[execution].command == "stop"
    assert shard_row(engine, job_id).status == "queued"


@pytest.mark.parametrize("way", ["cancel", "lose", "expire"])
def test_a_retry_that_does_not_end_well_falls_back_to_the_old_part(
    engine: Engine, jobs: Jobs, clock: ManualClock, folder_url: str, way: str
) -> None:
    job_id = planned_job(engine, clock, shards=1, size=3, deadline="1h")
    finish_all(engine, clock, job_id, failed=[1])
    end(engine, clock, folder_url, job_id)
    jobs.retry(job_id)
    if way == "cancel":
        jobs.cancel(job_id)
    elif way == "expire":
        clock.advance(3601)
    else:
        [task] = take(engine, job_id, clock)
        execution = execution_id()
        gone = report(task, "failed", execution, failure=failure(FailureKind.ITEM, "source_changed"))
        apply(engine, clock, report(task, "started", execution), gone)
    job = end(engine, clock, folder_url, job_id)
    assert job.status is {"cancel": JobStatus.CANCELLED, "expire": JobStatus.EXPIRED, "lose": JobStatus.COMPLETED}[way]
    assert (job.counts.ok, job.counts.failed, job.shards) == (2, 1, {"done": 1})


def test_a_retry_of_an_expired_job_drops_its_deadline(
    engine: Engine, jobs: Jobs, clock: ManualClock, folder_url: str
) -> None:
    job_id = planned_job(engine, clock, deadline="1h")
    clock.advance(3601)
    job = end(engine, clock, folder_url, job_id)
    assert (job.status, job.counts.expired) == (JobStatus.EXPIRED, 6)
    job = jobs.retry(job_id)
    assert (job.status, job.deadline_at, job.shards) == (JobStatus.IN_PROGRESS, None, {"queued": 3})
    assert finalize.expire(engine, now=clock()) == 0


def test_a_retry_of_a_failed_job_takes_its_error_back(
    engine: Engine, jobs: Jobs, clock: ManualClock, folder_url: str
) -> None:
    job_id = planned_job(engine, clock, shards=2)
    task, _ = take(engine, job_id, clock)
    execution = execution_id()
    fault = report(task, "failed", execution, failure=failure(FailureKind.MODEL, "model_incomplete"))
    apply(engine, clock, report(task, "started", execution), fault)
    job = end(engine, clock, folder_url, job_id)
    assert (job.status, job.counts.failed) == (JobStatus.FAILED, 4)
    job = jobs.retry(job_id)
    assert (job.error, job.shards, job.failures) == (None, {"queued": 2}, 0)


def test_a_retry_of_nothing_is_refused_and_changes_nothing(
    engine: Engine, jobs: Jobs, clock: ManualClock, folder_url: str
) -> None:
    job_id = planned_job(engine, clock, shards=1)
    finish_all(engine, clock, job_id)
    before = end(engine, clock, folder_url, job_id)
    with pytest.raises(ConflictError, match="no failed items"):
        jobs.retry(job_id)
    assert jobs.get(job_id) == before


def test_a_job_that_could_not_start_is_not_retried(engine: Engine, jobs: Jobs, clock: ManualClock) -> None:
    job = jobs.create(echo_spec())
    [seen] = claims.waiting(engine)
    claims.claim(engine, seen, "planner")
    claims.fail(engine, job.id, "planner", JobError("invalid_source", "no rows"), now=clock())
    with pytest.raises(ConflictError, match="could not start"):
        jobs.retry(job.id)
    assert jobs.get(job.id).error == JobError("invalid_source", "no rows")
