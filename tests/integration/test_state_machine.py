"""Jobs, commands and faults in any order: a random walk over the lifecycle, with what must hold after every step.

The walk plays clients, broker, workers and time; scheduler and control worker are the real ones, on a real database
and a real store. Messages get lost, come twice and come in any order; workers die silently, with or without their part
in the store. In the end everything is let run, and every item must have exactly one record.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, Row, select

from models.errors import FailureKind
from models.spec import ItemError, ModelInfo, Output, TextResult, Usage
from orchestrator import database, reports, results
from orchestrator.dispatch import take
from orchestrator.finalize import Finaliser
from orchestrator.jobs import ConflictError, Jobs
from orchestrator.lifecycle import JOB_TERMINAL, JobStatus
from orchestrator.reaper import Reaper, apply_probe
from orchestrator.tables import Execution, Shard
from orchestrator.views import JobView
from tests.support.clocks import ManualClock
from tests.support.shards import Outbox, planned_job
from workers.contracts import Counts, Failure, Part, ReportEvent, ShardReport, ShardTask, decode, encode
from workers.keys import part_key, partial_key
from workers.records import BrokenPartError, describe_part, earlier_records, item_seed, read_part
from workers.sources import read_rows
from workers.store import MissingObjectError, ObjectStore, open_store
from workers.text_items import TextItems

LEASE = 60.0
MAX_LIVE = 2
MAX_JOBS = 5
ROUNDS = 400
"""More than it takes to end what the walk has left, however often a shard has to be halved."""
INFO = ModelInfo(
    model="echo", revision="0", engine="echo", context_length=100, reproducible="exact", shards_in_flight=1
)
choices = st.integers(0, 7)
ENDINGS = ["finished", "handed back", "died", "died with its part", "engine", "engine", *FailureKind]


class Run:
    """A worker's execution of a shard: the real reading, carrying over and joining of records, item by item."""

    def __init__(self, task: ShardTask, execution: str, store: ObjectStore) -> None:
        self.task = task
        self.execution = execution
        self.granted = False
        self.stopped = False
        self._store = store
        self._sequence = 0
        carried = None if task.carry_from is None else store.get(task.carry_from)
        earlier = {} if carried is None else earlier_records(carried)
        self._items = TextItems(task, INFO, read_rows(task.source, store), earlier)
        self._left = list(self._items.requests)

    @property
    def counts(self) -> Counts:
        return self._items.counts

    def settle(self) -> None:
        """End the next item, if there is one. Every third fails when it is first tried."""
        if not self._left:
            return
        request = self._left.pop(0)
        if request.index % 3 == 1 and request.seed == item_seed(self.task.work.seed, request.index):
            result = TextResult(index=request.index, error=ItemError("bad", "it cannot be answered"))
        else:
            # Tells one that is carried over from one that is generated again.
            output = Output(f"{request.messages[0].content} by {self.execution}", "stop", request.seed)
            result = TextResult(index=request.index, outputs=(output,), usage=Usage(2, 3))
        self._items.settle(result)

    def adopt(self) -> Part | None:
        """The whole part of an earlier execution, as it is looked for before anything is generated."""
        for key in self.task.earlier:
            try:
                return read_part(key, self._store.get(key), first=self.task.first, count=self.task.count)
            except (MissingObjectError, BrokenPartError):
                continue
        return None

    def write(self) -> Part:
        """End what is left, and write the part."""
        while self._left:
            self.settle()
        data = self._items.join()
        key = part_key(self.task.job, self.task.shard, self.task.token, self.execution)
        self._store.put(key, data)
        return describe_part(key, data, self._items.counts, self._items.usage)

    def salvage(self) -> Part | None:
        """Write what has ended."""
        if not self._items.counts.done or not self.granted:
            return None
        data, counts, usage = self._items.join_ended()
        key = partial_key(self.task.job, self.task.shard, self.task.token, self.execution)
        self._store.put(key, data)
        return describe_part(key, data, counts, usage)

    def report(self, event: ReportEvent, **fields: Any) -> ShardReport:
        self._sequence += 1
        return ShardReport(
            job=self.task.job,
            shard=self.task.shard,
            token=self.task.token,
            execution=self.execution,
            worker="host:1",
            sequence=self._sequence,
            event=event,
            counts=self._items.counts,
            usage=self._items.usage,
            **fields,
        )


class Nightmill(RuleBasedStateMachine):
    """The walk. One database serves many: each looks at its own jobs alone, and leaves none that has not ended."""

    def __init__(self, engine: Engine, store: ObjectStore) -> None:
        super().__init__()
        self.engine = engine
        self.store = store
        self.clock = ManualClock()
        self.steady = ManualClock(50.0)
        self.jobs = Jobs(engine, self.clock)
        self.chance = random.Random(7)
        self.outbox = Outbox()
        self.finaliser = Finaliser(engine, store, self.outbox, clock=self.clock)
        self.reaper = Reaper(
            f"reaper-{next(_numbers)}",
            engine,
            store,
            self.outbox,
            waiting_shards=lambda: len(self.messages),
            lease_seconds=LEASE,
            clock=self.clock,
            monotonic=self.steady,
            chance=self.chance,
        )
        self.mine: list[str] = []
        self.messages: list[ShardTask] = []
        self.mail: list[ShardReport] = []
        self.runs: list[Run] = []
        self.ended: dict[str, JobView] = {}
        self.good: dict[str, dict[int, bytes]] = {}
        """Lines of items that were seen to be ok, by job."""
        self.history: dict[str, set[str]] = {}
        """Executions that a shard was granted, by job."""

    @property
    def live(self) -> list[str]:
        """Jobs that had not ended at the last look."""
        return [job for job in self.mine if job not in self.ended]

    # What clients do.

    @initialize(shards=st.integers(1, 3), size=st.integers(2, 5))
    def submit_first(self, shards: int, size: int) -> None:
        self.submit(shards, size, deadline=False)

    @precondition(lambda self: len(self.mine) < MAX_JOBS and len(self.live) < MAX_LIVE)
    @rule(shards=st.integers(1, 3), size=st.integers(2, 5), deadline=st.booleans())
    def submit(self, shards: int, size: int, deadline: bool) -> None:
        job = planned_job(self.engine, self.clock, shards=shards, size=size, **({"deadline": "1h"} if deadline else {}))
        self.mine.append(job)
        self.good[job] = {}
        self.history[job] = set()

    @rule(which=choices, command=st.sampled_from(["pause", "resume", "retry"]))
    def command(self, which: int, command: str) -> None:
        self.give(self.mine[which % len(self.mine)], command)

    @rule(which=choices, sure=st.booleans())
    def cancel(self, which: int, sure: bool) -> None:
        if sure:  # every other time: a walk of cancelled jobs does not get far
            self.give(self.mine[which % len(self.mine)], "cancel")

    @precondition(lambda self: self.ended)
    @rule(which=choices, then=st.sampled_from(["run", "run", "cancel"]))
    def retry(self, which: int, then: str) -> None:
        job = sorted(self.ended)[which % len(self.ended)]
        self.give(job, "retry")
        if then == "cancel" and job in self.live:
            self.give(job, "cancel")

    def give(self, job: str, command: str) -> None:
        before = self.jobs.get(job)
        try:
            after = getattr(self.jobs, command)(job)
        except ConflictError:
            assert self.jobs.get(job) == before
            return
        assert (
            after.status
            in {
                "cancel": {JobStatus.CANCELLING, JobStatus.CANCELLED},
                "pause": {JobStatus.PAUSED},
                "resume": {JobStatus.IN_PROGRESS},
                "retry": {JobStatus.IN_PROGRESS},
            }[command]
        )
        if command == "retry":
            del self.ended[job]

    # What the scheduler does, and time.

    @precondition(lambda self: self.live)
    @rule(which=choices, limit=st.integers(1, 3))
    def dispatch(self, which: int, limit: int) -> None:
        for task in take(self.engine, self.live[which % len(self.live)], limit, now=self.clock()):
            self.messages.append(decode(encode(task), ShardTask))

    @rule()
    def finalise(self) -> None:
        self.finaliser.step()

    @rule(seconds=st.sampled_from([1.0, 61.0, 61.0, 3600.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(quarters=st.integers(1, 6), heard=st.booleans())
    def reap(self, quarters: int, heard: bool) -> None:
        """Quarters of a lease go by, and probes come out of the queue or get lost."""
        for _ in range(quarters):
            self.steady.advance(LEASE / 4)
            if heard:
                for name, value in self.outbox.probes:
                    apply_probe(self.engine, name, value, now=self.clock())
            self.outbox.probes.clear()
            self.reaper.step()
            self.messages += self.outbox.shards
            self.outbox.shards.clear()

    # What the broker does with messages.

    @precondition(lambda self: self.messages)
    @rule(which=choices)
    def lose_message(self, which: int) -> None:
        del self.messages[which % len(self.messages)]

    @precondition(lambda self: self.messages)
    @rule(which=choices, twice=st.booleans())
    def take_message(self, which: int, twice: bool) -> None:
        """A worker begins with a shard."""
        index = which % len(self.messages)
        task = self.messages[index] if twice else self.messages.pop(index)
        run = Run(task, f"{next(_numbers):026d}", self.store)
        self.runs.append(run)
        self.mail.append(run.report("started"))

    @precondition(lambda self: self.mail)
    @rule(which=choices, many=st.integers(1, 4), twice=st.booleans())
    def deliver(self, which: int, many: int, twice: bool) -> None:
        """Apply some of the reports that are on their way, from anywhere in their queue."""
        start = which % len(self.mail)
        batch = self.mail[start : start + many]
        if not twice:
            del self.mail[start : start + many]
        self.apply(batch)

    @precondition(lambda self: self.mail)
    @rule(which=choices)
    def lose_report(self, which: int) -> None:
        del self.mail[which % len(self.mail)]

    # What workers do.

    @precondition(lambda self: self.runs)
    @rule(which=choices)
    def work(self, which: int) -> None:
        run = self.runs[which % len(self.runs)]
        run.settle()
        self.mail.append(run.report("progress"))

    @precondition(lambda self: any(run.granted for run in self.runs))
    @rule(which=choices, dies=st.booleans())
    def finish(self, which: int, dies: bool) -> None:
        """The part is written; a worker that dies then cannot say so any more."""
        granted = [run for run in self.runs if run.granted]
        run = granted[which % len(granted)]
        self.runs.remove(run)
        if run.stopped:
            self.mail.append(run.report("handed_back", part=run.salvage()))
            return
        part = run.adopt() or run.write()
        if not dies:
            self.mail.append(run.report("finished", part=part))

    @precondition(lambda self: self.runs)
    @rule(which=choices, kind=st.sampled_from([*FailureKind, FailureKind.ENGINE, FailureKind.ENGINE]))
    def fail(self, which: int, kind: FailureKind) -> None:
        run = self.runs.pop(which % len(self.runs))
        part = None if kind is FailureKind.MODEL else run.salvage()
        self.mail.append(run.report("failed", part=part, failure=Failure(kind, kind.value, "it broke")))

    @precondition(lambda self: self.runs)
    @rule(which=choices)
    def hand_back(self, which: int) -> None:
        run = self.runs.pop(which % len(self.runs))
        self.mail.append(run.report("handed_back", part=run.salvage()))

    @precondition(lambda self: self.runs)
    @rule(which=choices)
    def die(self, which: int) -> None:
        self.runs.pop(which % len(self.runs))

    @precondition(lambda self: self.live)
    @rule(which=choices, times=st.integers(1, 3), settled=st.integers(0, 3), ending=st.sampled_from(ENDINGS))
    def run_one(self, which: int, times: int, settled: int, ending: str) -> None:
        """Dispatch the next shard and run it, with nothing lost on the way: what usually happens, some times over."""
        for _ in range(times):
            self.clock.advance(2.0)
            for task in take(self.engine, self.live[which % len(self.live)], 1, now=self.clock()):
                self.run_shard(decode(encode(task), ShardTask), settled, ending)

    @precondition(lambda self: self.live)
    @rule(which=choices)
    def run_all(self, which: int) -> None:
        """Let a job run to the end of what can be dispatched."""
        self.clock.advance(61.0)
        for task in take(self.engine, self.live[which % len(self.live)], 100, now=self.clock()):
            self.run_shard(decode(encode(task), ShardTask), 0, "finished")
        self.finaliser.step()

    def run_shard(self, task: ShardTask, settled: int, ending: str) -> None:
        run = Run(task, f"{next(_numbers):026d}", self.store)
        self.runs.append(run)
        self.apply([run.report("started")])
        for _ in range(settled):
            run.settle()
        self.runs.remove(run)
        match ending:
            case "finished":
                self.apply([run.report("finished", part=run.adopt() or run.write())])
            case "handed back":
                self.apply([run.report("handed_back", part=run.salvage())])
            case "died with its part":
                run.write()
            case "died":
                pass
            case kind:
                broken = Failure(FailureKind(kind), kind, "it broke")
                self.apply([run.report("failed", part=run.salvage(), failure=broken)])

    def apply(self, batch: list[ShardReport]) -> None:
        batch = [decode(encode(report), ShardReport) for report in batch]
        applied = reports.apply(self.engine, batch, now=self.clock(), chance=self.chance)
        for run in self.runs:
            directive = applied.directives.get(run.execution)
            if directive is not None:
                run.granted = run.granted or directive.command == "run"
                run.stopped = run.stopped or directive.command == "stop"

    # What always holds.

    @invariant()
    def check(self) -> None:
        for job in self.mine:
            view = self.jobs.get(job)
            if view == self.ended.get(job):
                continue  # looked through when it ended, and frozen since
            shards = self.shards(job)
            self.check_shards(view, shards)
            self.check_records(view, shards, self.records(job))
            if view.status in JOB_TERMINAL:
                assert view.ended
                assert self.ended.setdefault(job, view) == view, "a job that has ended changes no more"
            else:
                assert not view.ended
                assert job not in self.ended, "only a retry takes up a job that has ended"
            before, self.history[job] = self.history[job], self.executions(job)
            assert before <= self.history[job], "history is kept"

    def check_shards(self, view: JobView, shards: list[Row[Any]]) -> None:
        covered = 0
        for shard in shards:
            assert shard.first == covered, "every item is in exactly one shard"
            covered += shard.items
            assert (shard.status == "running") == (shard.execution is not None)
            if shard.status == "done":
                assert shard.part_ok + shard.part_failed == shard.items
        assert (covered, len(shards)) == (view.items, view.shard_count)
        assert view.shards == Counter(shard.status for shard in shards)

    def check_records(self, view: JobView, shards: list[Row[Any]], lines: list[bytes]) -> None:
        records = [orjson.loads(line) for line in lines]
        assert [record["index"] for record in records] == list(range(len(records)))
        said = Counter(record["status"] for record in records)
        if view.ended:
            assert len(records) == view.items
            assert said == {name: number for name, number in view.to_json()["counts"].items() if number}
        ok = {record["index"]: line for record, line in zip(records, lines, strict=True) if record["status"] == "ok"}
        for index, line in self.good[view.id].items():
            assert index >= len(records) or ok.get(index) == line, "what was good stays, as it was"
        settled = {
            index
            for shard in shards
            if view.ended or shard.status == "done"
            for index in range(shard.first, shard.first + shard.items)
        }
        self.good[view.id] |= {index: line for index, line in ok.items() if index in settled}

    def shards(self, job: str) -> list[Row[Any]]:
        columns = [column for column in Shard.__table__.columns if column.name != "count"]
        statement = select(*columns, Shard.count.label("items")).where(Shard.job_id == job).order_by(Shard.first)
        with database.reading(self.engine) as connection:
            return list(connection.execute(statement).all())

    def records(self, job: str) -> list[bytes]:
        return results.read(self.store, self.jobs, job, limit=1000).records

    def executions(self, job: str) -> set[str]:
        with database.reading(self.engine) as connection:
            return set(connection.execute(select(Execution.id).where(Execution.job_id == job)).scalars())

    # How it ends.

    def teardown(self) -> None:
        """Let everything run, with nothing lost any more, until every job has ended."""
        for _ in range(ROUNDS):
            if all(self.jobs.get(job).ended for job in self.mine):
                break
            self.round()
            self.check()
        # A report that comes even later changes nothing.
        self.apply(self.mail)
        for job in self.mine:
            view = self.jobs.get(job)
            assert view == self.ended.get(job), "every job can be driven to its end"
            self.check_shards(view, self.shards(job))
            self.check_records(view, self.shards(job), self.records(job))

    def round(self) -> None:
        for job in self.mine:
            if self.jobs.get(job).status is JobStatus.PAUSED:
                self.jobs.resume(job)
            if job in self.live:
                self.dispatch(self.live.index(job), 100)
        while self.messages:
            self.take_message(0, twice=False)
        self.apply(self.mail)
        self.mail.clear()
        while any(run.granted for run in self.runs):
            self.finish(0, dies=False)
        self.runs.clear()
        self.apply(self.mail)
        self.mail.clear()
        self.pass_time(61.0)
        self.reap(2, heard=True)
        self.finalise()


_numbers = count(1)


@pytest.mark.parametrize(
    ("kind", "walks", "steps"),
    [("sqlite_url", 60, 30), ("postgres_url", 10, 30)],
)
def test_any_walk_keeps_what_must_hold(
    request: pytest.FixtureRequest, folder_url: str, kind: str, walks: int, steps: int
) -> None:
    engine = database.connect(request.getfixturevalue(kind))
    store = open_store(folder_url)
    make: Callable[[], RuleBasedStateMachine] = lambda: Nightmill(engine, store)  # noqa: E731 - hypothesis calls it
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            make,
            settings=settings(
                max_examples=walks,
                stateful_step_count=steps,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        engine.dispose()
