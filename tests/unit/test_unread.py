"""Messages of another version are put back for somebody else, after a pause and not for ever."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec
import pytest

from orchestrator.control import read_reports
from tests.support.eventually import eventually
from workers import unread
from workers.broker import BrokerError
from workers.contracts import WIRE_VERSION, CountRange, ShardReport, ShardTask, Work, encode
from workers.tasks import read_shard
from workers.unread import MAX_RETURNS, Unread


class Queue:
    """Where messages are put back."""

    def __init__(self) -> None:
        self.broken = False
        self.messages: list[tuple[tuple[str, ...], int]] = []

    def __call__(self, texts: Sequence[str], returns: int) -> None:
        if self.broken:
            raise BrokerError("Redis is away")
        self.messages.append((tuple(texts), returns))


def of_version(text: str, version: int) -> str:
    return msgspec.json.encode({**msgspec.json.decode(text), "version": version, "new": True}).decode()


def shard() -> ShardTask:
    work = Work(model="echo", engine="auto", messages=(), sampling={}, seed=0)
    return ShardTask(job="j", shard=0, token=1, first=0, count=4, source=CountRange(start=0, count=4), work=work)


def report(execution: str) -> ShardReport:
    return ShardReport(job="j", shard=0, token=1, execution=execution, worker="h:1", sequence=1, event="started")


def test_a_shard_that_can_be_read_is_taken() -> None:
    queue = Queue()
    assert read_shard(encode(shard()), Unread(queue), returns=0) == shard()


def test_a_shard_of_an_unknown_version_is_put_back_as_it_came() -> None:
    queue = Queue()
    kept = Unread(queue)
    text = of_version(encode(shard()), WIRE_VERSION + 1)
    assert read_shard(text, kept, returns=2) is None
    assert queue.messages == []
    kept.put_back()
    kept.put_back()
    assert queue.messages == [((text,), 3)]


def test_a_shard_that_is_garbage_is_dropped_and_said(caplog: pytest.LogCaptureFixture) -> None:
    queue = Queue()
    kept = Unread(queue)
    assert read_shard('{"shard": 1}', kept, returns=0) is None
    kept.put_back()
    assert queue.messages == []
    assert "a shard was not taken" in caplog.text


def test_reports_of_a_message_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    later = of_version(encode(report("b")), WIRE_VERSION + 1)
    known, unknown = read_reports([encode(report("a")), later, "{}", encode(report("c"))])
    assert known == [report("a"), report("c")]
    assert unknown == [later]
    assert caplog.text.count("a report was dropped") == 1


def test_no_message_goes_round_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    queue = Queue()
    kept = Unread(queue)
    kept.keep(("text",), MAX_RETURNS - 1)
    kept.keep(("other",), MAX_RETURNS)
    kept.put_back()
    assert queue.messages == [(("text",), MAX_RETURNS)]
    assert "is dropped" in caplog.text


def test_what_cannot_be_put_back_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    queue = Queue()
    kept = Unread(queue)
    queue.broken = True
    kept.keep(("one",), 0)
    kept.keep(("two",), 5)
    kept.put_back()
    assert "2 messages of an unknown version are put back later" in caplog.text
    queue.broken = False
    kept.put_back()
    assert queue.messages == [(("one",), 1), (("two",), 6)]


def test_messages_are_put_back_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "PAUSE_SECONDS", 0.01)
    queue = Queue()
    kept = Unread(queue)
    kept.start()
    kept.keep(("text",), 0)
    eventually(lambda: queue.messages == [(("text",), 1)], within=30)
    kept.close()
    assert len(queue.messages) == 1


def test_a_process_that_ends_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "PAUSE_SECONDS", 3600.0)
    queue = Queue()
    kept = Unread(queue)
    kept.start()
    kept.keep(("text",), 0)
    kept.close()
    assert queue.messages == [(("text",), 1)]
