"""What is left in the store goes, and nothing that a shard's row or a manifest names ever does."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, select, text, update
from ulid import ULID

from models.errors import FailureKind
from models.spec import Usage
from orchestrator import collector, database, removals, reports
from orchestrator.collector import DAY_SECONDS, LOOK_SECONDS, SETTLE_SECONDS, Collector, PartName, ShardParts
from orchestrator.finalize import Finaliser, staged_prefix
from orchestrator.jobs import Jobs, UnknownJobError
from orchestrator.lifecycle import JobStatus
from orchestrator.manifest import manifest_key
from orchestrator.removals import AGAIN_SECONDS, UPLOAD_GRACE_SECONDS
from orchestrator.spec import JobSpec, parse_job
from orchestrator.spec_error import SpecError
from orchestrator.tables import Execution, Job, Removal, Shard
from tests.support.clocks import ManualClock
from tests.support.shards import (
    Outbox,
    apply,
    echo_spec,
    execution_id,
    failure,
    finish_all,
    finished,
    part_of,
    partial_of,
    planned_job,
    report,
    shard_row,
    take,
)
from workers.contracts import ByteRange, Counts, Part, ShardTask
from workers.keys import part_key, partial_key
from workers.records import describe_part
from workers.store import ObjectStore, StoreError, open_store

LEASE = 60.0
SETTLED = SETTLE_SECONDS + LEASE


class Yard:
    """A collector, and what leaves things behind for it."""

    def __init__(self, engine: Engine, clock: ManualClock, store: ObjectStore) -> None:
        self.engine = engine
        self.clock = clock
        self.store = store
        self.jobs = Jobs(engine, clock)
        self.finaliser = Finaliser(engine, store, Outbox(), clock=clock)
        self.collector = self.keeping(0)

    def keeping(self, days: float) -> Collector:
        """A collector that keeps jobs for so many days."""
        return Collector(self.engine, self.store, lease_seconds=LEASE, retention_days=days, clock=self.clock)

    def stored(self, prefix: str = "jobs/") -> list[str]:
        return list(self.store.list(prefix))

    def leave(self, task: ShardTask, execution: str, *, partial: bool = False) -> str:
        """Write the part of an execution that nobody asks any more; its key."""
        part, data = part_of(task, execution)
        key = partial_key(task.job, task.shard, task.token, execution) if partial else part.key
        self.store.put(key, data)
        return key

    def settle(self, job: str) -> None:
        self.finaliser.step()
        assert self.jobs.get(job).ended
        self.clock.advance(SETTLED)

    def named(self) -> set[str]:
        """Every key that a shard's row names, or the manifest of a job that has ended."""
        with database.reading(self.engine) as connection:
            rows = connection.execute(select(Shard.part_key, Shard.carry_from)).all()
            ended = connection.execute(select(Job.id).where(Job.finished_at.is_not(None))).scalars().all()
        manifests = [orjson.loads(self.store.get(manifest_key(job))) for job in ended]
        listed = {shard["key"] for manifest in manifests for shard in manifest["shards"] if "key" in shard}
        return listed | {key for row in rows for key in row if key is not None}

    def at_first_delete(self, monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> list[str]:
        """Let something happen between the collector's look and its first deletion; what is deleted, as a list."""
        deleted: list[str] = []
        delete = self.store.delete

        def late(key: str) -> None:
            if not deleted:
                happen()
            deleted.append(key)
            delete(key)

        monkeypatch.setattr(self.store, "delete", late)
        return deleted


@pytest.fixture
def yard(engine: Engine, clock: ManualClock, store_url: str) -> Yard:
    return Yard(engine, clock, open_store(store_url))


@pytest.fixture
def folder_yard(engine: Engine, clock: ManualClock, folder_url: str) -> Yard:
    return Yard(engine, clock, open_store(folder_url))


def lose_first(yard: Yard, job: str, *, whole: bool = True) -> str:
    """Let the first execution of a job's one shard be lost, and then leave its part; the part's key."""
    [task] = take(yard.engine, job, yard.clock)
    gone = execution_id()
    apply(yard.engine, yard.clock, report(task, "started", gone))
    row = shard_row(yard.engine, job)
    reports.lose(
        yard.engine,
        job,
        0,
        token=row.token,
        execution=gone,
        sequence=row.sequence,
        silent_seconds=LEASE,
        now=yard.clock(),
        chance=random.Random(1),
    )
    yard.clock.advance(LEASE)
    return yard.leave(task, gone, partial=not whole)


def give_up_without_part(yard: Yard, job: str) -> tuple[ShardTask, str]:
    """Let a job's one shard fail for good; its last task and execution."""
    [task] = take(yard.engine, job, yard.clock)
    execution = execution_id()
    broken = report(task, "failed", execution, failure=failure(FailureKind.ITEM, "source_gone"))
    apply(yard.engine, yard.clock, report(task, "started", execution), broken)
    return task, execution


def test_parts_that_lost_go_once_their_job_has_settled(yard: Yard) -> None:
    job = planned_job(yard.engine, yard.clock, shards=1)
    lost = [lose_first(yard, job), lose_first(yard, job, whole=False)]
    finish_all(yard.engine, yard.clock, job, store=yard.store)
    yard.finaliser.step()
    won = shard_row(yard.engine, job).part_key
    yard.clock.advance(SETTLED - 1)
    assert yard.collector.step() == 0
    assert set(yard.stored()) == {*lost, won, manifest_key(job)}
    yard.clock.advance(1)
    assert yard.collector.step() == 2
    assert set(yard.stored()) == {won, manifest_key(job)}


def test_a_job_is_swept_once_and_again_after_a_retry(folder_yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    yard = folder_yard
    job = planned_job(yard.engine, yard.clock, shards=1)
    finish_all(yard.engine, yard.clock, job, failed=[0], store=yard.store)
    first = shard_row(yard.engine, job).part_key
    yard.settle(job)
    assert yard.collector.step() == 0
    assert collector.unswept_jobs(yard.engine, yard.clock()) == []
    yard.jobs.retry(job)
    finish_all(yard.engine, yard.clock, job, store=yard.store)
    yard.settle(job)
    assert yard.collector.step() == 1
    assert first not in yard.stored()
    assert yard.named() <= set(yard.stored())


def test_nothing_of_a_job_that_goes_on_is_touched(folder_yard: Yard) -> None:
    yard = folder_yard
    job = planned_job(yard.engine, yard.clock, shards=1)
    lost = lose_first(yard, job)
    yard.clock.advance(10 * SETTLED)
    assert yard.collector.step() == 0
    assert yard.stored() == [lost]


def test_what_is_no_part_is_left_alone(folder_yard: Yard) -> None:
    yard = folder_yard
    job = planned_job(yard.engine, yard.clock, shards=1)
    finish_all(yard.engine, yard.clock, job, store=yard.store)
    strange = [f"jobs/{job}/parts/notes.txt", f"jobs/{job}/images/1.png", part_key(job, 7, 1, execution_id())]
    for key in strange:
        yard.store.put(key, b"x")
    unknown = part_key("01J0000000000000000000000A", 0, 1, execution_id())
    yard.store.put(unknown, b"x")
    yard.settle(job)
    assert yard.collector.step() == 0
    assert {*strange, unknown} <= set(yard.stored())


def test_the_part_of_an_interrupted_shard_is_kept(folder_yard: Yard) -> None:
    yard = folder_yard
    job = planned_job(yard.engine, yard.clock, shards=1, deadline="1h")
    [task] = take(yard.engine, job, yard.clock)
    execution = execution_id()
    apply(yard.engine, yard.clock, report(task, "started", execution))
    yard.clock.advance(3600)
    yard.finaliser.step()
    key = partial_key(job, 0, task.token, execution)
    data = part_of(task, execution)[1].split(b"\n")[0] + b"\n"
    yard.store.put(key, data)
    kept: Part = describe_part(key, data, Counts(1, 0), Usage(2, 3))
    apply(yard.engine, yard.clock, report(task, "handed_back", execution, part=kept))
    yard.settle(job)
    yard.collector.step()
    assert yard.jobs.get(job).status is JobStatus.EXPIRED
    assert key in yard.named() & set(yard.stored())


def test_what_both_halves_of_a_split_shard_carry_over_is_kept(folder_yard: Yard) -> None:
    yard = folder_yard
    job = planned_job(yard.engine, yard.clock, shards=1, size=4, deadline="1h")
    kept = None
    for _ in range(2):
        [task] = take(yard.engine, job, yard.clock)
        execution = execution_id()
        kept = partial_of(task, execution, [0], store=yard.store)
        broke = report(task, "failed", execution, failure=failure(), part=kept)
        apply(yard.engine, yard.clock, report(task, "started", execution), broke)
        yard.clock.advance(60)
    assert kept is not None
    half, _ = take(yard.engine, job, yard.clock)
    done = execution_id()
    apply(yard.engine, yard.clock, report(half, "started", done), finished(half, done, store=yard.store))
    yard.clock.advance(3600)
    yard.settle(job)
    yard.collector.step()
    assert kept.key in yard.stored()
    yard.jobs.retry(job)
    [rest] = take(yard.engine, job, yard.clock)
    assert (rest.first, rest.carry_from) == (2, kept.key)


def test_nothing_but_winning_parts_of_a_cancelled_job_stays(folder_yard: Yard) -> None:
    yard = folder_yard
    job = planned_job(yard.engine, yard.clock, shards=1)
    lost = lose_first(yard, job)
    yard.jobs.cancel(job)
    yard.settle(job)
    assert yard.collector.step() == 1
    assert lost not in yard.stored()


def test_a_whole_part_of_a_shard_that_has_none_waits_for_a_retry_to_adopt_it(yard: Yard) -> None:
    job = planned_job(yard.engine, yard.clock, shards=1)
    task, execution = give_up_without_part(yard, job)
    yard.settle(job)
    late = yard.leave(task, execution)
    assert yard.collector.step() == 0
    yard.jobs.retry(job)
    [again] = take(yard.engine, job, yard.clock)
    assert again.earlier == (late,)
    assert yard.store.head(late) is not None


def test_staged_input_of_a_job_that_never_started_goes(folder_yard: Yard) -> None:
    yard = folder_yard
    job = yard.jobs.create(echo_spec(deadline="1h")).id
    yard.clock.advance(3600)
    yard.settle(job)
    yard.store.put(f"{staged_prefix(job)}try/rows.jsonl", b"{}\n")  # by a planner that had not noticed
    assert yard.collector.step() == 1
    assert yard.stored() == [manifest_key(job)]


def test_of_staged_input_only_what_shards_read_stays(folder_yard: Yard) -> None:
    yard = folder_yard
    job = planned_job(yard.engine, yard.clock, shards=2)
    read, dead = (f"{staged_prefix(job)}{name}/rows.jsonl" for name in ("try2", "try"))
    for key in (read, dead):
        yard.store.put(key, b"{}\n{}\n{}\n{}\n")
    source = ByteRange(uri=read, etag=None, format="jsonl", offset=0, length=6)
    with yard.engine.begin() as connection:
        connection.execute(update(Shard).values(source=msgspec.json.encode(source).decode()))
    finish_all(yard.engine, yard.clock, job, store=yard.store)
    yard.settle(job)
    assert yard.collector.step() == 1
    assert yard.stored(staged_prefix(job)) == [read]


def test_a_key_that_is_listed_and_gone_is_no_error(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    job = planned_job(yard.engine, yard.clock, shards=1)
    lost = lose_first(yard, job)
    finish_all(yard.engine, yard.clock, job, store=yard.store)
    yard.settle(job)
    listed = yard.stored()
    yard.store.delete(lost)
    monkeypatch.setattr(yard.store, "list", lambda prefix: iter([key for key in listed if key.startswith(prefix)]))
    assert yard.collector.step() == 1
    assert yard.named() <= set(listed)


def test_a_collector_that_dies_half_way_is_followed_by_the_next(
    folder_yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard = folder_yard
    job = planned_job(yard.engine, yard.clock, shards=1)
    lost = [lose_first(yard, job), lose_first(yard, job)]
    finish_all(yard.engine, yard.clock, job, store=yard.store)
    yard.settle(job)
    delete = yard.store.delete

    def die(key: str) -> None:
        monkeypatch.setattr(yard.store, "delete", delete)
        raise StoreError("the store is away")

    monkeypatch.setattr(yard.store, "delete", die)
    with pytest.raises(StoreError):
        yard.collector.step()
    assert yard.collector.step() == 2
    assert not set(lost) & set(yard.stored())


def test_a_retry_that_begins_before_the_deletion_loses_nothing(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    job = planned_job(yard.engine, yard.clock, shards=2, size=2)
    for task in take(yard.engine, job, yard.clock):
        execution = execution_id()
        done = finished(task, execution, failed=[0], store=yard.store)
        apply(yard.engine, yard.clock, report(task, "started", execution), done)
        yard.leave(task, execution_id())
    yard.settle(job)

    def retry() -> None:
        yard.jobs.retry(job)
        finish_all(yard.engine, yard.clock, job, failed=[1], store=yard.store)
        yard.finaliser.step()

    deleted = yard.at_first_delete(monkeypatch, retry)
    assert yard.collector.step() == 2
    assert len(deleted) == 2
    assert yard.jobs.get(job).manifest_version == 2
    assert yard.named() <= set(yard.stored())


def test_a_part_that_is_adopted_before_the_deletion_is_not_deleted(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """The retry finds the part of an execution that was given up, while the collector is between look and deletion."""
    job = planned_job(yard.engine, yard.clock, shards=1)
    task, execution = give_up_without_part(yard, job)
    late = yard.leave(task, execution)
    gone = yard.leave(task, execution_id(), partial=True)
    yard.settle(job)

    def adopt() -> None:
        yard.jobs.retry(job)
        apply(yard.engine, yard.clock, finished(task, execution))
        assert shard_row(yard.engine, job).part_key == late
        yard.finaliser.step()

    deleted = yard.at_first_delete(monkeypatch, adopt)
    yard.collector.step()
    assert deleted == [gone]
    assert late in yard.named() & set(yard.stored())


def test_a_part_that_arrives_after_the_look_is_judged_by_the_next(
    folder_yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard = folder_yard
    job = planned_job(yard.engine, yard.clock, shards=1)
    lost = lose_first(yard, job)
    finish_all(yard.engine, yard.clock, job, failed=[0], store=yard.store)
    yard.settle(job)
    late: list[str] = []

    def arrive() -> None:
        yard.jobs.retry(job)
        [task] = take(yard.engine, job, yard.clock)
        late.append(yard.leave(task, execution_id()))

    deleted = yard.at_first_delete(monkeypatch, arrive)
    yard.collector.step()
    assert deleted == [lost]
    assert late[0] in yard.stored()
    assert yard.named() <= set(yard.stored())


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_between_look_and_deletion_nothing_named_is_lost(folder_yard: Yard, seed: int) -> None:
    yard = folder_yard
    world = World(yard, random.Random(seed))
    for _ in range(2000):
        world.act()
        if world.deleted >= 20:
            break
    assert world.deleted >= 20
    assert yard.named() <= set(yard.stored())


class World:
    """A job to which anything may happen at any moment, most of all between a look and a deletion."""

    def __init__(self, yard: Yard, chance: random.Random) -> None:
        self.yard = yard
        self.chance = chance
        self.job = planned_job(yard.engine, yard.clock, shards=3, size=2)
        self.running: list[tuple[ShardTask, str]] = []
        self.over: list[tuple[ShardTask, str]] = []
        self.deleted = 0
        self.collecting = False
        self._delete = yard.store.delete
        yard.store.delete = self.delete

    def act(self) -> None:
        often = [self.start, self.fail, self.late, self.end, self.collect]
        self.chance.choice([*often, *often, self.finish, self.retry])()
        self.yard.clock.advance(self.chance.choice([1.0, LEASE, SETTLED]))

    def delete(self, key: str) -> None:
        if self.chance.random() < 0.6:
            self.retry()
            self.start()
        for _ in range(self.chance.randrange(3)):
            self.act()
        assert key not in self.yard.named()
        self._delete(key)
        self.deleted += 1

    def start(self) -> None:
        for task in take(self.yard.engine, self.job, self.yard.clock, limit=self.chance.randint(1, 3)):
            execution = execution_id()
            apply(self.yard.engine, self.yard.clock, report(task, "started", execution))
            self.running.append((task, execution))
        # A worker looks for earlier parts, and says that it is done where it finds one.
        for task, execution in self.running:
            for key in task.earlier:
                if self.yard.store.head(key) is not None:
                    part, _ = part_of(task, execution)
                    adopted = describe_part(key, self.yard.store.get(key), part.counts, part.usage)
                    said = report(task, "finished", execution, part=adopted, counts=part.counts)
                    apply(self.yard.engine, self.yard.clock, said)

    def finish(self) -> None:
        if self.running:
            task, execution = self.running.pop(self.chance.randrange(len(self.running)))
            failed = [task.first] if self.chance.random() < 0.4 else []
            said = finished(task, execution, failed=failed, store=self.yard.store)
            apply(self.yard.engine, self.yard.clock, said)
            self.over.append((task, execution))

    def fail(self) -> None:
        if self.running:
            task, execution = self.running.pop(self.chance.randrange(len(self.running)))
            key = partial_key(task.job, task.shard, task.token, execution)
            data = part_of(task, execution)[1].split(b"\n")[0] + b"\n"
            self.yard.store.put(key, data)
            kept = describe_part(key, data, Counts(1, 0), Usage()) if self.chance.random() < 0.5 else None
            kind = self.chance.choice([FailureKind.ITEM, FailureKind.PLATFORM])
            said = report(task, "failed", execution, failure=failure(kind, "away"), part=kept)
            apply(self.yard.engine, self.yard.clock, said)
            self.over.append((task, execution))

    def late(self) -> None:
        """An execution that is over writes its part after all, and perhaps says so."""
        if self.over:
            task, execution = self.chance.choice(self.over)
            if self.yard.store.head(part_key(task.job, task.shard, task.token, execution)) is None:
                said = finished(task, execution, store=self.yard.store)
                if self.chance.random() < 0.5:
                    apply(self.yard.engine, self.yard.clock, said)

    def retry(self) -> None:
        """Retry the job; one that has ended well is followed by another."""
        view = self.yard.jobs.get(self.job)
        if view.ended and view.counts.failed == 0:
            self.job = planned_job(self.yard.engine, self.yard.clock, shards=3, size=2)
            self.running, self.over = [], []
        elif view.ended:
            self.yard.jobs.retry(self.job)

    def end(self) -> None:
        self.yard.finaliser.step()

    def collect(self) -> None:
        if not self.collecting:
            self.collecting = True
            self.yard.collector.step()
            self.collecting = False


@pytest.mark.parametrize(
    ("name", "shard", "lost"),
    [
        (PartName(0, 1, partial=False), ShardParts(False, 2, 0, "won", None), True),
        (PartName(0, 1, partial=False), ShardParts(False, 2, 0, None, None), False),
        (PartName(0, 1, partial=False), ShardParts(False, 2, 1, None, None), True),
        (PartName(0, 1, partial=False), ShardParts(True, 2, 0, None, None), True),
        (PartName(0, 3, partial=False), ShardParts(True, 2, 0, None, None), False),
        (PartName(0, 2, partial=True), ShardParts(False, 2, 0, None, None), True),
        (PartName(0, 2, partial=True), ShardParts(False, 2, 2, "key", None), False),
        (PartName(0, 2, partial=True), ShardParts(False, 2, 2, None, "key"), False),
    ],
)
def test_a_part_has_lost_only_where_no_row_can_ever_name_it(name: PartName, shard: ShardParts, lost: bool) -> None:
    assert collector.has_lost("key", name, shard) is lost


def test_jobs_are_kept_unless_somebody_says_for_how_long(folder_yard: Yard) -> None:
    yard = folder_yard
    job = planned_job(yard.engine, yard.clock, shards=1)
    finish_all(yard.engine, yard.clock, job, store=yard.store)
    yard.settle(job)
    yard.clock.advance(1000 * DAY_SECONDS)
    yard.collector.step()
    assert yard.jobs.get(job).status is JobStatus.COMPLETED
    assert yard.named() <= set(yard.stored())


def test_a_job_is_removed_whole_when_its_time_is_over(yard: Yard) -> None:
    old = planned_job(yard.engine, yard.clock, shards=2)
    finish_all(yard.engine, yard.clock, old, failed=[0], store=yard.store)
    yard.store.put(f"{staged_prefix(old)}try/rows.jsonl", b"{}\n")
    yard.finaliser.step()
    yard.clock.advance(2 * DAY_SECONDS)
    young = planned_job(yard.engine, yard.clock, shards=1)
    finish_all(yard.engine, yard.clock, young, store=yard.store)
    yard.finaliser.step()
    yard.clock.advance(DAY_SECONDS)
    yard.keeping(3).step()
    assert yard.jobs.get(old).ended
    yard.clock.advance(1)
    yard.keeping(3).step()
    for ask in (yard.jobs.get, yard.jobs.retry, yard.jobs.cancel):
        with pytest.raises(UnknownJobError):
            ask(old)
    assert {key.split("/")[1] for key in yard.stored()} == {young}
    with database.reading(yard.engine) as connection:
        assert set(connection.execute(select(Execution.job_id)).scalars()) == {young}
        assert set(connection.execute(select(Shard.job_id)).scalars()) == {young}


def test_a_removed_prefix_is_emptied_again_a_day_later_and_then_forgotten(folder_yard: Yard) -> None:
    yard = folder_yard
    job = planned_job(yard.engine, yard.clock, shards=1)
    [task] = take(yard.engine, job, yard.clock)
    yard.jobs.cancel(job)
    yard.finaliser.step()
    yard.clock.advance(DAY_SECONDS + 1)
    removing = yard.keeping(1)
    removing.step()
    late = yard.leave(task, execution_id())
    yard.clock.advance(AGAIN_SECONDS - 1)
    removing.step()
    assert yard.stored() == [late]
    yard.clock.advance(1)
    removing.step()
    assert yard.stored() == []
    with database.reading(yard.engine) as connection:
        assert connection.execute(select(Removal.prefix)).all() == []


def test_dying_between_rows_and_objects_leaves_nothing_behind(
    folder_yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard = folder_yard
    job = planned_job(yard.engine, yard.clock, shards=2)
    finish_all(yard.engine, yard.clock, job, store=yard.store)
    yard.finaliser.step()
    yard.clock.advance(DAY_SECONDS + 1)
    delete = yard.store.delete

    def die(key: str) -> None:
        monkeypatch.setattr(yard.store, "delete", delete)
        raise StoreError("the store is away")

    monkeypatch.setattr(yard.store, "delete", die)
    with pytest.raises(StoreError):
        yard.keeping(1).step()
    assert yard.stored() != []
    yard.keeping(1).step()
    assert yard.stored() == []


def test_a_retry_that_comes_before_the_removal_keeps_its_job(
    folder_yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard = folder_yard
    job = planned_job(yard.engine, yard.clock, shards=1)
    finish_all(yard.engine, yard.clock, job, failed=[0], store=yard.store)
    yard.finaliser.step()
    yard.clock.advance(DAY_SECONDS + 1)
    write = database.write

    def late(engine: Engine, work: Any) -> Any:
        monkeypatch.setattr(database, "write", write)
        yard.jobs.retry(job)
        return write(engine, work)

    monkeypatch.setattr(database, "write", late)
    assert removals.remove_jobs(yard.engine, ended_before=yard.clock(), now=yard.clock()) == 0
    assert yard.jobs.get(job).status is JobStatus.IN_PROGRESS
    assert yard.named() <= set(yard.stored())


def upload(yard: Yard, *, age: float) -> str:
    """An upload that was made so many seconds ago; its URI."""
    key = f"inputs/{ULID.from_timestamp(yard.clock() - age)}/rows.jsonl"
    yard.store.put(key, b'{"a": 1}\n')
    return f"nightmill://{key}"


def submit(yard: Yard, uri: str) -> str:
    return yard.jobs.create(echo_spec(source={"file": uri})).id


def test_uploads_that_no_job_names_after_a_day_go(yard: Yard) -> None:
    named, unused, young = (upload(yard, age=age) for age in (DAY_SECONDS, DAY_SECONDS, DAY_SECONDS - 1))
    submit(yard, named)
    yard.store.put("inputs/notes/readme.txt", b"x")
    yard.collector.step()
    assert len(yard.stored("inputs/")) == 4
    yard.clock.advance(UPLOAD_GRACE_SECONDS)
    assert yard.collector.step() == 1
    assert f"nightmill://{unused}" not in yard.stored("inputs/")
    left = {f"nightmill://{key}" for key in yard.stored("inputs/")}
    assert left == {named, young, "nightmill://inputs/notes/readme.txt"}


def linked(own: str, parent: str) -> JobSpec:
    data = {"file": own, "foreign_key": "a", "parent": {"file": parent, "key": "a"}}
    return parse_job({"kind": "train", "model": "m", "data": data, "training": {"family": "tabular-argn"}})


def test_the_uploads_of_both_linked_tables_are_kept_and_missed(folder_yard: Yard) -> None:
    yard = folder_yard
    own, parent, unused = (upload(yard, age=DAY_SECONDS) for _ in range(3))
    job = yard.jobs.create(linked(own, parent)).id
    yard.collector.step()
    yard.clock.advance(UPLOAD_GRACE_SECONDS)
    yard.collector.step()
    assert {f"nightmill://{key}" for key in yard.stored("inputs/")} == {own, parent}
    for first, second, param in ((unused, own, "data.file"), (own, unused, "data.parent.file")):
        with pytest.raises(SpecError, match="upload the file again") as caught:
            yard.jobs.create(linked(first, second))
        assert caught.value.param == param
    assert [each.id for each in yard.jobs.list()] == [job]


def test_a_job_that_names_a_removed_upload_is_refused(folder_yard: Yard) -> None:
    yard = folder_yard
    uri = upload(yard, age=DAY_SECONDS)
    yard.collector.step()
    with pytest.raises(SpecError, match="upload the file again"):
        submit(yard, uri)
    assert yard.jobs.list() == []


def test_an_upload_that_was_named_at_the_last_moment_lives(folder_yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's transaction began before the removal was committed, and ended after it."""
    yard = folder_yard
    uri = upload(yard, age=DAY_SECONDS)
    yard.collector.step()
    with monkeypatch.context() as blind:
        blind.setattr(removals, "is_removed", lambda connection, prefix: False)
        submit(yard, uri)
    yard.clock.advance(UPLOAD_GRACE_SECONDS)
    yard.collector.step()
    yard.clock.advance(2 * AGAIN_SECONDS)
    yard.collector.step()
    assert len(yard.stored("inputs/")) == 1
    submit(yard, uri)


def test_an_upload_goes_after_the_last_job_that_named_it(folder_yard: Yard) -> None:
    yard = folder_yard
    job = submit(yard, upload(yard, age=0))
    yard.jobs.cancel(job)
    yard.finaliser.step()
    yard.clock.advance(DAY_SECONDS + 1)
    removing = yard.keeping(1)
    removing.step()
    yard.clock.advance(max(LOOK_SECONDS, UPLOAD_GRACE_SECONDS))
    removing.step()
    assert yard.stored("inputs/") == []


def test_an_older_database_learns_which_uploads_its_jobs_read(empty_database_url: str, clock: ManualClock) -> None:
    engine = database.connect(empty_database_url)
    config = Config()
    config.set_main_option("script_location", str(database.__file__).replace("database.py", "migrations"))
    config.set_main_option("path_separator", "os")
    before = ScriptDirectory.from_config(config).get_revision("0004").down_revision
    values = {
        **dict.fromkeys(("tenant", "name", "kind", "model", "engine", "spec_digest", "status"), "x"),
        **dict.fromkeys(("priority", "generation", "planner_beat", "items", "shard_count", "manifest_version"), 1),
        "created_at": 1.0,
    }
    specs = {
        "01J0000000000000000000000A": {"source": {"file": "nightmill://inputs/01J/rows.csv"}},
        "01J0000000000000000000000B": {"source": {"file": "s3://inputs/rows.csv"}},
        "01J0000000000000000000000C": {"source": {"count": 3}, "prompt": '"nightmill://inputs/'},
    }
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, before or "")
        columns = [column for column in Job.__table__.columns if column.name in {*values, "id", "spec"}]
        names = ", ".join(column.name for column in columns)
        marks = ", ".join(f":{column.name}" for column in columns)
        for job, spec in specs.items():
            row = {**values, "id": job, "spec": orjson.dumps(spec).decode()}
            connection.execute(text(f"INSERT INTO jobs ({names}) VALUES ({marks})"), row)  # noqa: S608 - our own names
    database.migrate(empty_database_url)
    with database.reading(engine) as connection:
        found = {row.id[-1]: (row.upload, row.swept) for row in connection.execute(select(*Job.__table__.columns))}
    engine.dispose()
    assert found == {"A": ("inputs/01J/", 0), "B": (None, 0), "C": (None, 0)}
