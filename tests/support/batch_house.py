"""Batches in a test: the HTTP service on a port, OpenAI's client, and the test as scheduler and worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import orjson

from models.backend import Backend
from models.backends.echo import EchoBackend
from orchestrator.api.services import Services
from orchestrator.dispatch import take
from orchestrator.finalize import Finaliser
from orchestrator.openai.batcher import Batcher
from orchestrator.settings import Settings
from tests.support.http_service import http_service
from tests.support.shards import Outbox, apply, execution_id, report
from tests.support.studio import plan_all
from workers.contracts import ShardTask
from workers.execute import Execution

CHAT = "/v1/chat/completions"
LATER = 10_000.0


def request(custom_id: str, text: str = "say it", **parameters: Any) -> dict[str, Any]:
    """A line of a batch's file."""
    body = {"model": "echo", "messages": [{"role": "user", "content": text}], **parameters}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def lines(rows: Sequence[Any]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


class BatchHouse:
    """The service, and everything behind it played step by step."""

    def __init__(self, services: Services, url: str) -> None:
        self.services = services
        self.url = url
        self.store = services.store
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self.http = httpx.Client(base_url=url, timeout=30)
        self.later = 0.0
        """Seconds by which the scheduler is ahead of the service."""
        self.batcher = Batcher(services.engine, services.store, services.settings, clock=self.clock)

    def clock(self) -> float:
        return time.time() + self.later

    def upload(self, rows: Sequence[Any] | bytes) -> str:
        data = rows if isinstance(rows, bytes) else lines(rows)
        return self.client.files.create(file=("requests.jsonl", data), purpose="batch").id

    def create(self, rows: Sequence[Any] | bytes, **fields: Any) -> str:
        given: dict[str, Any] = {"endpoint": CHAT, "completion_window": "24h", **fields}
        return self.client.batches.create(input_file_id=self.upload(rows), **given).id

    def batch(self, batch_id: str) -> openai.types.Batch:
        return self.client.batches.retrieve(batch_id)

    def plan(self) -> None:
        plan_all(self.services.engine, self.store)

    def take(self, batch_id: str, limit: int = 100) -> list[ShardTask]:
        job = self.batch(batch_id).model_extra["job_id"]  # type: ignore[index]
        return list(take(self.services.engine, job, limit, now=time.time() + LATER))

    def run(self, tasks: Sequence[ShardTask], backend: Backend | None = None) -> None:
        """What workers do with shards."""
        for task in tasks:
            execution = execution_id()
            apply(self.services.engine, time.time, report(task, "started", execution))
            run = Execution(task, execution, self.store)
            run.granted.set()
            part = asyncio.run(self._generate(run, backend or EchoBackend()))
            done = report(task, "finished", execution, part=part, counts=part.counts, usage=part.usage)
            apply(self.services.engine, time.time, done)

    async def _generate(self, run: Execution, backend: Backend) -> Any:
        return await run.run(backend, await backend.load())

    def settle(self) -> None:
        """What a scheduler does once shards have ended."""
        for _ in range(3):
            Finaliser(self.services.engine, self.store, Outbox(), clock=self.clock).step()
        for _ in range(3):
            self.batcher.step()

    def through(self, batch_id: str, backend: Backend | None = None) -> openai.types.Batch:
        """A batch from its file to its end."""
        self.batcher.step()
        self.plan()
        self.run(self.take(batch_id), backend)
        self.settle()
        return self.batch(batch_id)

    def file(self, file_id: str | None) -> list[dict[str, Any]]:
        assert file_id is not None
        return [orjson.loads(line) for line in self.client.files.content(file_id).read().splitlines()]

    def refused(self, **body: Any) -> tuple[int, str | None, str]:
        answer = self.http.post("/v1/batches", json=body)
        error = answer.json()["error"]
        return answer.status_code, error["param"], error["message"]

    def close(self) -> None:
        self.client.close()
        self.http.close()


@contextmanager
def batch_house(settings: Settings) -> Iterator[BatchHouse]:
    """A house over these settings' services."""
    services = Services.open(settings)
    with http_service(services) as url:
        house = BatchHouse(services, url)
        yield house
        house.close()
