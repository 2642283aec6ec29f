"""Scheduler and control worker as real processes: a job goes through, and they come back when Redis or SQL do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest
from sqlalchemy import Engine

from orchestrator import results
from orchestrator.jobs import Jobs
from orchestrator.lifecycle import JobStatus
from orchestrator.spec import JobSpec
from tests.support import services
from tests.support.eventually import eventually
from tests.support.generation import Generation, generating
from tests.support.processes import Running, running
from tests.support.shards import echo_spec
from workers.broker import Hints
from workers.store import ObjectStore, open_store


class Stack:
    """Both processes, a worker, and what a client needs."""

    def __init__(self, engine: Engine, store: ObjectStore, redis_url: str) -> None:
        self.jobs = Jobs(engine)
        self.store = store
        self.redis_url = redis_url
        self.scheduler: Running
        self.control: Running
        self.worker: Generation

    def submit(self, spec: JobSpec) -> str:
        job = self.jobs.create(spec).id
        self.wake()
        return job

    def wake(self) -> None:
        hints = Hints(self.redis_url)
        hints.wake()
        hints.close()

    def reaches(self, job: str, status: JobStatus) -> bool:
        return eventually(lambda: self.jobs.get(job).status is status, what=f"job {job} is {status}")


@pytest.fixture
def stack(
    engine: Engine, database_url: str, folder_url: str, redis_url: str, request: pytest.FixtureRequest
) -> Iterator[Stack]:
    environment = {
        "NIGHTMILL_DATABASE_URL": database_url,
        "NIGHTMILL_STORE_URL": folder_url,
        "NIGHTMILL_REDIS_URL": redis_url,
        "NIGHTMILL_LEASE_SECONDS": str(getattr(request, "param", 60)),
    }
    made = Stack(engine, open_store(folder_url), redis_url)
    with ExitStack() as children:
        made.worker = children.enter_context(generating(redis_url, made.store))
        made.control = children.enter_context(running("orchestrator.control", environment))
        made.scheduler = children.enter_context(running("orchestrator.scheduler", environment))
        yield made


def test_a_job_goes_from_submission_to_results(stack: Stack) -> None:
    job = stack.submit(echo_spec(items=200))
    assert stack.reaches(job, JobStatus.COMPLETED)
    view = stack.jobs.get(job)
    assert (view.counts.ok, view.counts.failed, view.items) == (200, 0, 200)
    records = b"".join(results.stream(stack.store, stack.jobs, job)).splitlines()
    assert [orjson.loads(record)["index"] for record in records] == list(range(200))
    assert (stack.scheduler.end(), stack.control.end()) == (0, 0)
    assert not any("Traceback" in line for line in stack.scheduler.lines + stack.control.lines)


def test_tenants_shards_carry_their_own_rules(
    engine: Engine, database_url: str, folder_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Two tenants in one stack, one of them under a policy; the worker is given what each may not have."""
    policy = tmp_path / "safety.yaml"
    policy.write_text("tenants: {acme: {deny: [say 3]}}\n")
    environment = {
        "NIGHTMILL_DATABASE_URL": database_url,
        "NIGHTMILL_STORE_URL": folder_url,
        "NIGHTMILL_REDIS_URL": redis_url,
        "NIGHTMILL_SAFETY_FILE": str(policy),
    }
    made = Stack(engine, open_store(folder_url), redis_url)
    with (
        generating(redis_url, made.store) as made.worker,
        running("orchestrator.control", environment),
        running("orchestrator.scheduler", environment),
    ):
        acme, other = (made.jobs.create(echo_spec(items=8), tenant=tenant).id for tenant in ("acme", "other"))
        made.wake()
        assert made.reaches(acme, JobStatus.COMPLETED)
        assert made.reaches(other, JobStatus.COMPLETED)
    assert {(task.job, task.work.deny) for task in made.worker.tasks} == {(acme, ("say 3",)), (other, ())}


def test_a_scheduler_does_not_start_on_a_policy_that_it_cannot_read(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "safety.yaml").write_text("default: {deny: weapon}\n")
    environment = {
        "NIGHTMILL_DATABASE_URL": database_url,
        "NIGHTMILL_REDIS_URL": redis_url,
        "NIGHTMILL_SAFETY_FILE": str(tmp_path / "safety.yaml"),
    }
    with running("orchestrator.scheduler", environment) as process:
        assert process.wait() == 1
    said = "".join(process.lines)
    assert "safety.yaml, line 1: default.deny must be a list" in said
    assert "Traceback" not in said


def test_a_cancelled_job_ends_though_its_worker_says_nothing_more(stack: Stack) -> None:
    stack.worker.silent = True
    job = stack.submit(echo_spec(items=200))
    assert eventually(lambda: stack.worker.tasks)
    stack.jobs.cancel(job)
    stack.wake()
    assert stack.reaches(job, JobStatus.CANCELLED)
    assert stack.jobs.get(job).counts.cancelled == 200


def test_a_scheduler_that_was_killed_is_followed_by_another(stack: Stack, database_url: str, folder_url: str) -> None:
    stack.scheduler.process.kill()
    stack.scheduler.wait()
    job = stack.submit(echo_spec(items=50))
    environment = {
        "NIGHTMILL_DATABASE_URL": database_url,
        "NIGHTMILL_STORE_URL": folder_url,
        "NIGHTMILL_REDIS_URL": stack.redis_url,
    }
    with running("orchestrator.scheduler", environment):
        assert stack.reaches(job, JobStatus.COMPLETED)


def test_the_scheduler_outlives_its_broker(sqlite_url: str, folder_url: str) -> None:
    environment = {"NIGHTMILL_DATABASE_URL": sqlite_url, "NIGHTMILL_STORE_URL": folder_url}
    port = services.free_port()
    environment["NIGHTMILL_REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
    with running("orchestrator.scheduler", environment) as scheduler:
        assert scheduler.said("wake-ups: rests, Redis at redis://127.0.0.1")
        with services.redis_server(port=port):
            assert scheduler.said("wake-ups: goes on")
        assert scheduler.end() == 0


@pytest.mark.parametrize("module", ["orchestrator.scheduler", "orchestrator.control"])
def test_a_process_that_cannot_start_says_why(module: str, redis_url: str) -> None:
    address = "postgresql://me:hunter2@127.0.0.1:1/nightmill"
    with running(module, {"NIGHTMILL_DATABASE_URL": address, "NIGHTMILL_REDIS_URL": redis_url}) as process:
        assert process.wait() == 1
    said = "".join(process.lines)
    assert "the database postgresql+psycopg://me:***@127.0.0.1:1/nightmill cannot be used" in said
    assert "hunter2" not in said
    assert "Traceback" not in said
