"""Two writers at one job, made to meet at a named point: one after the other is what it comes to, on both databases."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Engine, Row, select, text

from orchestrator import claims, database, dispatch, endings, finalize, guards, reaper, reports
from orchestrator.finalize import Finaliser
from orchestrator.jobs import ConflictError, Jobs
from orchestrator.lifecycle import JobStatus
from orchestrator.reports import Applied
from orchestrator.tables import Execution, Probe
from orchestrator.views import JobView
from tests.support.clocks import ManualClock
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.shards import (
    Outbox,
    apply,
    commands,
    echo_spec,
    execution_id,
    failure,
    finished,
    new_shards,
    part_of,
    planned_job,
    report,
    shard_row,
    take,
)
from workers.contracts import Counts, ShardReport
from workers.store import ObjectStore, open_store


class Meeting:
    """Runs two writers so that the second begins while the first stands inside its transaction, past a named point.

    The first goes on when the second has ended, or waits for it: on PostgreSQL for the lock of a row, on SQLite to
    begin its own transaction.
    """

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._engine = engine
        self._monkeypatch = monkeypatch

    def __call__(
        self, first: Callable[[], Any], point: tuple[ModuleType, str], second: Callable[[], Any]
    ) -> tuple[Any, Any]:
        """What the two return, or the ConflictError that they raise."""
        reached, go_on, second_writes = threading.Event(), threading.Event(), threading.Event()
        module, name = point
        really, write = getattr(module, name), database.write
        leader: list[int] = []

        def pause(*arguments: Any, **named: Any) -> Any:
            done = really(*arguments, **named)
            if [threading.get_ident()] == leader and done and not reached.is_set():
                reached.set()
                assert go_on.wait(PATIENCE_SECONDS)
            return done

        def note(*arguments: Any) -> Any:
            if [threading.get_ident()] != leader:
                second_writes.set()
            return write(*arguments)

        def lead() -> Any:
            leader.append(threading.get_ident())
            return _outcome(first)

        self._monkeypatch.setattr(module, name, pause)
        self._monkeypatch.setattr(database, "write", note)
        with ThreadPoolExecutor(2) as pool:
            leading = pool.submit(lead)
            try:
                assert reached.wait(PATIENCE_SECONDS), f"{name} was not reached: {leading}"
                following = pool.submit(_outcome, second)
                eventually(lambda: following.done() or self._waits(second_writes), within=PATIENCE_SECONDS)
            finally:
                go_on.set()
            both = leading.result(PATIENCE_SECONDS), following.result(PATIENCE_SECONDS)
        self._monkeypatch.setattr(module, name, really)
        self._monkeypatch.setattr(database, "write", write)
        return both

    def _waits(self, second_writes: threading.Event) -> bool:
        if self._engine.dialect.name != "postgresql":
            return second_writes.is_set()
        with self._engine.connect() as connection:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0"
            return bool(connection.execute(text(waiting)).scalar())


def _outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except ConflictError as conflict:
        return conflict


class Scene:
    """A job of two shards of two items with a deadline; the first is done, the second runs."""

    def __init__(self, engine: Engine, clock: ManualClock, store: ObjectStore) -> None:
        self.engine = engine
        self.clock = clock
        self.store = store
        self.jobs = Jobs(engine, clock)
        self.job = planned_job(engine, clock, shards=2, size=2, deadline="1h")
        first, self.task = take(engine, self.job, clock)
        one, self.execution = execution_id(), execution_id()
        started = report(self.task, "started", self.execution)
        self.apply(report(first, "started", one), finished(first, one, failed=(1,), store=store), started)
        self.last = finished(self.task, self.execution, store=store)

    @property
    def view(self) -> JobView:
        return self.jobs.get(self.job)

    def apply(self, *batch: ShardReport) -> Applied:
        return apply(self.engine, self.clock, *batch)

    def finish(self) -> bool:
        """The last part is reported; whether that was acknowledged and the part counts."""
        directive = self.apply(self.last).directives[self.execution]
        return directive.acknowledged == self.last.sequence and shard_row(self.engine, self.job, 1).status == "done"

    def finalise(self) -> int:
        return Finaliser(self.engine, self.store, Outbox(), clock=self.clock).step()

    def expire(self) -> int:
        return finalize.expire(self.engine, now=self.clock() + 3600)


@pytest.fixture
def scene(engine: Engine, clock: ManualClock, folder_url: str) -> Scene:
    return Scene(engine, clock, open_store(folder_url))


@pytest.fixture
def meeting(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Meeting:
    return Meeting(engine, monkeypatch)


MOVED = (guards, "move_job")
DONE = (endings, "finish")


@pytest.mark.parametrize("who_first", ["command", "report"])
@pytest.mark.parametrize(
    ("command", "status", "ends"),
    [("cancel", "cancelling", "cancelled"), ("pause", "paused", "completed")],
)
def test_a_command_meets_the_last_report(
    scene: Scene, meeting: Meeting, command: str, status: str, ends: str, who_first: str
) -> None:
    """The part counts, and the command holds, whichever is first."""
    give = getattr(scene.jobs, command)
    if who_first == "command":
        _, counts = meeting(lambda: give(scene.job), MOVED, scene.finish)
    else:
        counts, _ = meeting(scene.finish, DONE, lambda: give(scene.job))
    assert (counts, scene.view.status) == (True, status)
    assert scene.finalise() == 1
    view = scene.view
    assert (view.status, view.counts.ok, view.counts.failed, view.shards) == (ends, 3, 1, {"done": 2})


def test_the_deadline_meets_the_last_report_and_is_first(scene: Scene, meeting: Meeting) -> None:
    expired, counts = meeting(scene.expire, MOVED, scene.finish)
    assert (expired, counts) == (1, True)
    assert scene.finalise() == 1
    view = scene.view
    assert (view.status, view.counts.ok, view.counts.failed, view.counts.expired) == ("expired", 3, 1, 0)


def test_the_deadline_meets_the_last_report_and_is_second(scene: Scene, meeting: Meeting) -> None:
    """Everything is done by then: there is nothing left to expire."""
    counts, expired = meeting(scene.finish, DONE, scene.expire)
    assert (counts, expired) == (True, 0)
    assert scene.finalise() == 1
    assert (scene.view.status, scene.view.counts.ok) == ("completed", 3)


def test_a_retry_meets_the_last_report_and_comes_too_early(scene: Scene, meeting: Meeting) -> None:
    counts, refused = meeting(scene.finish, DONE, lambda: scene.jobs.retry(scene.job))
    assert (counts, isinstance(refused, ConflictError)) == (True, True)
    scene.finalise()
    assert (scene.view.status, scene.view.counts.ok) == ("completed", 3)


@pytest.mark.parametrize("command", ["cancel", "pause", "resume", "retry"])
def test_a_command_meets_the_freeze(scene: Scene, meeting: Meeting, command: str) -> None:
    """It comes before the freeze and is refused, or after it and finds a job that has ended."""
    scene.finish()
    assert finalize.close(scene.engine, scene.job)
    ended, answer = meeting(scene.finalise, MOVED, lambda: getattr(scene.jobs, command)(scene.job))
    assert ended == 1
    view = scene.view
    assert (view.counts.ok, view.counts.failed) == (3, 1)
    if isinstance(answer, ConflictError):
        assert (view.status, view.finished_at) == ("completed", scene.clock())
    else:
        assert (command, view.status, view.manifest_version) == ("retry", "in_progress", 2)
        assert view.shards == {"queued": 1, "done": 1}


def test_the_freeze_meets_a_retry_and_a_whole_second_run(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finaliser that has written its manifest and is slow finds the job where it was, and not as it was."""
    scene.finish()
    freeze = finalize.freeze

    def late(*arguments: Any, **named: Any) -> bool:
        monkeypatch.setattr(finalize, "freeze", freeze)
        assert scene.finalise() == 1
        scene.jobs.retry(scene.job)
        [task] = take(scene.engine, scene.job, scene.clock)
        execution = execution_id()
        scene.apply(report(task, "started", execution), finished(task, execution, store=scene.store))
        assert finalize.close(scene.engine, scene.job)
        return freeze(*arguments, **named)

    monkeypatch.setattr(finalize, "freeze", late)
    assert scene.finalise() == 0
    assert scene.view.status is JobStatus.FINALIZING
    assert scene.finalise() == 1
    assert (scene.view.counts.ok, scene.view.counts.failed) == (4, 0)


def test_a_cancellation_meets_the_end_of_planning(
    engine: Engine, clock: ManualClock, meeting: Meeting, folder_url: str
) -> None:
    jobs = Jobs(engine, clock)
    job = jobs.create(echo_spec(items=2)).id
    [seen] = claims.waiting(engine)
    assert claims.claim(engine, seen, "planner")

    def open_job() -> bool:
        return claims.finish(
            engine, job, "planner", work="{}", items=2, shard_count=1, last=new_shards(1, 2), now=clock()
        )

    _, opened = meeting(lambda: jobs.cancel(job), MOVED, open_job)
    assert not opened
    assert (jobs.get(job).status, jobs.get(job).shards) == (JobStatus.CANCELLING, {})


def at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch, point: tuple[ModuleType, str], *works: Any) -> list[Any]:
    """Run two writers that meet before a named point: on SQLite, whose transactions exclude each other, before them."""
    both = threading.Barrier(2, timeout=PATIENCE_SECONDS)
    module, name = point if engine.dialect.name == "postgresql" else (database, "write")
    really = getattr(module, name)
    met = threading.local()

    def meet(*arguments: Any, **named: Any) -> Any:
        if not getattr(met, "once", False):
            met.once = True
            both.wait()
        return really(*arguments, **named)

    with monkeypatch.context() as patched, ThreadPoolExecutor(2) as pool:
        patched.setattr(module, name, meet)
        running: Sequence[Future[Any]] = [pool.submit(work) for work in works]
        return [future.result(PATIENCE_SECONDS) for future in running]


def test_two_dispatchers_dispatch_each_shard_once(
    engine: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned_job(engine, clock, shards=7)
    taken = at_once(engine, monkeypatch, (dispatch, "queued"), *2 * [lambda: take(engine, job, clock, limit=4)])
    taken.append(take(engine, job, clock))
    tasks = [task for some in taken for task in some]
    assert sorted(task.shard for task in tasks) == list(range(7))
    assert {task.token for task in tasks} == {1}


def test_two_planners_claim_a_job_once(engine: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    Jobs(engine, clock).create(echo_spec())
    [seen] = claims.waiting(engine)
    claimed = at_once(
        engine,
        monkeypatch,
        (database, "write"),
        *(lambda owner=owner: claims.claim(engine, seen, owner) for owner in ("one", "two")),
    )
    assert sorted(claimed) == [False, True]
    [after] = claims.waiting(engine)
    assert after.planner == ("one", "two")[claimed.index(True)]


def lose(scene: Scene) -> bool:
    row = shard_row(scene.engine, scene.job, 1)
    return reports.lose(
        scene.engine,
        scene.job,
        1,
        token=scene.task.token,
        execution=scene.execution,
        sequence=row.sequence,
        silent_seconds=60.0,
        now=scene.clock(),
        chance=random.Random(1),
    )


def test_two_reapers_lose_a_lease_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(at_once(scene.engine, monkeypatch, (reports, "_locked"), *2 * [lambda: lose(scene)])) == [False, True]
    row = shard_row(scene.engine, scene.job, 1)
    assert (row.status, row.losses, row.attempts) == ("queued", 1, 1)


def test_two_reapers_adopt_a_part_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    part, _ = part_of(scene.task, scene.execution)

    def adopt() -> bool:
        return reports.adopt(scene.engine, scene.job, 1, part, execution=scene.execution, now=scene.clock())

    assert sorted(at_once(scene.engine, monkeypatch, (reports, "_locked"), adopt, adopt)) == [False, True]
    assert shard_row(scene.engine, scene.job, 1).part_key == part.key


def test_a_renewal_that_is_being_applied_saves_the_lease(scene: Scene, meeting: Meeting) -> None:
    """The probe came out, and the reaper judges, while another control worker is still applying a renewal."""
    seen = shard_row(scene.engine, scene.job, 1)
    renewal = report(scene.task, "progress", scene.execution, counts=Counts(1, 0))

    def judge() -> bool:
        return reports.lose(
            scene.engine,
            scene.job,
            1,
            token=seen.token,
            execution=seen.execution,
            sequence=seen.sequence,
            silent_seconds=60.0,
            now=scene.clock(),
            chance=random.Random(1),
        )

    applied, lost = meeting(lambda: scene.apply(renewal), (endings, "renew"), judge)
    assert (commands(applied.directives), lost) == ({scene.execution: "run"}, False)
    row = shard_row(scene.engine, scene.job, 1)
    assert (row.status, row.execution, row.losses) == ("running", scene.execution, 0)


def test_a_renewal_that_comes_while_the_lease_is_taken_is_told_to_stop(scene: Scene, meeting: Meeting) -> None:
    renewal = report(scene.task, "progress", scene.execution, counts=Counts(1, 0))
    lost, applied = meeting(lambda: lose(scene), (endings, "fail"), lambda: scene.apply(renewal))
    assert (lost, commands(applied.directives)) == (True, {scene.execution: "stop"})
    assert shard_row(scene.engine, scene.job, 1).status == "queued"


def state_of(engine: Engine, job: str) -> tuple[list[Row[Any]], list[tuple[Any, ...]]]:
    """What a job's shards and their history look like."""
    shards = [shard_row(engine, job, number) for number in range(4)]
    with database.reading(engine) as connection:
        history = connection.execute(
            select(Execution.shard, Execution.ending).where(Execution.job_id == job).order_by(Execution.shard)
        ).all()
    return shards, [tuple(row) for row in history]


@pytest.mark.parametrize("overlap", ["the same", "halves in another order"])
def test_two_control_workers_apply_what_came_twice_once(
    engine: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, overlap: str
) -> None:
    job = planned_job(engine, clock, shards=4)
    batch: list[ShardReport] = []
    tasks = take(engine, job, clock)
    executions = [execution_id() for _ in tasks]
    for task, execution in zip(tasks, executions, strict=True):
        batch += [report(task, "started", execution), report(task, "progress", execution, counts=Counts(1, 0))]
    batch.append(finished(tasks[0], executions[0]))
    batch.append(report(tasks[1], "failed", executions[1], failure=failure()))
    batch.append(report(tasks[2], "handed_back", executions[2]))
    one, two = (batch, batch) if overlap == "the same" else (batch[:8], [*reversed(batch[4:])])
    at_once(
        engine,
        monkeypatch,
        (endings, "lock_jobs"),
        lambda: apply(engine, clock, *one),
        lambda: apply(engine, clock, *two),
    )
    # Whatever was judged before its predecessor came is said again, as a worker does until it is acknowledged.
    apply(engine, clock, *batch)
    shards, history = state_of(engine, job)
    assert [(row.number, row.status, row.failures) for row in shards] == [
        (0, "done", 0),
        (1, "queued", 1),
        (2, "queued", 0),
        (3, "running", 0),
    ]
    assert [row.attempts for row in shards[1:]] == [1, 1, 1]
    assert history == [(0, "finished"), (1, "engine_died"), (2, "handed_back"), (3, None)]


def test_two_control_workers_note_the_first_probes_of_a_reaper(
    engine: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(
        engine,
        monkeypatch,
        (reaper, "insert"),
        lambda: reaper.apply_probe(engine, "reaper", 1, now=clock()),
        lambda: reaper.apply_probe(engine, "reaper", 2, now=clock()),
    )
    with database.reading(engine) as connection:
        assert connection.execute(select(Probe.value)).scalars().all() == [2]
