"""What a job and a shard can be, what may become what, and what is done about a failure. Pure: no SQL, no clock.

The tables below are the only place that says so. `orchestrator.guards` refuses a write that they do not allow.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from models.errors import FailureKind


class IllegalTransitionError(Exception):
    """Code tried to make a change of state that the transition tables do not have: a bug, never bad luck."""

    def __init__(self, what: str, old: StrEnum, new: StrEnum) -> None:
        super().__init__(f"a {what} never goes from {old.value} to {new.value}")
        self.old = old
        self.new = new


class JobStatus(StrEnum):
    """Where a job stands."""

    VALIDATING = "validating"
    """Accepted; its source is being read and cut into shards."""
    IN_PROGRESS = "in_progress"
    """Planned whole: its shards can be dispatched."""
    PAUSED = "paused"
    """As in progress, but nothing more is dispatched. What runs already goes on."""
    FINALIZING = "finalizing"
    """No shard is open any more; the manifest is being written."""
    COMPLETED = "completed"
    """Every item was tried. Some may have failed: the counts say so."""
    FAILED = "failed"
    """It could not start, or could not go on: `error` says why. Finished results are kept."""
    EXPIRED = "expired"
    """Its deadline passed. Finished results are kept."""
    CANCELLING = "cancelling"
    """Cancelled; shards that run have been told to stop."""
    CANCELLED = "cancelled"
    """Cancelled, and nothing runs any more. Finished results are kept."""


class ShardStatus(StrEnum):
    """Where a shard stands."""

    QUEUED = "queued"
    """To be dispatched, once its `available_at` has come."""
    DISPATCHED = "dispatched"
    """Committed as handed to the broker; no execution owns it yet."""
    RUNNING = "running"
    """One execution owns it and holds its lease."""
    DONE = "done"
    """A part holds a record for each of its items."""
    FAILED = "failed"
    """It failed or was lost too often; its items failed with the shard's error."""
    CANCELLED = "cancelled"
    """Its items were never run, or not to their end, because the job was cancelled."""
    EXPIRED = "expired"
    """Its items were never run, or not to their end, before the deadline."""


JOB_TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.VALIDATING: frozenset(
        {JobStatus.IN_PROGRESS, JobStatus.FAILED, JobStatus.CANCELLING, JobStatus.FINALIZING}
    ),
    JobStatus.IN_PROGRESS: frozenset({JobStatus.PAUSED, JobStatus.FINALIZING, JobStatus.CANCELLING}),
    JobStatus.PAUSED: frozenset({JobStatus.IN_PROGRESS, JobStatus.FINALIZING, JobStatus.CANCELLING}),
    JobStatus.FINALIZING: frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.EXPIRED}),
    JobStatus.CANCELLING: frozenset({JobStatus.CANCELLED}),
    # A retry takes these back.
    JobStatus.COMPLETED: frozenset({JobStatus.IN_PROGRESS}),
    JobStatus.FAILED: frozenset({JobStatus.IN_PROGRESS}),
    JobStatus.EXPIRED: frozenset({JobStatus.IN_PROGRESS}),
    JobStatus.CANCELLED: frozenset(),
}

SHARD_TRANSITIONS: Mapping[ShardStatus, frozenset[ShardStatus]] = {
    # An open shard can become done from anywhere: the first complete part wins, whichever attempt wrote it, and a
    # shard that was to be run again falls back to the part that it already has.
    ShardStatus.QUEUED: frozenset(
        {
            ShardStatus.DISPATCHED,
            ShardStatus.DONE,
            ShardStatus.FAILED,
            ShardStatus.CANCELLED,
            ShardStatus.EXPIRED,
        }
    ),
    ShardStatus.DISPATCHED: frozenset(
        {ShardStatus.RUNNING, ShardStatus.DONE, ShardStatus.FAILED, ShardStatus.CANCELLED, ShardStatus.EXPIRED}
    ),
    ShardStatus.RUNNING: frozenset(
        {ShardStatus.QUEUED, ShardStatus.DONE, ShardStatus.FAILED, ShardStatus.CANCELLED, ShardStatus.EXPIRED}
    ),
    # A retry of the items that failed.
    ShardStatus.DONE: frozenset({ShardStatus.QUEUED}),
    # A retry, or the part of an execution that had been given up.
    ShardStatus.FAILED: frozenset({ShardStatus.QUEUED, ShardStatus.DONE}),
    ShardStatus.EXPIRED: frozenset({ShardStatus.QUEUED}),
    ShardStatus.CANCELLED: frozenset(),
}

JOB_TERMINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.EXPIRED, JobStatus.CANCELLED})
JOB_LIVE = frozenset({JobStatus.IN_PROGRESS, JobStatus.PAUSED})
"""The job still wants the results of shards that it has open."""
JOB_RETRYABLE = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.EXPIRED})
SHARD_OPEN = frozenset({ShardStatus.QUEUED, ShardStatus.DISPATCHED, ShardStatus.RUNNING})
SHARD_WAITING = frozenset({ShardStatus.QUEUED, ShardStatus.DISPATCHED})
SHARD_OUTSTANDING = frozenset({ShardStatus.DISPATCHED, ShardStatus.RUNNING})
SHARD_UNRUN = frozenset({ShardStatus.FAILED, ShardStatus.CANCELLED, ShardStatus.EXPIRED})
"""Terminal without a whole part: the records of items that are in none are spelt out when they are read."""


def check_job(old: JobStatus, new: JobStatus) -> None:
    """Raise IllegalTransitionError unless a job may go from `old` to `new`."""
    if new not in JOB_TRANSITIONS[old]:
        raise IllegalTransitionError("job", old, new)


def check_shard(old: ShardStatus, new: ShardStatus) -> None:
    """Raise IllegalTransitionError unless a shard may go from `old` to `new`."""
    if new not in SHARD_TRANSITIONS[old]:
        raise IllegalTransitionError("shard", old, new)


class Verdict(StrEnum):
    """What follows when an execution ends without a whole part."""

    AGAIN = "again"
    """Back to the queue, after the backoff."""
    ALONE = "alone"
    """The same, and the next time nothing else is in the engine beside it."""
    SPLIT = "split"
    """Back to the queue in two halves, each to be run alone."""
    GIVE_UP = "give_up"
    """The shard fails; the job goes on without it."""
    FAIL_JOB = "fail_job"
    """No shard of this job can ever be finished."""


@dataclass(frozen=True, slots=True)
class RetryRule:
    """What one kind of failure costs a shard."""

    verdict: Verdict
    """As long as the bound is not reached. ALONE becomes SPLIT for a shard that was alone when it failed."""
    counts_as: str
    """The counter that it raises: `failures` or `losses`."""
    bound: int
    """The shard is given up when the counter reaches this."""
    base_seconds: float
    """Longest backoff of the first try again; it doubles with each."""
    cap_seconds: float
    """Backoff never exceeds this."""


MAX_FAILURES = 100
"""No shard is split so often: what ends the search for what breaks an engine is a shard of one item."""
MAX_LOSSES = 10
LONGEST_BACKOFF = 60.0
"""Seconds that a shard waits before it is tried again, at the most."""
MAX_BREAKS_IN_A_ROW = 20
"""An engine that breaks so often under shards of a job that are alone in it, with none done in between, is at fault
itself: more than it takes to find one item among a million. The rest of the job fails."""
MAX_BREAKS = 500
"""In all, under shards that are alone: each costs a restart of the engine."""
MAX_ATTEMPTS = 100
"""Bounds what no other counter does: shards that workers take and hand back, again and again."""

RETRY_RULES: Mapping[FailureKind, RetryRule] = {
    # A whole shard can fail like an item where its input cannot be read any more: trying again reads the same.
    FailureKind.ITEM: RetryRule(Verdict.GIVE_UP, "failures", 1, 0.0, 0.0),
    FailureKind.MODEL: RetryRule(Verdict.FAIL_JOB, "failures", 1, 0.0, 0.0),
    # Some item of some shard that was in the engine did it, or none: a shard that fails alone is to blame, and is
    # halved until the item is found.
    FailureKind.ENGINE: RetryRule(Verdict.ALONE, "failures", MAX_FAILURES, 0.5, 2.0),
    FailureKind.PLATFORM: RetryRule(Verdict.AGAIN, "losses", MAX_LOSSES, 0.5, LONGEST_BACKOFF),
}


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done about one failure."""

    verdict: Verdict
    failures: int
    losses: int
    delay_seconds: float = 0.0


def decide(
    kind: FailureKind,
    *,
    failures: int,
    losses: int,
    attempts: int,
    chance: random.Random,
    alone: bool = False,
    items: int = 2,
) -> Decision:
    """Judge a failure of a shard of `items` items that has `failures` and `losses` behind it, in `attempts` executions.

    `alone`: nothing else was in the engine when it failed. Finding one bad item among the n of all shards that were in
    an engine takes at most log2(n) + 2 restarts of it: one for all together, one for its shard alone, and one for each
    halving of that.

    Backoff is exponential with full jitter ("Exponential Backoff and Jitter", AWS Architecture Blog, 2015): shards
    that fell together do not come back together.
    """
    rule = RETRY_RULES[kind]
    if rule.counts_as == "failures":
        failures += 1
        tries = failures
    else:
        losses += 1
        tries = losses
    verdict = rule.verdict
    if verdict is Verdict.ALONE and alone:
        verdict = Verdict.SPLIT if items > 1 else Verdict.GIVE_UP
    if verdict not in {Verdict.AGAIN, Verdict.ALONE, Verdict.SPLIT}:
        return Decision(verdict, failures, losses)
    if tries >= rule.bound or attempts >= MAX_ATTEMPTS:
        return Decision(Verdict.GIVE_UP, failures, losses)
    longest = min(rule.cap_seconds, rule.base_seconds * 2 ** (tries - 1))
    return Decision(verdict, failures, losses, chance.uniform(0.0, longest))
