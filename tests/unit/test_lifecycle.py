"""Every pair of states, the forbidden ones too, and what is done about each kind of failure."""

from __future__ import annotations

import itertools
import random

import pytest

from models.errors import FailureKind
from orchestrator import lifecycle
from orchestrator.lifecycle import Decision, IllegalTransitionError, JobStatus, ShardStatus, Verdict

# Written out a second time, by hand, so that a slip in the table shows.
ALLOWED_JOB = {
    ("validating", "in_progress"),
    ("validating", "failed"),
    ("validating", "cancelling"),
    ("validating", "finalizing"),
    ("in_progress", "paused"),
    ("in_progress", "finalizing"),
    ("in_progress", "cancelling"),
    ("paused", "in_progress"),
    ("paused", "finalizing"),
    ("paused", "cancelling"),
    ("finalizing", "completed"),
    ("finalizing", "failed"),
    ("finalizing", "expired"),
    ("cancelling", "cancelled"),
    ("completed", "in_progress"),
    ("failed", "in_progress"),
    ("expired", "in_progress"),
}
ALLOWED_SHARD = {
    ("queued", "dispatched"),
    ("queued", "done"),
    ("queued", "failed"),
    ("queued", "cancelled"),
    ("queued", "expired"),
    ("dispatched", "running"),
    ("dispatched", "done"),
    ("dispatched", "failed"),
    ("dispatched", "cancelled"),
    ("dispatched", "expired"),
    ("running", "queued"),
    ("running", "done"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("running", "expired"),
    ("done", "queued"),
    ("failed", "queued"),
    ("failed", "done"),
    ("expired", "queued"),
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(JobStatus, JobStatus)))
def test_each_pair_of_job_states(old: JobStatus, new: JobStatus) -> None:
    if (old.value, new.value) in ALLOWED_JOB:
        lifecycle.check_job(old, new)
        assert new in lifecycle.JOB_TRANSITIONS[old]
    else:
        with pytest.raises(IllegalTransitionError, match=f"job never goes from {old} to {new}"):
            lifecycle.check_job(old, new)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(ShardStatus, ShardStatus)))
def test_each_pair_of_shard_states(old: ShardStatus, new: ShardStatus) -> None:
    if (old.value, new.value) in ALLOWED_SHARD:
        lifecycle.check_shard(old, new)
        assert new in lifecycle.SHARD_TRANSITIONS[old]
    else:
        with pytest.raises(IllegalTransitionError, match=f"shard never goes from {old} to {new}"):
            lifecycle.check_shard(old, new)


def test_every_state_reaches_a_terminal_one() -> None:
    for start in JobStatus:
        seen = {start}
        todo = [start]
        while todo:
            for following in lifecycle.JOB_TRANSITIONS[todo.pop()] - seen:
                seen.add(following)
                todo.append(following)
        assert seen & lifecycle.JOB_TERMINAL


def test_groups_of_shard_states_cover_all_once() -> None:
    assert lifecycle.SHARD_OPEN | lifecycle.SHARD_UNRUN | {ShardStatus.DONE} == set(ShardStatus)
    assert not lifecycle.SHARD_OPEN & lifecycle.SHARD_UNRUN
    assert lifecycle.SHARD_OUTSTANDING < lifecycle.SHARD_OPEN


def test_each_kind_of_failure_has_a_rule() -> None:
    assert set(lifecycle.RETRY_RULES) == set(FailureKind)


def judge(kind: FailureKind, *, failures: int = 0, losses: int = 0, attempts: int = 1) -> Decision:
    return lifecycle.decide(kind, failures=failures, losses=losses, attempts=attempts, chance=random.Random(1))


def test_a_fault_of_the_model_fails_the_job_at_once() -> None:
    assert judge(FailureKind.MODEL).verdict is Verdict.FAIL_JOB


def test_input_that_cannot_be_read_gives_the_shard_up_at_once() -> None:
    assert judge(FailureKind.ITEM) == Decision(Verdict.GIVE_UP, failures=1, losses=0)


@pytest.mark.parametrize(
    ("alone", "items", "verdict"),
    [
        (False, 8, Verdict.ALONE),
        (False, 1, Verdict.ALONE),
        (True, 8, Verdict.SPLIT),
        (True, 2, Verdict.SPLIT),
        (True, 1, Verdict.GIVE_UP),
    ],
)
def test_what_breaks_an_engine_is_searched_for(alone: bool, items: int, verdict: Verdict) -> None:
    decision = lifecycle.decide(
        FailureKind.ENGINE, failures=1, losses=9, attempts=2, chance=random.Random(1), alone=alone, items=items
    )
    assert (decision.verdict, decision.failures, decision.losses) == (verdict, 2, 9)


def test_a_lost_worker_says_nothing_about_the_shard() -> None:
    decision = lifecycle.decide(
        FailureKind.PLATFORM, failures=0, losses=0, attempts=1, chance=random.Random(1), alone=True, items=8
    )
    assert decision.verdict is Verdict.AGAIN


@pytest.mark.parametrize(("losses", "verdict"), [(0, Verdict.AGAIN), (8, Verdict.AGAIN), (9, Verdict.GIVE_UP)])
def test_losses_are_counted_apart_and_bounded_at_ten(losses: int, verdict: Verdict) -> None:
    decision = judge(FailureKind.PLATFORM, failures=2, losses=losses)
    assert (decision.verdict, decision.failures, decision.losses) == (verdict, 2, losses + 1)


def test_attempts_bound_what_no_other_counter_does() -> None:
    assert judge(FailureKind.PLATFORM, attempts=lifecycle.MAX_ATTEMPTS).verdict is Verdict.GIVE_UP


def test_backoff_has_full_jitter_and_doubles_up_to_its_cap() -> None:
    chance = random.Random(7)
    for losses, longest in ((0, 0.5), (1, 1.0), (4, 8.0), (8, 60.0)):
        delays = [
            lifecycle.decide(FailureKind.PLATFORM, failures=0, losses=losses, attempts=1, chance=chance).delay_seconds
            for _ in range(400)
        ]
        assert max(delays) <= longest
        assert max(delays) > 0.9 * longest
        assert min(delays) < 0.1 * longest
