"""Plans submitted jobs: claims one, reads its source once, commits its shards, and opens it for dispatch.

What is wrong with the source fails the job, with file, line and field, and leaves nothing behind.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import msgspec
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from ulid import ULID

from models.errors import UnknownModelError
from orchestrator import claims, database, parents, speeds
from orchestrator.claims import NewShard, Waiting
from orchestrator.finalize import staged_prefix
from orchestrator.jobs import Jobs, UnknownJobError
from orchestrator.model_catalog import TrainedModels
from orchestrator.parents import Parent, find_parent
from orchestrator.planning import PlannedShard, PlanSummary, Staging, parent_rows, plan, training_rows
from orchestrator.source_files import open_source
from orchestrator.spec import JobSpec, Source
from orchestrator.spec_error import SpecError
from orchestrator.static_checks import adapter_versions, check_table, may_be_trained
from orchestrator.training_source import pin_data
from orchestrator.views import JobError
from workers.contracts import TableWork
from workers.store import ObjectStore, StoreError, delete_prefix

logger = logging.getLogger(__name__)
SILENT_SECONDS = 15.0
"""A planner whose beat stands still for so long is gone, and its job is taken over."""
BEAT_SECONDS = 2.0
TRIES = 7
"""How often a source is read that cannot be reached, before its job fails: a store may be away for a minute."""
LONGEST_REST = 32.0


class _ClaimLostError(Exception):
    """The job was cancelled, expired, or taken over; or this process is to end."""


@dataclass(slots=True)
class _Watch:
    """A job that another planner has, as it was last seen to change."""

    seen: Waiting
    since: float


@dataclass(slots=True)
class _Trouble:
    """A job whose source could not be reached."""

    tries: int
    not_before: float


class Planner:
    """One thread's planner.

    Args:
        engine: The database.
        store: Nightmill's own.
        wake: Called when a job can be dispatched.
        stop: Set when the process is to end; a job in planning is then given back.
        clock: Seconds since the epoch.
        monotonic: Seconds that only grow.
    """

    def __init__(
        self,
        engine: Engine,
        store: ObjectStore,
        *,
        wake: Callable[[], None],
        stop: threading.Event,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._store = store
        self._jobs = Jobs(engine, clock)
        self._wake = wake
        self._stop = stop
        self._clock = clock
        self._monotonic = monotonic
        self._owner = str(ULID())
        self._watches: dict[str, _Watch] = {}
        self._troubles: dict[str, _Trouble] = {}

    def step(self) -> bool:
        """Plan the first job that nobody plans; False where there is none.

        Raises:
            DBAPIError: the database failed.
        """
        now = self._monotonic()
        waiting = claims.waiting(self._engine)
        self._troubles = {seen.job: self._troubles[seen.job] for seen in waiting if seen.job in self._troubles}
        self._watches = {seen.job: self._watch(seen, now) for seen in waiting}
        for seen in waiting:
            trouble = self._troubles.get(seen.job)
            if trouble is not None and now < trouble.not_before:
                continue
            silent = now - self._watches[seen.job].since >= SILENT_SECONDS
            if (seen.planner is None or silent) and claims.claim(self._engine, seen, self._owner):
                if seen.planner is not None:
                    logger.warning("job %s: its planner fell silent; planning begins anew", seen.job)
                self._plan(seen)
                return True
        return False

    def _watch(self, seen: Waiting, now: float) -> _Watch:
        watch = self._watches.get(seen.job)
        return watch if watch is not None and watch.seen == seen else _Watch(seen, now)

    def _plan(self, seen: Waiting) -> None:
        job_id = seen.job
        # A prefix of this try alone: a planner that was taken over may still be writing.
        staging = Staging(self._store, f"{staged_prefix(job_id)}{ULID()}")
        try:
            with Heartbeat(self._engine, job_id, self._owner) as heart:
                self._read(job_id, staging, heart)
        except SpecError as error:
            self._fail(job_id, JobError(error.code, error.message, error.param, error.file, error.line))
        except StoreError as error:
            self._unreachable(job_id, error)
        except (_ClaimLostError, UnknownJobError):
            logger.info("job %s: planning ended early", job_id)
            if self._stop.is_set():
                claims.release(self._engine, job_id, self._owner)
        except DBAPIError:
            # The claim stays, and runs out by itself: the database may not hear us say otherwise.
            raise
        except Exception as error:
            # A bug. It fails this job, or the next planner would fall over it as well, and the next.
            self._fail(job_id, JobError("internal_error", f"planning failed: {type(error).__name__}: {error}"))
            raise
        else:
            self._wake()
            if seen.planner is not None:
                self._sweep(job_id, staging.prefix)
            return
        delete_prefix(self._store, f"{staging.prefix}/")

    def _read(self, job_id: str, staging: Staging, heart: Heartbeat) -> None:
        spec = self._jobs.spec(job_id)
        waiting: list[NewShard] = []

        def take(shards: list[PlannedShard]) -> None:
            if self._stop.is_set() or heart.lost:
                raise _ClaimLostError
            # The last batch is kept: it is committed together with the job's change of status.
            if waiting and not claims.add_shards(self._engine, job_id, self._owner, waiting):
                raise _ClaimLostError
            waiting[:] = [_new(shard) for shard in shards]

        size = speeds.prepare(self._engine, job_id, spec)
        etag = pin_data(spec, self._store)
        model = self._pinned_model(spec)
        adapters = adapter_versions(spec, TrainedModels(self._engine, self._store).find_adapter)
        rows = training_rows(spec, self._store, staging)
        of_parent = parent_rows(spec, self._store, staging)
        parent = self._parent(job_id, spec)
        if parent is not None:
            spec = spec.model_copy(update={"source": Source(count=parent.blocks_of(spec))})
        source = open_source(spec, self._store)
        summary: PlanSummary = plan(spec, source, staging, on_shards=take, items_per_shard=size)
        finished = claims.finish(
            self._engine,
            job_id,
            self._owner,
            work=msgspec.json.encode(
                spec.work(
                    summary.custom_id,
                    model=model,
                    etag=etag,
                    rows=rows,
                    parent_rows=of_parent,
                    subjects=None if parent is None else self._subjects(spec, parent, staging),
                    adapters=adapters,
                )
            ).decode(),
            items=summary.items,
            shard_count=summary.shards,
            last=waiting,
            now=self._clock(),
        )
        if not finished:
            raise _ClaimLostError
        logger.info("job %s: %d items in %d shards", job_id, summary.items, summary.shards)

    def _parent(self, job_id: str, spec: JobSpec) -> Parent | None:
        """The job whose rows are the subjects of a linked table."""
        find_table = TrainedModels(self._engine, self._store).find_table
        return find_parent(self._engine, spec, self._jobs.tenant(job_id), find_table)

    def _subjects(self, spec: JobSpec, parent: Parent, staging: Staging) -> TableWork | None:
        return None if spec.table is None else spec.table.work(parents.parent_rows(self._engine, parent, staging))

    def _pinned_model(self, spec: JobSpec) -> str | None:
        """The version of a trained model that a job means: it stays, whatever is trained later."""
        trained = TrainedModels(self._engine, self._store)
        try:
            if spec.kind == "tabular":
                found = check_table(spec, trained.find_table)
                return None if found is None else found.id
            return trained.find(spec.model).id if may_be_trained(spec) else None
        except UnknownModelError as error:
            raise SpecError(f"model: {error.message}", param="model", code=error.code) from error

    def _fail(self, job_id: str, error: JobError) -> None:
        if claims.fail(self._engine, job_id, self._owner, error, now=self._clock()):
            logger.info("job %s failed: %s", job_id, error.message)

    def _unreachable(self, job_id: str, error: StoreError) -> None:
        trouble = self._troubles.setdefault(job_id, _Trouble(0, 0.0))
        trouble.tries += 1
        if trouble.tries >= TRIES:
            self._fail(job_id, JobError("source_unreachable", str(error), "source.file"))
            return
        trouble.not_before = self._monotonic() + min(LONGEST_REST, 2.0**trouble.tries)
        logger.warning("job %s: planning is tried again: %s", job_id, error)
        claims.release(self._engine, job_id, self._owner)

    def _sweep(self, job_id: str, own: str) -> None:
        """Delete what earlier tries staged, those that were taken over."""
        for key in list(self._store.list(staged_prefix(job_id))):
            if not key.startswith(f"{own}/"):
                self._store.delete(key)


class Heartbeat:
    """Keeps a claim alive from a thread of its own, however long the source takes to read."""

    def __init__(self, engine: Engine, job_id: str, owner: str) -> None:
        self.lost = False
        """The claim is somebody else's, or gone."""
        self._engine = engine
        self._job_id = job_id
        self._owner = owner
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"plan-{job_id}", daemon=True)

    def __enter__(self) -> Self:
        """Begin to beat."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the beat."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            try:
                if not claims.beat(self._engine, self._job_id, self._owner):
                    self.lost = True
                    return
            except DBAPIError as error:
                # Whoever plans meets the same trouble, and says so; the next beat may come through.
                logger.debug("a beat was lost: %s", database.first_line(error))


def _new(shard: PlannedShard) -> NewShard:
    source = msgspec.json.encode(shard.source).decode()
    return NewShard(number=shard.number, first=shard.first, count=shard.count, source=source)
