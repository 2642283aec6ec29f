"""Judges leases, and offers again what got lost on the way to a worker.

Time is the reaper's own monotonic clock: a lease is over when it has not been renewed for so long *as seen from here*,
whatever clocks workers have. But a renewal may still wait in the reports queue, because the control worker was away:
so a suspect is judged only after a probe, sent through the same queue after the suspicion, has come out at its other
end and the lease still stands as it stood. Where several control workers share the queue, one may have taken a renewal
off it and be slow, while another lets the probe overtake: so the lease has to stand still for some time more, in which
a worker that lives repeats what was not acknowledged, many times and to whoever takes it. To end no later for that,
suspicion begins before the lease is over. With the broker gone no probe comes out, and nothing expires; once it is
back, every lease has its whole time again.

In the same way a message is found that was lost before any worker had it: its shard is still dispatched though the
queue is empty, and a probe has come out since.

A lease that is over need not mean lost work: if the execution left a whole part, the shard is adopted.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection, Engine, Select, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from orchestrator import database, dispatch, reports
from orchestrator.lifecycle import SHARD_OUTSTANDING, ShardStatus
from orchestrator.safety_policy import NO_POLICY, SafetyPolicy
from orchestrator.tables import Probe, Shard
from workers.broker import BrokerError
from workers.contracts import Part, ShardTask
from workers.keys import part_key
from workers.records import BrokenPartError, read_part
from workers.store import MissingObjectError, ObjectStore

logger = logging.getLogger(__name__)
REPUBLISH_SECONDS = 5.0
"""How long a dispatched shard may go without a worker, while the queue is empty, before it is suspected to be lost."""
FORGET_PROBES_SECONDS = 86_400.0
SETTLE_SHARE = 0.25
"""Share of a lease that a suspect is watched for after its probe came out."""


class Queue(Protocol):
    """The broker as the reaper needs it: `workers.broker.Publisher`."""

    def shard(self, task: ShardTask) -> None:
        """Offer a shard."""
        ...

    def probe(self, reaper: str, value: int) -> None:
        """Send a probe through the reports queue."""
        ...


@dataclass(frozen=True, slots=True)
class Seen:
    """A shard that is outstanding, as SQL has it."""

    job: str
    number: int
    first: int
    count: int
    status: ShardStatus
    token: int
    execution: str | None
    sequence: int


@dataclass(slots=True)
class Watch:
    """What was seen of a shard, since when, and the probe that has to come through before it is judged."""

    seen: Seen
    since: float
    probe: int | None = None
    answered_at: float | None = None
    """When that probe was seen to have come through."""


class Reaper:
    """One scheduler's reaper.

    Args:
        name: Unlike that of any other reaper, ever.
        engine: The database.
        store: Where parts are looked for.
        queue: The broker.
        waiting_shards: Messages that wait for a generation worker.
        lease_seconds: How long an execution may be silent.
        clock: Seconds since the epoch.
        monotonic: Seconds that only grow; leases are judged by it.
        chance: Spreads backoff.
        policy: What no job may make.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        store: ObjectStore,
        queue: Queue,
        *,
        waiting_shards: Callable[[], int],
        lease_seconds: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        chance: random.Random,
        policy: SafetyPolicy = NO_POLICY,
    ) -> None:
        self._name = name
        self._engine = engine
        self._store = store
        self._queue = queue
        self._waiting_shards = waiting_shards
        self._lease_seconds = lease_seconds
        self._settle_seconds = lease_seconds * SETTLE_SHARE
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self._policy = policy
        self._watches: dict[tuple[str, int], Watch] = {}
        self._sent = 0
        self._sent_at = 0.0
        self._deaf = False
        """Whether the broker could not be reached at the last step."""

    def step(self) -> int:
        """Look at every outstanding shard once; returns how many were adopted, queued again, or offered again.

        Raises:
            BrokerError: Redis cannot be reached.
            StoreError: the store cannot be reached.
        """
        try:
            waiting = self._waiting_shards()
        except BrokerError:
            self._deaf = True
            raise
        now = self._monotonic()
        seen, answered = self._look()
        if self._deaf:
            # Nobody could renew anything, so everybody has a whole lease from now on.
            self._watches.clear()
            self._deaf = False
        self._remember(seen, now)
        silent = self._silent(ShardStatus.RUNNING, now, self._lease_seconds - self._settle_seconds)
        lost = [] if waiting else self._silent(ShardStatus.DISPATCHED, now, REPUBLISH_SECONDS)
        self._probe([*silent, *lost], answered, now)
        for watch in (*silent, *lost):
            if watch.answered_at is None and watch.probe is not None and watch.probe <= answered:
                watch.answered_at = now
        changed = 0
        for watch in silent:
            settled = watch.answered_at is not None and now - watch.answered_at >= self._settle_seconds
            if settled and now - watch.since >= self._lease_seconds:
                changed += self._judge(watch, now - watch.since)
        return changed + self._offer_again([watch for watch in lost if watch.answered_at is not None], now)

    def _silent(self, status: ShardStatus, now: float, seconds: float) -> list[Watch]:
        """Watches of shards that have stood still in a state for so long."""
        return [
            watch for watch in self._watches.values() if watch.seen.status is status and now - watch.since >= seconds
        ]

    def close(self) -> None:
        """Forget this reaper's probes, and those of reapers that are long gone."""
        oldest = self._clock() - FORGET_PROBES_SECONDS
        statement = delete(Probe).where((Probe.reaper == self._name) | (Probe.applied_at < oldest))
        database.write(self._engine, lambda connection: connection.execute(statement))

    def _look(self) -> tuple[Sequence[Seen], int]:
        with database.reading(self._engine) as connection:
            seen = [
                Seen(
                    job=row.job_id,
                    number=row.number,
                    first=row.first,
                    count=row.items,
                    status=ShardStatus(row.status),
                    token=row.token,
                    execution=row.execution,
                    sequence=row.sequence,
                )
                for row in connection.execute(outstanding_shards())
            ]
            answered = connection.execute(select(Probe.value).where(Probe.reaper == self._name)).scalar()
        return seen, answered or 0

    def _remember(self, seen: Sequence[Seen], now: float) -> None:
        """Keep the watches of shards that stand as they stood; begin anew where anything changed."""
        before = self._watches
        self._watches = {}
        for shard in seen:
            key = (shard.job, shard.number)
            watch = before.get(key)
            self._watches[key] = watch if watch is not None and watch.seen == shard else Watch(shard, now)

    def _probe(self, suspects: Sequence[Watch], answered: int, now: float) -> None:
        """Send a probe for new suspects; and another for old ones, where the last was lost with Redis."""
        unasked = [watch for watch in suspects if watch.probe is None]
        waits = any(watch.probe is not None and watch.probe > answered for watch in suspects)
        if not unasked and not (waits and now - self._sent_at >= min(REPUBLISH_SECONDS, self._lease_seconds)):
            return
        self._queue.probe(self._name, self._sent + 1)
        self._sent += 1
        self._sent_at = now
        for watch in unasked:
            watch.probe = self._sent

    def _judge(self, watch: Watch, silent_seconds: float) -> int:
        shard = watch.seen
        assert shard.execution is not None  # noqa: S101 - a running shard has one: the table's own constraint
        part = self._part(shard, shard.execution)
        if part is not None and reports.adopt(
            self._engine, shard.job, shard.number, part, execution=shard.execution, now=self._clock()
        ):
            logger.info("shard %s/%s: its worker fell silent, but left its part; adopted", shard.job, shard.number)
            return 1
        lost = reports.lose(
            self._engine,
            shard.job,
            shard.number,
            token=shard.token,
            execution=shard.execution,
            sequence=shard.sequence,
            silent_seconds=silent_seconds,
            now=self._clock(),
            chance=self._chance,
        )
        if lost:
            logger.warning(
                "shard %s/%s: execution %s was silent for %.0f s and is given up",
                shard.job,
                shard.number,
                shard.execution,
                silent_seconds,
            )
        return int(lost)

    def _part(self, shard: Seen, execution: str) -> Part | None:
        key = part_key(shard.job, shard.number, shard.token, execution)
        if self._store.head(key) is None:
            return None
        try:
            return read_part(key, self._store.get(key), first=shard.first, count=shard.count)
        except MissingObjectError:
            return None
        except BrokenPartError as error:
            logger.warning("a part is not adopted: %s", error)
            return None

    def _offer_again(self, lost: Sequence[Watch], now: float) -> int:
        """Publish again, by the same token, what no worker has taken though the queue is empty."""
        by_job: dict[str, list[Watch]] = {}
        for watch in lost:
            by_job.setdefault(watch.seen.job, []).append(watch)
        offered = 0
        for job_id, watches in by_job.items():
            with database.reading(self._engine) as connection:
                tasks = dispatch.tasks(connection, job_id, [watch.seen.number for watch in watches], self._policy)
            for task in tasks:
                self._queue.shard(task)
            for watch in watches:
                self._watches[job_id, watch.seen.number] = Watch(watch.seen, now)
            offered += len(tasks)
            logger.info("job %s: %d dispatched shards had no message any more; offered again", job_id, len(tasks))
        return offered


def outstanding_shards() -> Select[str, int, int, int, str, int, str | None, int]:
    """Every shard that is dispatched or runs."""
    return select(
        Shard.job_id,
        Shard.number,
        Shard.first,
        Shard.count.label("items"),  # a row has a method `count`
        Shard.status,
        Shard.token,
        Shard.execution,
        Shard.sequence,
    ).where(Shard.status.in_([status.value for status in sorted(SHARD_OUTSTANDING)]))


def apply_probe(engine: Engine, reaper: str, value: int, *, now: float) -> None:
    """Note that a probe came out of the reports queue. The highest one counts, whatever their order."""

    def work(connection: Connection) -> None:
        grown = update(Probe).where(Probe.reaper == reaper, Probe.value < value).values(value=value, applied_at=now)
        if connection.execute(grown).rowcount == 0:
            known = connection.execute(select(Probe.value).where(Probe.reaper == reaper)).first()
            if known is None:
                connection.execute(insert(Probe).values(reaper=reaper, value=value, applied_at=now))

    try:
        database.write(engine, work)
    except IntegrityError:
        # Another control worker noted this reaper's first probe meanwhile, so now there is one that can grow.
        database.write(engine, work)
