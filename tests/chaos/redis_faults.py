"""Faults of Redis: emptied, away, and messages that come twice."""

from __future__ import annotations

import random
import threading
import time

import redis

from tests.chaos.fault import StrikeAt
from tests.chaos.moments import Moment, reached
from tests.chaos.run import Run
from tests.chaos.verdict import Strike
from workers.contracts import GENERATE_QUEUE, REPORTS_QUEUE


def restart(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """Redis dies and comes back empty."""
    with reached(moment, run, chance):
        now = time.time()
        if run.stand.place == "embedded":
            run.stand.kill("redis", run.stand.pids("redis"))
        else:
            run.stand.given.redis.stop()
            run.stand.given.redis.start()
            run.stand.given.broker.reset()
    return Strike(now, time.time())


def flush(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """Somebody calls FLUSHALL."""
    with reached(moment, run, chance), _redis(run) as client:
        now = time.time()
        client.flushall()
    return Strike(now, now)


def unreachable(seconds: float) -> StrikeAt:
    """A fault that keeps Redis away: connections are refused, or nothing comes through them."""

    def strike(run: Run, moment: Moment, chance: random.Random) -> Strike:
        with reached(moment, run, chance):
            broker = run.stand.given.broker
            now = time.time()
            how = chance.choice((broker.cut, broker.stall))
            how()
            threading.Event().wait(seconds)
            broker.restore()
            broker.reset()
        return Strike(now, time.time(), said=how.__name__)

    return strike


def twice(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """Every message that waits, to workers and from them, is there twice."""
    with reached(moment, run, chance), _redis(run) as client:
        now = time.time()
        doubled = _double(client, GENERATE_QUEUE)
        with run.stand.stopped("control"):
            threading.Event().wait(0.7)
            doubled += _double(client, REPORTS_QUEUE)
    return Strike(now, time.time(), said=f"{doubled} messages")


def delivered_again(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """Shards are offered again while they run, as by a visibility timeout that is shorter than a shard takes."""
    with reached(moment, run, chance), _redis(run) as client:
        now = time.time()
        again: list[bytes] = []
        while time.time() < now + 3.0:
            again += [message for message in _waiting(client, GENERATE_QUEUE) if message not in again]
            threading.Event().wait(0.05)
        if again:
            client.rpush(GENERATE_QUEUE, *again)
    return Strike(now, time.time(), said=f"{len(again)} messages")


def _redis(run: Run) -> redis.Redis:
    return redis.Redis(host="127.0.0.1", port=run.stand.given.redis.port)


def _waiting(client: redis.Redis, queue: str) -> list[bytes]:
    found: list[bytes] = client.lrange(queue, 0, -1)
    return found


def _double(client: redis.Redis, queue: str) -> int:
    messages = _waiting(client, queue)
    if messages:
        client.rpush(queue, *messages)
    return len(messages)
