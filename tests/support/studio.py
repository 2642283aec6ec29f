"""Jobs that make files in a test: the API in this process, and the test as scheduler and worker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
from fastapi.testclient import TestClient
from sqlalchemy import Engine, or_, select

from orchestrator import database
from orchestrator.api.app import create_app
from orchestrator.api.services import Services
from orchestrator.client import Client
from orchestrator.dispatch import take
from orchestrator.finalize import Finaliser
from orchestrator.planner import Planner
from orchestrator.safety_policy import NO_POLICY
from orchestrator.settings import Settings
from orchestrator.tables import Job
from tests.support.shards import Outbox, apply, execution_id, failure, report
from workers.contracts import Part, ShardTask
from workers.dataset_engine import DatasetEngine
from workers.engines import AnyBackend
from workers.execute import Execution
from workers.image_shard import OpenCredentials
from workers.screening import Screen
from workers.store import ObjectStore

MOST_STEPS = 200
LATER = 120.0
"""Seconds after which a shard that was lost is tried again for certain."""


class InProcess(httpx.BaseTransport):
    """Takes a client's requests to the app in this process."""

    def __init__(self, http: TestClient) -> None:
        self._http = http

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        answer = self._http.request(request.method, path, content=request.read(), headers=dict(request.headers))
        return httpx.Response(answer.status_code, headers=dict(answer.headers), content=answer.content, request=request)


def plan_all(engine: Engine, store: ObjectStore, clock: Callable[[], float] = time.time) -> None:
    """Plan every job that waits for it."""
    planner = Planner(engine, store, wake=lambda: None, stop=threading.Event(), clock=clock, monotonic=time.monotonic)
    while planner.step():
        pass


class Studio:
    """The API in this process, and everything behind it played step by step.

    Args:
        settings: Of the API.
        job: Fields that jobs have where a test says nothing else.
        open_backend: Makes the engine for each shard.
    """

    def __init__(self, settings: Settings, job: dict[str, Any], open_backend: Callable[[], AnyBackend]) -> None:
        self.services = Services.open(settings)
        self.http = TestClient(create_app(self.services), raise_server_exceptions=False)
        self.client = Client("http://testserver", transport=InProcess(self.http))
        self.open_backend = open_backend
        self.policy = NO_POLICY
        self.screen: Screen | None = None
        self.credentials: OpenCredentials | None = None
        self._job = job

    def submit(self, **fields: Any) -> str:
        return self.client.submit({**self._job, **fields}, key=str(time.monotonic_ns())).id

    def work(self, *, lost: bool = False) -> None:
        """Plan what waits, do every shard with the real execution, and end what is done.

        With `lost`, each shard's first execution dies after its files are stored and before its part is.
        """
        services = self.services
        plan_all(services.engine, services.store)
        now = time.time()
        for job in self.client.jobs(status="in_progress"):
            if lost:
                for task, execution, part in self._done(job.id, now):
                    services.store.delete(part.key)
                    self._tell(now, task, "failed", execution, failure=failure())
                now += LATER
            for task, execution, part in self._done(job.id, now):
                self._tell(now, task, "finished", execution, part=part, counts=part.counts)
        Finaliser(services.engine, services.store, Outbox(), clock=lambda: now).step()

    def finish(self, job_id: str) -> None:
        """Do a job, and the passes and the report that follow it, to its end."""
        services = self.services
        plan_all(services.engine, services.store)
        now = time.time()
        for _ in range(MOST_STEPS):
            with database.reading(services.engine) as connection:
                mine = or_(Job.id == job_id, Job.flow == job_id)
                ids = connection.scalars(select(Job.id).where(mine, Job.status == "in_progress")).all()
            for each in ids:
                self.run_shards(each, now)
            Finaliser(services.engine, services.store, Outbox(), clock=lambda: now).step()
            if self.client.job(job_id).ended:
                return
        raise AssertionError(f"job {job_id} does not end: {self.client.job(job_id)}")

    def run_shards(self, job_id: str, now: float | None = None) -> None:
        """Run the shards of a job that can be taken."""
        now = now or time.time()
        for task, execution, part in self._done(job_id, now):
            self._tell(now, task, "finished", execution, part=part, counts=part.counts)

    def _done(self, job_id: str, now: float) -> list[tuple[ShardTask, str, Part]]:
        """The shards of a job that can be taken, each with an execution and the part that it left."""
        tasks = take(self.services.engine, job_id, 100, now=now, policy=self.policy)
        named = [(task, execution_id()) for task in tasks]
        return [(task, execution, asyncio.run(self._run(task, execution))) for task, execution in named]

    async def _run(self, task: ShardTask, execution: str) -> Part:
        run = Execution(task, execution, self.services.store, screen=self.screen, credentials=self.credentials)
        run.granted.set()
        judges = task.work.pass_over is not None or task.work.report is not None
        backend = DatasetEngine() if judges else self.open_backend()
        try:
            return await run.run(backend, await backend.load())
        finally:
            await backend.close()

    def _tell(self, now: float, task: ShardTask, event: str, execution: str, **fields: Any) -> None:
        started, ended = report(task, "started", execution), report(task, event, execution, **fields)
        apply(self.services.engine, lambda: now, started, ended)

    def error(self, method: str, path: str) -> tuple[int, str]:
        answer = self.http.request(method, path)
        body = answer.json()["error"]
        assert set(body) == {"message", "type", "param", "code"}
        return answer.status_code, body["code"]
