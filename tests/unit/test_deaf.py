"""A worker that takes nothing while messages wait is found; one that is busy or has no broker is left alone."""

from __future__ import annotations

import threading

import pytest

from tests.support.clocks import ManualClock
from workers.broker import BrokerError
from workers.deaf import DEAF_SECONDS, QueueWatch


class Queue:
    """A queue of which only the length is known."""

    def __init__(self) -> None:
        self.waiting = 0
        self.away = False

    def __call__(self) -> int:
        if self.away:
            raise BrokerError("Redis is away")
        return self.waiting


def watch(queue: Queue, clock: ManualClock, places: int = 2) -> QueueWatch:
    return QueueWatch(queue, places=places, end=lambda: pytest.fail("it was ended"), clock=clock)


def look_for(watching: QueueWatch, clock: ManualClock, seconds: float) -> bool:
    """Whether it is found within so many seconds, with a look every second."""
    for _ in range(int(seconds)):
        clock.advance(1.0)
        if watching.is_deaf():
            return True
    return False


def test_messages_that_wait_for_long_before_a_free_place_are_noticed() -> None:
    queue, clock = Queue(), ManualClock(0.0)
    watching = watch(queue, clock)
    watching.began()
    queue.waiting = 3
    assert not look_for(watching, clock, DEAF_SECONDS)
    assert look_for(watching, clock, 2.0)


def test_a_queue_without_messages_says_nothing() -> None:
    queue, clock = Queue(), ManualClock(0.0)
    watching = watch(queue, clock)
    assert not look_for(watching, clock, 10 * DEAF_SECONDS)
    queue.waiting = 1  # the time counts from here
    assert not look_for(watching, clock, DEAF_SECONDS)


def test_a_worker_whose_places_are_taken_is_busy() -> None:
    queue, clock = Queue(), ManualClock(0.0)
    watching = watch(queue, clock)
    queue.waiting = 5
    watching.began()
    watching.began()
    assert not look_for(watching, clock, 10 * DEAF_SECONDS)
    watching.ended()
    assert look_for(watching, clock, DEAF_SECONDS + 2)


def test_whoever_takes_a_message_now_and_then_hears() -> None:
    queue, clock = Queue(), ManualClock(0.0)
    watching = watch(queue, clock)
    queue.waiting = 5
    for _ in range(10):
        assert not look_for(watching, clock, DEAF_SECONDS - 1)
        watching.began()
        watching.ended()


def test_nobody_is_deaf_while_the_broker_is_away() -> None:
    queue, clock = Queue(), ManualClock(0.0)
    watching = watch(queue, clock)
    queue.waiting, queue.away = 5, True
    assert not look_for(watching, clock, 10 * DEAF_SECONDS)
    queue.away = False
    assert not look_for(watching, clock, DEAF_SECONDS)
    assert look_for(watching, clock, 2.0)


def test_the_process_is_ended_once() -> None:
    ended = threading.Event()
    queue, clock = Queue(), ManualClock(0.0)
    queue.waiting = 1
    watching = QueueWatch(queue, places=1, end=ended.set, clock=clock)
    clock.advance(DEAF_SECONDS + 1)
    watching.watch()
    assert ended.is_set()
