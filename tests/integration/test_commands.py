"""Every command in every state: what it leads to is one table, which the documentation shows as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import orjson
import pytest
from sqlalchemy import Engine, select

from models.errors import FailureKind
from orchestrator import claims, database, finalize, results
from orchestrator.finalize import Finaliser
from orchestrator.jobs import ConflictError, Jobs
from orchestrator.lifecycle import JobStatus
from orchestrator.tables import Execution
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
    new_shards,
    partial_of,
    report,
    take,
)
from workers.contracts import ShardTask
from workers.store import ObjectStore, open_store

# Where a command takes a job; `=` where it changes nothing, `no` where it is refused.
TABLE = """
| a job that is | `cancel` | `pause` | `resume` | `retry` | its deadline passes |
|---|---|---|---|---|---|
| `validating`, not yet looked at | cancelled | no | no | no | expired |
| `validating`, being read | cancelled | no | no | no | expired |
| `in_progress`, nothing started | cancelled | paused | = | no | expired |
| `in_progress`, running | cancelled | paused | = | no | expired |
| `in_progress`, partly done | cancelled | paused | = | no | expired |
| `paused` | cancelled | = | in_progress | no | expired |
| `finalizing`, everything done | no | no | no | no | = |
| `finalizing`, the model at fault | no | no | no | no | = |
| `finalizing`, past its deadline | no | no | no | no | = |
| `cancelling` | = | no | no | no | = |
| `completed`, nothing failed | no | no | no | no | = |
| `completed`, items failed | no | no | no | in_progress | = |
| `failed` before it started | no | no | no | no | = |
| `failed` on the way | no | no | no | in_progress | = |
| `expired` before it started | no | no | no | no | = |
| `expired` on the way | no | no | no | in_progress | = |
| `cancelled` | = | no | no | no | = |
"""
COMMANDS = ("cancel", "pause", "resume", "retry", "deadline")
SHARDS, SIZE = 4, 2
SPEC = echo_spec(items=SHARDS * SIZE, deadline="1h")
KEY = "the same"


def cells() -> list[tuple[str, str, str]]:
    """State, command and outcome of every cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.strip().splitlines()[2:]]
    return [
        (state.replace("`", ""), command, cell)
        for state, *outcomes in rows
        for command, cell in zip(COMMANDS, outcomes, strict=True)
    ]


class Scene:
    """One job of eight items in four shards, its workers, and a finaliser."""

    def __init__(self, engine: Engine, clock: ManualClock, store: ObjectStore) -> None:
        self.engine = engine
        self.clock = clock
        self.store = store
        self.jobs = Jobs(engine, clock)
        self.finaliser = Finaliser(engine, store, Outbox(), clock=clock)
        self.job = self.jobs.create(SPEC, idempotency_key=KEY).id
        self.waiting: list[ShardTask] = []
        self.running: list[tuple[ShardTask, str]] = []

    @property
    def view(self) -> JobView:
        return self.jobs.get(self.job)

    def claim(self) -> None:
        [seen] = claims.waiting(self.engine)
        assert claims.claim(self.engine, seen, "planner")

    def plan(self) -> None:
        self.claim()
        assert claims.finish(
            self.engine,
            self.job,
            "planner",
            work=msgspec.json.encode(SPEC.work(None)).decode(),
            items=SHARDS * SIZE,
            shard_count=SHARDS,
            last=new_shards(SHARDS, SIZE),
            now=self.clock(),
        )

    def start(self, shards: int) -> None:
        """Dispatch all but one shard, and start so many of them."""
        tasks = take(self.engine, self.job, self.clock, limit=SHARDS - 1)
        self.waiting = tasks[shards:]
        for task in tasks[:shards]:
            execution = execution_id()
            apply(self.engine, self.clock, report(task, "started", execution))
            self.running.append((task, execution))

    def finish(self, *, failed: tuple[int, ...] = ()) -> None:
        """Finish the first shard that runs."""
        task, execution = self.running.pop(0)
        apply(self.engine, self.clock, finished(task, execution, failed=failed, store=self.store))

    def find_model_at_fault(self) -> None:
        task, execution = self.running.pop(0)
        fault = failure(FailureKind.MODEL, "model_incomplete")
        apply(self.engine, self.clock, report(task, "failed", execution, failure=fault))

    def stop_running(self) -> None:
        """Workers hand back what runs, with the first of its items."""
        for task, execution in self.running:
            kept = partial_of(task, execution, [task.first], store=self.store)
            apply(self.engine, self.clock, report(task, "handed_back", execution, part=kept))
        self.running = []

    def end(self) -> None:
        self.stop_running()
        self.finaliser.step()
        assert self.view.ended

    def pass_deadline(self) -> None:
        self.clock.advance(3600)
        finalize.expire(self.engine, now=self.clock())

    def run_to_the_end(self) -> None:
        """Do what scheduler and workers would do by themselves, and what nobody asked for."""
        if self.view.status is JobStatus.VALIDATING:
            if self.view.shards:  # another planner has it
                claims.release(self.engine, self.job, "planner")
            self.plan()
        if self.view.status is JobStatus.PAUSED:
            self.jobs.resume(self.job)
        if self.view.status is JobStatus.IN_PROGRESS:
            self.run_what_waits()
            while self.running:
                self.finish()
            finish_all(self.engine, self.clock, self.job, store=self.store)
        if not self.view.ended:
            self.stop_running()
            self.finaliser.step()

    def run_what_waits(self) -> None:
        for task in self.waiting:
            execution = execution_id()
            started = report(task, "started", execution)
            apply(self.engine, self.clock, started, finished(task, execution, store=self.store))
        self.waiting = []

    def records(self) -> dict[int, str]:
        """The status of every item that has a record, which must be those from the first one on."""
        found: dict[int, str] = {}
        after = None
        while (page := results.read(self.store, self.jobs, self.job, after=after, limit=3)).records:
            for line in page.records:
                record = orjson.loads(line)
                assert record["index"] == len(found)
                found[record["index"]] = record["status"]
            after = page.next_after
        return found

    def history(self) -> set[str]:
        """Every execution that a shard of the job was granted."""
        with database.reading(self.engine) as connection:
            return set(connection.execute(select(Execution.id).where(Execution.job_id == self.job)).scalars())

    def check(self) -> None:
        """Counts say what the records say."""
        view, records = self.view, self.records()
        if view.ended:
            assert len(records) == view.items
            counted = {name: number for name, number in view.to_json()["counts"].items() if number}
            assert Counter(records.values()) == counted
        else:
            assert Counter(records.values())["ok"] <= view.counts.ok


@pytest.fixture
def scene(engine: Engine, clock: ManualClock, folder_url: str) -> Scene:
    return Scene(engine, clock, open_store(folder_url))


def being_read(scene: Scene) -> None:
    scene.claim()
    claims.add_shards(scene.engine, scene.job, "planner", new_shards(2, SIZE))


def running(scene: Scene) -> None:
    scene.plan()
    scene.start(2)


def partly_done(scene: Scene) -> None:
    running(scene)
    scene.finish(failed=(1,))


def paused(scene: Scene) -> None:
    partly_done(scene)
    scene.jobs.pause(scene.job)


def all_done(scene: Scene, *, failed: tuple[int, ...] = (3,)) -> None:
    scene.plan()
    finish_all(scene.engine, scene.clock, scene.job, failed=failed, store=scene.store)
    assert finalize.close(scene.engine, scene.job)


def model_at_fault(scene: Scene) -> None:
    scene.plan()
    scene.start(3)
    scene.finish(failed=(1,))
    scene.find_model_at_fault()


def past_deadline(scene: Scene) -> None:
    partly_done(scene)
    scene.pass_deadline()


def cancelling(scene: Scene) -> None:
    partly_done(scene)
    scene.jobs.cancel(scene.job)


def failed_before(scene: Scene) -> None:
    scene.claim()
    claims.fail(scene.engine, scene.job, "planner", JobError("invalid_source", "no rows"), now=scene.clock())


def expired_before(scene: Scene) -> None:
    scene.pass_deadline()
    scene.end()


def ended(begin: Callable[[Scene], None]) -> Callable[[Scene], None]:
    def build(scene: Scene) -> None:
        begin(scene)
        scene.end()

    return build


STATES: dict[str, Callable[[Scene], None]] = {
    "validating, not yet looked at": lambda _: None,
    "validating, being read": being_read,
    "in_progress, nothing started": Scene.plan,
    "in_progress, running": running,
    "in_progress, partly done": partly_done,
    "paused": paused,
    "finalizing, everything done": all_done,
    "finalizing, the model at fault": model_at_fault,
    "finalizing, past its deadline": past_deadline,
    "cancelling": cancelling,
    "completed, nothing failed": ended(lambda scene: all_done(scene, failed=())),
    "completed, items failed": ended(all_done),
    "failed before it started": failed_before,
    "failed on the way": ended(model_at_fault),
    "expired before it started": expired_before,
    "expired on the way": ended(past_deadline),
    "cancelled": ended(cancelling),
}
ON_THE_WAY = {
    "cancelled": JobStatus.CANCELLING,
    "expired": JobStatus.FINALIZING,
    "paused": JobStatus.PAUSED,
    "in_progress": JobStatus.IN_PROGRESS,
}
"""The status that a command leaves at once."""
AFTER_ALL = {"cancelled": "cancelled", "expired": "expired", "paused": "completed", "in_progress": "completed"}
"""How a job ends on which a command had its effect, where nothing else happens to it but that it is resumed."""


def build(scene: Scene, state: str) -> None:
    STATES[state](scene)
    assert scene.view.status == state.split(maxsplit=1)[0].rstrip(",")
    scene.check()


def give(scene: Scene, command: str) -> None:
    if command == "deadline":
        scene.pass_deadline()
    else:
        getattr(scene.jobs, command)(scene.job)


@pytest.mark.parametrize(("state", "command", "outcome"), cells())
def test_a_command_in_a_state(scene: Scene, state: str, command: str, outcome: str) -> None:
    build(scene, state)
    before, records, history = scene.view, scene.records(), scene.history()
    if outcome == "no":
        with pytest.raises(ConflictError, match=r"cannot be .+: .+"):
            give(scene, command)
    else:
        give(scene, command)
    if outcome in {"=", "no"}:
        assert scene.view == before
    else:
        assert scene.view.status is ON_THE_WAY[outcome]
    scene.check()
    scene.run_to_the_end()
    scene.check()
    assert scene.view.ended
    assert outcome not in AFTER_ALL or scene.view.status == AFTER_ALL[outcome]
    kept = {index for index, status in records.items() if status == "ok"}
    assert kept <= {index for index, status in scene.records().items() if status == "ok"}
    assert history <= scene.history()


@pytest.mark.parametrize("state", STATES)
def test_the_same_key_gives_the_same_job_in_every_state(scene: Scene, state: str) -> None:
    build(scene, state)
    before = scene.view
    assert scene.jobs.create(SPEC, idempotency_key=KEY) == before
    assert scene.jobs.submitted(SPEC, idempotency_key=KEY) == before
    with pytest.raises(ConflictError, match="used for another job"):
        scene.jobs.create(echo_spec(items=3), idempotency_key=KEY)
    assert [job.id for job in scene.jobs.list()] == [scene.job]


def test_a_refusal_says_what_can_be_done_instead(scene: Scene) -> None:
    def refusal(command: str) -> str:
        with pytest.raises(ConflictError) as refused:
            give(scene, command)
        return str(refused.value).partition("cannot be ")[2]

    assert refusal("pause") == "paused: its source is still being read; it can be once it is in_progress"
    scene.plan()
    assert refusal("retry") == "retried: it has not ended; what fails can be retried once it has"
    scene.pass_deadline()
    assert refusal("cancel") == "cancelled: it is about to end as expired; what failed or expired can be retried then"
    scene.end()
    assert refusal("resume") == "resumed: it has ended; what failed or expired can be retried"
    scene.jobs.retry(scene.job)
    scene.jobs.cancel(scene.job)
    assert refusal("retry") == "retried: what it finished is kept; to run the rest, submit it again"


def test_a_pause_holds_across_a_restart_of_everything(scene: Scene, database_url: str) -> None:
    paused(scene)
    task, execution = scene.running[0]
    again = database.connect(database_url)
    try:
        apply(again, scene.clock, report(task, "handed_back", execution))
        scene.clock.advance(60)
        assert take(again, scene.job, scene.clock) == []
        Jobs(again, scene.clock).resume(scene.job)
        assert [task.shard for task in take(again, scene.job, scene.clock)] == [1, 3]
    finally:
        again.dispose()


def test_a_job_that_was_done_in_time_does_not_expire(scene: Scene) -> None:
    """Its last part came before the deadline, the finaliser looks after it."""
    scene.plan()
    finish_all(scene.engine, scene.clock, scene.job, store=scene.store)
    scene.clock.advance(3600)
    scene.finaliser.step()
    assert scene.view.status is JobStatus.COMPLETED


def test_the_documentation_shows_the_table() -> None:
    assert TABLE in (Path(__file__).parents[2] / "docs" / "jobs.md").read_text(encoding="utf-8")
