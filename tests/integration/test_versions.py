"""Control workers beside processes of a version to come, on a real Redis."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import orjson
import pytest
import redis

from orchestrator import database
from tests.support.clocks import ManualClock
from tests.support.eventually import eventually
from tests.support.processes import running
from tests.support.shards import execution_id, planned_job, report, shard_row, take
from workers.broker import Hints, Publisher
from workers.contracts import GENERATE_QUEUE, REPORTS_QUEUE, WIRE_VERSION, ShardReport, ShardTask, encode


def as_written_later(message: ShardReport | ShardTask) -> str:
    later = {**msgspec.json.decode(encode(message)), "version": WIRE_VERSION + 1, "nobody": "knows"}
    return msgspec.json.encode(later).decode()


def waiting(redis_url: str, queue: str) -> list[tuple[Any, int]]:
    """Arguments of the messages in a queue, and how often each was put back."""
    with redis.Redis.from_url(redis_url) as client:
        messages = [orjson.loads(text) for text in client.lrange(queue, 0, -1)]
    return [(orjson.loads(base64.b64decode(message["body"]))[0], message["headers"]["retries"]) for message in messages]


def test_reports_that_cannot_be_read_go_back_and_are_not_acknowledged(
    sqlite_url: str, folder_url: str, redis_url: str, clock: ManualClock
) -> None:
    engine = database.connect(sqlite_url)
    job = planned_job(engine, clock, shards=2)
    first, second = take(engine, job, clock)
    one, two = execution_id(), execution_id()
    later = as_written_later(report(second, "started", two))
    publisher, hints = Publisher(redis_url), Hints(redis_url)
    environment = {
        "NIGHTMILL_DATABASE_URL": sqlite_url,
        "NIGHTMILL_STORE_URL": folder_url,
        "NIGHTMILL_REDIS_URL": redis_url,
    }
    try:
        with running("orchestrator.control", environment) as control:
            publisher.put_back_reports([later, encode(report(first, "started", one))], 0)
            eventually(lambda: hints.directives([one]), what="the report that can be read is acknowledged")
            assert control.end() == 0
        assert shard_row(engine, job, first.shard).status == "running"
        assert shard_row(engine, job, second.shard).status == "dispatched"
        assert hints.directives([two]) == {}
        [(arguments, returns)] = waiting(redis_url, REPORTS_QUEUE)
        assert arguments == [[later]]
        assert returns >= 1
    finally:
        publisher.close()
        hints.close()
        engine.dispose()


@pytest.mark.parametrize("returns", [1, 7])
def test_a_shard_that_is_put_back_stays_as_it_came(
    sqlite_url: str, redis_url: str, clock: ManualClock, returns: int
) -> None:
    engine = database.connect(sqlite_url)
    [task, *_] = take(engine, planned_job(engine, clock), clock)
    engine.dispose()
    later = as_written_later(task)
    publisher = Publisher(redis_url)
    try:
        publisher.put_back_shard([later], returns)
    finally:
        publisher.close()
    assert waiting(redis_url, GENERATE_QUEUE) == [([later], returns)]
