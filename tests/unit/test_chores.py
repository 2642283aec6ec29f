"""A chore survives what may pass, says so once, and dies of bugs."""

from __future__ import annotations

import logging

import psycopg
import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from orchestrator.chores import LONGEST_SECONDS, Chore
from tests.support.clocks import ManualClock
from workers.broker import BrokerError
from workers.store import StoreError

AWAY = [
    BrokerError("Redis is away"),
    StoreError("the bucket is away"),
    OperationalError("SELECT 1", None, psycopg.OperationalError("the server closed the connection")),
]


class Step:
    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    def __call__(self) -> int:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return 1


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
def test_a_chore_rests_with_growing_pauses_and_says_so_once(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    clock, step = ManualClock(0.0), Step()
    chore = Chore("dispatcher", step, clock=clock)
    step.error = error
    pauses = []
    with caplog.at_level(logging.WARNING):
        for _ in range(8):
            assert not chore.run()
            calls, before = step.calls, clock()
            while step.calls == calls:
                clock.advance(0.25)
                chore.run()
            pauses.append(clock() - before)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "dispatcher: rests" in caplog.text
        step.error = None
        clock.advance(LONGEST_SECONDS)
        assert chore.run()
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_SECONDS
    assert caplog.messages[-1] == "dispatcher: goes on"


@pytest.mark.parametrize(
    "bug", [ValueError("oh"), IntegrityError("INSERT", None, psycopg.errors.UniqueViolation("twice"))]
)
def test_a_bug_is_raised(bug: Exception) -> None:
    step = Step()
    step.error = bug
    with pytest.raises(type(bug)):
        Chore("planner", step, clock=ManualClock()).run()


def test_a_chore_keeps_its_interval() -> None:
    clock, step = ManualClock(0.0), Step()
    chore = Chore("reaper", step, clock=clock, every=1.0)
    assert [chore.run(), chore.run()] == [True, False]
    clock.advance(1.0)
    assert chore.run()
    assert step.calls == 2
