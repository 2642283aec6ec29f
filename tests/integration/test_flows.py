"""Flows from their submission to joined records, on both databases, with the test as scheduler and worker."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from models.backends.echo import EchoBackend
from models.backends.echo_audio import EchoAudio
from models.backends.echo_images import EchoImages
from models.errors import FailureKind
from orchestrator import results
from orchestrator.api.app import create_app
from orchestrator.api.services import Services
from orchestrator.cli.replaying import compare
from orchestrator.cli.saving import save_job
from orchestrator.cli.text import describe
from orchestrator.client import Client
from orchestrator.dispatch import Dispatcher
from orchestrator.finalize import Finaliser
from orchestrator.jobs import ConflictError, Jobs, UnknownJobError
from orchestrator.lifecycle import JobStatus
from orchestrator.manifest import manifest_key
from orchestrator.removals import remove_jobs
from orchestrator.settings import Settings
from orchestrator.spec import parse_job
from tests.support.clocks import ManualClock
from tests.support.shards import Outbox, apply, execution_id, failure, finished, report
from tests.support.studio import InProcess, plan_all
from workers.contracts import ShardTask
from workers.engines import AnyBackend
from workers.execute import Execution
from workers.store import ObjectStore, open_store

KIT: dict[str, Any] = {
    "name": "kit",
    "kind": "flow",
    "source": {"items": [{"sku": f"s{number}", "name": f"shoe {number}"} for number in range(4)], "custom_id": "sku"},
    "nodes": {
        "copy": {"kind": "echo", "prompt": "copy of {{ name }}"},
        "title": {"kind": "echo", "prompt": "<{{ copy }}>"},
        "picture": {"kind": "image", "model": "echo", "prompt": "{{ title }}", "seed": 5},
        "edited": {"kind": "image", "model": "echo", "steps": ["edit"], "input": "picture", "prompt": "x"},
    },
}


class Stand:
    """The scheduler's parts and a worker, each of which moves when it is told to."""

    def __init__(self, engine: Engine, clock: ManualClock, store: ObjectStore) -> None:
        self.engine, self.clock, self.store = engine, clock, store
        self.jobs = Jobs(engine, clock)
        self.outbox = Outbox()
        self.ran: list[str] = []
        """Nodes in the order in which shards of theirs were run."""
        self.broken: set[str] = set()
        """Nodes whose model cannot be loaded."""
        self._dispatcher = Dispatcher(engine, self.outbox, forget_stop=self.outbox.forget_stop, window=2, clock=clock)
        self._finaliser = Finaliser(engine, store, self.outbox, clock=clock)

    def submit(self, **fields: Any) -> str:
        return self.jobs.create(parse_job({**KIT, **fields})).id

    def plan(self) -> None:
        plan_all(self.engine, self.store, self.clock)

    def finalise(self) -> None:
        self._finaliser.step()

    def dispatch(self) -> list[ShardTask]:
        self._dispatcher.step()
        tasks, self.outbox.shards = self.outbox.shards, []
        return tasks

    def run(self) -> None:
        """Go on until nothing moves any more."""
        self.plan()
        self.finalise()
        while tasks := self.dispatch():
            for task in tasks:
                self.work(task)
            self.finalise()
            self.finalise()  # what ended in the first step unblocks nodes in the second

    def work(self, task: ShardTask) -> None:
        node = str(self.jobs.get(task.job).name).rpartition(": ")[2]
        self.ran.append(node)
        execution = execution_id()
        started = report(task, "started", execution)
        if node in self.broken:
            bad = failure(FailureKind.MODEL, "model_not_found")
            apply(self.engine, self.clock, started, report(task, "failed", execution, failure=bad))
            return
        run = Execution(task, execution, self.store)
        run.granted.set()
        kinds: list[tuple[object, type[AnyBackend]]] = [(task.work.image, EchoImages), (task.work.audio, EchoAudio)]
        part = asyncio.run(self._part(run, next((kind for work, kind in kinds if work is not None), EchoBackend)()))
        apply(self.engine, self.clock, started, report(task, "finished", execution, part=part, counts=part.counts))

    async def _part(self, run: Execution, backend: AnyBackend) -> Any:
        return await run.run(backend, await backend.load())

    def records(self, flow: str) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in results.read(self.store, self.jobs, flow).records]


@pytest.fixture
def stand(engine: Engine, clock: ManualClock, store_url: str) -> Stand:
    return Stand(engine, clock, open_store(store_url))


def test_each_item_of_a_flow_ends_with_one_record_of_all_its_nodes(stand: Stand) -> None:
    flow = stand.submit()
    assert stand.records(flow) == []
    stand.run()
    job = stand.jobs.get(flow)
    assert (job.status, job.items, job.counts.ok, job.counts.failed) == (JobStatus.COMPLETED, 16, 16, 0)
    assert [(node.name, node.status, node.counts.ok, node.waits_for) for node in job.nodes] == [
        (name, JobStatus.COMPLETED, 4, ()) for name in KIT["nodes"]
    ]
    assert list(dict.fromkeys(stand.ran)) == ["copy", "title", "picture", "edited"]
    records = stand.records(flow)
    assert [(record["index"], record["custom_id"], record["status"]) for record in records] == [
        (number, f"s{number}", "ok") for number in range(4)
    ]
    made = records[2]["nodes"]
    assert made["copy"]["output"] == "copy of shoe 2"
    assert made["title"]["output"] == "<copy of shoe 2>"
    assert made["picture"]["prompt"] == "<copy of shoe 2>"
    assert made["edited"]["images"][0]["key"].startswith(f"jobs/{job.nodes[3].job}/images/")
    lines = b"".join(results.stream(stand.store, stand.jobs, flow)).splitlines()
    assert [orjson.loads(line) for line in lines] == records
    manifest = orjson.loads(stand.store.get(manifest_key(flow)))
    assert manifest["nodes"] == {node.name: node.job for node in job.nodes}
    assert (manifest["items"], manifest["counts"]["ok"], manifest["shards"]) == (16, 16, [])


def test_what_a_node_writes_another_speaks(stand: Stand) -> None:
    nodes = {
        "speech": {"kind": "audio", "model": "echo", "prompt": "{{ copy }}", "audio": {"speed": 2}},
        "copy": {"kind": "echo", "prompt": "{% if name != 'shoe 1' %}Listen: {{ name }}.{% endif %}"},
    }
    flow = stand.submit(nodes=nodes)
    stand.run()
    assert list(dict.fromkeys(stand.ran)) == ["copy", "speech"]
    records = stand.records(flow)
    assert [record["status"] for record in records] == ["ok", "failed", "ok", "ok"]
    assert records[1]["nodes"]["speech"]["error"]["code"] == "unspeakable"
    spoken = records[2]["nodes"]["speech"]
    assert (spoken["prompt"], spoken["settings"]) == ("Listen: shoe 2.", {"speed": 2})
    assert stand.store.get(spoken["audio"][0]["key"]).startswith(b"RIFF")


def test_pages_of_a_flow_reach_as_far_as_every_node(stand: Stand) -> None:
    flow = stand.submit()
    stand.run()
    first = results.read(stand.store, stand.jobs, flow, limit=3)
    assert (len(first.records), first.next_after, first.done) == (3, 2, False)
    rest = results.read(stand.store, stand.jobs, flow, after=2)
    assert (len(rest.records), rest.next_after, rest.done) == (1, 3, True)
    assert results.read(stand.store, stand.jobs, flow, after=3).done


def test_a_node_waits_for_those_that_it_needs(stand: Stand) -> None:
    flow = stand.submit()
    stand.plan()
    assert stand.dispatch() == []  # not before all are planned, and the flow is open
    stand.finalise()
    assert stand.jobs.get(flow).status is JobStatus.IN_PROGRESS
    tasks = stand.dispatch()
    copy, title, *_ = stand.jobs.get(flow).nodes
    assert {task.job for task in tasks} == {copy.job}
    assert title.waits_for == ("copy",)
    assert any("waits for copy" in value for name, value in describe(stand.jobs.get(flow)) if name == "node")


def test_an_item_that_fails_in_a_node_fails_in_those_that_use_it_and_in_no_other(stand: Stand) -> None:
    nodes = {
        "copy": {"kind": "echo", "prompt": "{{ text }}"},
        "title": {"kind": "echo", "prompt": "<{{ copy }}>"},
        "other": {"kind": "echo", "prompt": "{{ text }}"},
    }
    rows = [{"text": "a"}, {"text": "{{"}]
    flow = stand.submit(source={"items": rows}, nodes=nodes)
    stand.plan()
    stand.finalise()
    # The second item of `copy` fails; the others are answered.
    for task in stand.dispatch():
        if stand.jobs.get(task.job).name.endswith("copy"):
            _fail_one(stand, task, 1)
        else:
            stand.work(task)
    stand.finalise()
    stand.run()
    job = stand.jobs.get(flow)
    assert job.status is JobStatus.COMPLETED
    assert {node.name: (node.counts.ok, node.counts.failed) for node in job.nodes} == {
        "copy": (1, 1),
        "title": (1, 1),
        "other": (2, 0),
    }
    good, bad = stand.records(flow)
    assert (good["status"], bad["status"]) == ("ok", "failed")
    assert bad["nodes"]["title"]["error"]["code"] == "upstream_failed"
    assert bad["nodes"]["other"]["output"] == "{{"
    page = results.errors(stand.store, stand.jobs, flow)
    assert [orjson.loads(line)["index"] for line in page.records] == [1]

    # A retry repeats the item in both nodes, and touches neither the good one nor the node beside them.
    stand.ran.clear()
    stand.jobs.retry(flow)
    stand.run()
    assert stand.ran == ["copy", "title"]
    again = stand.jobs.get(flow)
    assert (again.status, again.counts.ok, again.counts.failed, again.manifest_version) == ("completed", 6, 0, 2)
    assert [record["nodes"]["title"]["output"] for record in stand.records(flow)] == ["<say 0>", "<{{>"]
    assert stand.records(flow)[0] == good
    with pytest.raises(ConflictError, match="nothing to run"):
        stand.jobs.retry(flow)


def _fail_one(stand: Stand, task: ShardTask, index: int) -> None:
    execution = execution_id()
    apply(
        stand.engine,
        stand.clock,
        report(task, "started", execution),
        finished(task, execution, failed=[index], store=stand.store),
    )


def test_a_row_that_no_node_can_use_ends_the_flow_before_anything_runs(stand: Stand) -> None:
    nodes = {"copy": {"kind": "echo", "prompt": "{{ name }}"}, "title": {"kind": "echo", "prompt": "{{ nme }}"}}
    flow = stand.submit(nodes=nodes)
    stand.run()
    stand.finalise()
    job = stand.jobs.get(flow)
    assert (job.status, job.planned_at, stand.ran) == (JobStatus.FAILED, None, [])
    assert job.error is not None
    assert "node title" in job.error.message
    assert "nme" in job.error.message
    assert {node.status for node in job.nodes} == {JobStatus.FAILED, JobStatus.CANCELLED}
    assert results.read(stand.store, stand.jobs, flow).records == []


def test_a_node_whose_model_is_not_there_fails_what_needs_it_and_a_retry_goes_on(stand: Stand) -> None:
    stand.broken.add("title")
    flow = stand.submit()
    stand.run()
    stand.finalise()
    job = stand.jobs.get(flow)
    assert [(node.name, node.status.value) for node in job.nodes] == [
        ("copy", "completed"),
        ("title", "failed"),
        ("picture", "failed"),
        ("edited", "failed"),
    ]
    assert (job.status, job.error and job.error.code) == (JobStatus.FAILED, "model_not_found")
    assert {record["status"] for record in stand.records(flow)} == {"failed"}
    stand.broken.clear()
    stand.ran.clear()
    stand.jobs.retry(flow)
    stand.run()
    assert stand.jobs.get(flow).status is JobStatus.COMPLETED
    assert list(dict.fromkeys(stand.ran)) == ["title", "picture", "edited"]
    assert {record["status"] for record in stand.records(flow)} == {"ok"}


def test_a_flow_is_paused_resumed_and_cancelled_as_a_whole(stand: Stand) -> None:
    flow = stand.submit()
    stand.plan()
    stand.finalise()
    assert stand.jobs.pause(flow).status is JobStatus.PAUSED
    assert stand.dispatch() == []
    assert stand.jobs.resume(flow).status is JobStatus.IN_PROGRESS
    [first, *_] = stand.dispatch()
    assert stand.jobs.cancel(flow).status is JobStatus.CANCELLING
    execution = execution_id()
    apply(stand.engine, stand.clock, report(first, "started", execution))
    for _ in range(3):
        stand.finalise()
    job = stand.jobs.get(flow)
    assert (job.status, job.counts.cancelled) == (JobStatus.CANCELLED, 16)
    assert {node.status for node in job.nodes} == {JobStatus.CANCELLED}
    assert {record["status"] for record in stand.records(flow)} == {"cancelled"}


def test_a_flow_that_is_late_expires_with_its_nodes(stand: Stand) -> None:
    flow = stand.submit(deadline="1h")
    stand.plan()
    stand.finalise()
    stand.clock.advance(3700)
    for _ in range(3):
        stand.finalise()
    job = stand.jobs.get(flow)
    assert (job.status, job.counts.expired) == (JobStatus.EXPIRED, 16)
    stand.jobs.retry(flow)
    stand.run()
    assert stand.jobs.get(flow).status is JobStatus.COMPLETED


def test_a_node_goes_with_its_flow(stand: Stand) -> None:
    flow = stand.submit()
    node = stand.jobs.get(flow).nodes[0].job
    assert [job.id for job in stand.jobs.list()] == [flow]
    assert stand.jobs.get(node).flow == flow
    for verb in (stand.jobs.cancel, stand.jobs.pause, stand.jobs.resume, stand.jobs.retry):
        with pytest.raises(ConflictError, match=f"node copy of the flow {flow}"):
            verb(node)
    stand.run()
    assert remove_jobs(stand.engine, ended_before=stand.clock() + 10, now=stand.clock()) == 1
    for gone in (flow, node):
        with pytest.raises(UnknownJobError):
            stand.jobs.get(gone)


def test_the_same_key_gives_the_same_flow(stand: Stand) -> None:
    spec = parse_job(KIT)
    first = stand.jobs.create(spec, idempotency_key="k")
    assert stand.jobs.create(spec, idempotency_key="k").id == first.id
    assert len(stand.jobs.list()) == 1


def test_a_flow_becomes_a_folder_that_shows_items_whole(
    sqlite_url: str, store_url: str, redis_url: str, tmp_path: Path
) -> None:
    services = Services.open(Settings(database_url=sqlite_url, store_url=store_url, redis_url=redis_url))
    http = TestClient(create_app(services), raise_server_exceptions=False)
    with http:
        client = Client("http://testserver", transport=InProcess(http))
        flow = client.submit(KIT, key="kit").id
        stand = Stand(services.engine, ManualClock(time.time()), services.store)
        stand.run()
        page = save_job(client, client.job(flow), tmp_path / "out", "jsonl")
        table = http.get(f"/v1/jobs/{flow}/results/content", params={"format": "csv"}).text.splitlines()
        poster = client.job(flow).nodes[3].job
        again = client.replay(poster, 2, 0).id
        stand.plan()
        stand.finalise()
        for task in stand.dispatch():
            stand.work(task)
        stand.finalise()
        assert compare(client.image(poster, "2.png"), client.image(again, "0.png")).same_bytes
    text = page.read_text()
    assert page == tmp_path / "out" / "index.html"
    assert "&lt;copy of shoe 3&gt;" in text
    assert 'src="picture/images/3.png"' in text
    assert (tmp_path / "out/picture/images/3.png").is_file()
    assert (tmp_path / "out/title/results.jsonl").is_file()
    assert len((tmp_path / "out/records.jsonl").read_text().splitlines()) == 4
    assert table[0] == "index,custom_id,status,copy,title,picture,edited,error_code,error_message"
    assert table[1].startswith("0,s0,ok,copy of shoe 0,<copy of shoe 0>,jobs/")
