"""Training jobs in a test: the API in this process, and the test as scheduler and worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from orchestrator.api.app import create_app
from orchestrator.api.services import Services
from orchestrator.dispatch import take
from orchestrator.finalize import Finaliser
from orchestrator.settings import Settings
from orchestrator.training_source import packed
from tests.support.shards import Outbox, apply, execution_id, report
from tests.support.studio import plan_all
from workers.contracts import Part, ShardTask
from workers.engines import engine_of, open_engine
from workers.execute import Execution
from workers.store import ObjectStore

STEPS = 12
JOB: dict[str, Any] = {
    "kind": "train",
    "model": "halves",
    "training": {
        "family": "vae",
        "options": {"latent": 4, "width": 8},
        "steps": STEPS,
        "batch_size": 8,
        "log_every": 2,
        "sample_every": 4,
        "checkpoint_every": 4,
    },
    "seed": 3,
}
LATER = 10_000.0
"""Seconds after which no backoff lasts."""


class KilledError(Exception):
    """In place of the end of the process."""


class DeadlyStore:
    """A store in which a process dies as it writes a key: before the object is there, or after."""

    def __init__(self, store: ObjectStore, key_part: str, *, after: bool) -> None:
        self._store = store
        self._key_part = key_part
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes, *, content_type: str = "") -> None:
        if self._key_part in key and not self._after:
            raise KilledError
        self._store.put(key, data, content_type=content_type)
        if self._key_part in key:
            raise KilledError


class Workshop:
    """The API in this process, and everything behind it played step by step."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.services = Services.open(settings)
        self.http = TestClient(create_app(self.services), raise_server_exceptions=False)
        self.store = self.services.store
        self.cache = folder / "cache"
        self.archive = self._upload(folder / "photos")

    def _upload(self, folder: Path) -> str:
        generator = np.random.default_rng(1)
        for side, half in (("left", slice(0, 10)), ("right", slice(10, 20))):
            (folder / side).mkdir(parents=True)
            for number in range(8):
                pixels = generator.integers(0, 60, (20, 20, 3), dtype=np.uint8)
                pixels[:, half] += 180
                Image.fromarray(pixels).save(folder / side / f"{number}.png")
        with packed(folder) as archive:
            answer = self.http.put("/v1/inputs/photos.tar", content=archive.read_bytes())
        return str(answer.json()["uri"])

    def submit(self, **fields: Any) -> str:
        data = {"folder": self.archive, "width": 8, "height": 8, "colour": False, "license": "CC0-1.0"}
        return self.post({**JOB, "data": data, **fields})

    def post(self, job: dict[str, Any]) -> str:
        answer = self.http.post("/v1/jobs", json=job)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/v1/jobs/{job_id}").json()
        return found

    def plan(self) -> None:
        plan_all(self.services.engine, self.store)

    def take(self, job_id: str) -> ShardTask:
        [task] = take(self.services.engine, job_id, 10, now=time.time() + LATER)
        return task

    def tell(self, task: ShardTask, event: str, execution: str, **fields: Any) -> None:
        apply(self.services.engine, time.time, report(task, event, execution, **fields))

    def start(self, task: ShardTask, store: ObjectStore | None = None) -> Execution:
        execution = execution_id()
        self.tell(task, "started", execution)
        run = Execution(task, execution, store or self.store, cache_dir=self.cache)
        run.granted.set()
        return run

    def run(self, run: Execution) -> Part:
        """What an actor does with a shard."""
        return asyncio.run(self._run(run, lambda: False))

    async def _run(self, run: Execution, stop: Callable[[], bool]) -> Part:
        work = run.task.work
        backend = open_engine(work.model, engine_of(work), self.cache, self.store)
        info = await backend.load()
        running = asyncio.create_task(run.run(backend, info))
        try:
            told = False
            while not running.done():
                if not told and stop():
                    told = running.cancel()
                await asyncio.wait([running], timeout=0.002)
            return await running
        finally:
            await backend.close()

    def stop(self, run: Execution, step: int) -> None:
        """Run until a step is made, and stop it as an actor is told to."""

        def reached() -> bool:
            training = run.progress().training
            return training is not None and training.step >= step

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(self._run(run, reached))

    def finish(self, run: Execution, part: Part) -> None:
        execution = part.key.rpartition("-")[2].removesuffix(".jsonl")
        training = run.progress().training
        self.tell(run.task, "finished", execution, part=part, counts=part.counts, training=training)
        Finaliser(self.services.engine, self.store, Outbox(), clock=time.time).step()

    def train(self, **fields: Any) -> str:
        """A whole job; its id."""
        return self._through(self.submit(**fields))

    def train_job(self, job: dict[str, Any]) -> str:
        """The same of a job that is given whole."""
        return self._through(self.post(job))

    def _through(self, job_id: str) -> str:
        self.plan()
        run = self.start(self.take(job_id))
        self.finish(run, self.run(run))
        assert self.job(job_id)["status"] == "completed"
        return job_id

    def record(self, job_id: str) -> dict[str, Any]:
        [found] = self.http.get(f"/v1/jobs/{job_id}/results").json()["data"]
        return dict(found)

    def weights(self, job_id: str) -> str:
        """Digest of the weights that a job has made."""
        [digest] = [
            file["sha256"] for file in self.record(job_id)["trained"]["files"] if file["name"] == "model.safetensors"
        ]
        return str(digest)

    def error(self, **job: Any) -> tuple[int, str, str]:
        answer = self.http.post("/v1/jobs", json=job)
        body = answer.json()["error"]
        return answer.status_code, body["param"], body["message"]
