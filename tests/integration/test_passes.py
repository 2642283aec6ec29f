"""Passes over the texts of a job: what is too like another is drawn again, and the job ends when nothing is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, update

from models.backends.echo import EchoBackend
from orchestrator import database, passes
from orchestrator.cli.text import describe
from orchestrator.client import ApiError
from orchestrator.dispatch import take
from orchestrator.finalize import Finaliser, followed_jobs
from orchestrator.settings import Settings
from orchestrator.tables import Job, Shard
from tests.support.shards import Outbox
from tests.support.studio import Studio, plan_all

EXACT: dict[str, Any] = {"field": "number", "minhash": None, "embedding": None}
JOB: dict[str, Any] = {
    "name": "numbers",
    "kind": "dataset",
    "source": {"count": 60},
    "columns": {"number": {"number": {"min": 0, "max": 99, "decimals": 0}}},
    "accept": {"duplicates": EXACT, "rounds": 30},
    "seed": 5,
}


@pytest.fixture
def studio(sqlite_url: str, store_url: str, redis_url: str) -> Iterator[Studio]:
    settings = Settings(database_url=sqlite_url, store_url=store_url, redis_url=redis_url)
    made = Studio(settings, JOB, EchoBackend)
    with made.http:
        yield made


def outputs(studio: Studio, job_id: str) -> list[Any]:
    return [record.get("output") for record in studio.client.results(job_id).data]


def test_every_row_is_unlike_every_other(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = studio.submit()
    studio.finish(job_id)
    job = studio.client.job(job_id)
    assert (job.status, job.counts.ok, job.following) == ("completed", 60, "over")
    rows = outputs(studio, job_id)
    assert len({row["number"] for row in rows}) == 60
    found = job.findings
    assert found is not None
    assert found.rejected == {"exact": found.drawn_again}
    assert found.drawn_again > 5
    assert found.rounds > 2
    assert f"exact {found.drawn_again}" in dict(describe(job))["passes"]
    # The passes are no jobs of the client's, and are there for who asks for them.
    assert [each.id for each in studio.client.jobs()] == [job_id]
    monkeypatch.setattr("orchestrator.planning.ECHO_SHARD", 7)
    again = studio.submit()
    studio.finish(again)
    assert studio.client.job(again).shard_count > job.shard_count
    assert outputs(studio, again) == rows


def test_what_cannot_be_unlike_ends_as_rejected_and_says_what_it_is_like(studio: Studio) -> None:
    job_id = studio.submit(
        columns={"number": {"category": ["one", "two"]}}, source={"count": 5}, accept={"duplicates": EXACT, "rounds": 2}
    )
    studio.finish(job_id)
    job = studio.client.job(job_id)
    assert (job.status, job.counts.ok, job.counts.failed) == ("completed", 2, 3)
    error = studio.client.errors(job_id).data[0]["error"]
    assert error["code"] == "rejected"
    assert "exact, like item" in error["message"]
    assert job.findings is not None
    assert job.findings.given_up == 3
    # Whoever asks for them again gets the same: nothing else is possible.
    studio.client.act(job_id, "retry")
    studio.finish(job_id)
    assert studio.client.job(job_id).counts == job.counts


def test_a_retry_displaces_nothing_that_was_accepted(studio: Studio) -> None:
    # Of ten values fifteen rows cannot all have their own: what was given up is drawn anew, behind those that stay.
    few = {"number": {"category": [f"word {number}" for number in range(10)]}}
    job_id = studio.submit(columns=few, source={"count": 15}, accept={"duplicates": EXACT, "rounds": 1})
    studio.finish(job_id)
    before = {record["index"]: record for record in studio.client.results(job_id).data if record["status"] == "ok"}
    assert 3 < len(before) < 10
    for _ in range(4):
        studio.client.act(job_id, "retry")
        studio.finish(job_id)
        after = {record["index"]: record for record in studio.client.results(job_id).data if record["status"] == "ok"}
        assert {index: after[index] for index in before} == before
        assert len({record["output"]["number"] for record in after.values()}) == len(after)
        before = after
    assert len(before) > 8


def test_texts_of_an_earlier_job_count_as_well(studio: Studio) -> None:
    first = studio.submit(source={"count": 40})
    studio.finish(first)
    second = studio.submit(
        source={"count": 40}, seed=6, accept={"duplicates": {**EXACT, "against": [first]}, "rounds": 50}
    )
    studio.finish(second)
    numbers = [{row["number"] for row in outputs(studio, job)} for job in (first, second)]
    assert [len(found) for found in numbers] == [40, 40]
    assert not numbers[0] & numbers[1]
    with pytest.raises(ApiError, match=r"accept\.duplicates\.against: there is no job '01NONE'"):
        studio.submit(accept={"duplicates": {**EXACT, "against": ["01NONE"]}})


def test_a_dataset_of_texts_has_a_report_where_one_is_asked_for(studio: Studio) -> None:
    job_id = studio.submit(report={})
    studio.finish(job_id)
    job = studio.client.job(job_id)
    assert job.findings is not None
    assert job.findings.report is not None
    assert b"numbers" in studio.client.report(job_id, "html")
    assert b'"rows":60' in studio.client.report(job_id, "json").replace(b" ", b"")


def test_a_dataset_that_does_not_reach_what_is_asked_is_held_back(studio: Studio) -> None:
    job_id = studio.submit(report={"min_accuracy": 0.9})
    studio.finish(job_id)
    job = studio.client.job(job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.code == "held_back"
    assert "min_accuracy is 0.9" in job.error.message
    with pytest.raises(ApiError, match="held=true") as refused:
        studio.client.results(job_id)
    assert (refused.value.status, refused.value.code) == (409, "held_back")
    answer = studio.http.get(f"/v1/jobs/{job_id}/results?held=true").json()
    assert len(answer["data"]) == 60
    assert studio.client.report(job_id, "html")


def at_pass(studio: Studio, **fields: Any) -> tuple[str, str]:
    """A job whose first pass has just been made; its id, and the pass's."""
    job_id = studio.submit(**fields)
    services = studio.services
    plan_all(services.engine, services.store)
    studio.run_shards(job_id)
    Finaliser(services.engine, services.store, Outbox(), clock=time.time).step()
    with database.reading(services.engine) as connection:
        [child] = connection.scalars(select(Job.id).where(Job.flow == job_id)).all()
    return job_id, child


def test_two_schedulers_make_one_pass(studio: Studio) -> None:
    services = studio.services
    job_id = studio.submit()
    plan_all(services.engine, services.store)
    studio.run_shards(job_id)
    [seen] = followed_jobs(services.engine)
    assert passes.advance(services.engine, services.store, seen, now=time.time())
    assert not passes.advance(services.engine, services.store, seen, now=time.time())
    with database.reading(services.engine) as connection:
        assert len(connection.scalars(select(Job.id).where(Job.flow == job_id)).all()) == 1


def test_a_job_is_cancelled_with_its_pass(studio: Studio) -> None:
    job_id, child = at_pass(studio)
    assert studio.client.act(job_id, "cancel").status == "cancelling"
    Finaliser(studio.services.engine, studio.services.store, Outbox(), clock=time.time).step()
    Finaliser(studio.services.engine, studio.services.store, Outbox(), clock=time.time).step()
    assert {studio.client.job(each).status for each in (job_id, child)} == {"cancelled"}
    with pytest.raises(ApiError, match=r"cannot be retried alone"):
        studio.client.act(child, "retry")


def test_a_paused_job_begins_no_pass(studio: Studio) -> None:
    job_id, child = at_pass(studio)
    studio.client.act(job_id, "pause")
    assert not take(studio.services.engine, child, 10, now=time.time())
    studio.client.act(job_id, "resume")
    studio.finish(job_id)
    assert studio.client.job(job_id).counts.ok == 60


def test_nothing_is_given_that_may_still_be_drawn_again(studio: Studio) -> None:
    job_id, _ = at_pass(studio)
    assert studio.client.results(job_id).data == []
    assert not studio.client.job(job_id).ended
    studio.finish(job_id)
    assert len(studio.client.results(job_id).data) == 60


def test_a_verdict_that_the_store_lost_fails_the_job_alone(studio: Studio) -> None:
    job_id, child = at_pass(studio)
    studio.run_shards(child)
    store = studio.services.store
    Finaliser(studio.services.engine, store, Outbox(), clock=time.time).step()
    [part] = list(store.list(f"jobs/{child}/parts/"))
    store.delete(part)
    other = studio.submit(accept=None)
    studio.finish(other)
    job = studio.client.job(job_id)
    assert job.error is not None
    assert (job.status, job.error.code) == ("failed", "pass_lost")
    assert studio.client.job(other).status == "completed"


def test_a_pass_that_fails_fails_the_job(studio: Studio) -> None:
    job_id, child = at_pass(studio)
    with studio.services.engine.begin() as connection:
        connection.execute(update(Shard).where(Shard.job_id == child).values(status="failed", error_code="pass_broke"))
    studio.finish(job_id)
    job = studio.client.job(job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.code == "pass_broke"
