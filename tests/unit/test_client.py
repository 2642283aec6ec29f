"""The client against answers that the test writes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from orchestrator import client as client_module
from orchestrator.client import ApiError, Client, UnreachableError, event_data
from orchestrator.lifecycle import JobStatus
from orchestrator.views import JobView
from tests.support.clocks import ManualClock
from tests.support.views import job_view


def _client(answer: Callable[[httpx.Request], httpx.Response], clock: ManualClock | None = None) -> Client:
    time = clock or ManualClock()
    return Client("http://mill:1", "key", transport=httpx.MockTransport(answer), clock=time, pause=time.advance)


def _json(value: object, status: int = 200) -> httpx.Response:
    return httpx.Response(status, content=msgspec.json.encode(value))


def test_a_job_is_submitted_with_its_key_and_read_back() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return _json(job_view())

    assert _client(answer).submit({"model": "echo"}, key="k") == job_view()
    assert (seen[0].headers["Idempotency-Key"], seen[0].headers["Authorization"]) == ("k", "Bearer key")
    assert seen[0].content == b'{"model":"echo"}'


def test_a_refusal_keeps_its_message_and_code() -> None:
    body = {"error": {"message": "no such model", "type": "invalid_request_error", "param": "model", "code": "unknown"}}
    with pytest.raises(ApiError, match="no such model") as raised:
        _client(lambda _: _json(body, 400)).submit({}, key="k")
    assert (raised.value.status, raised.value.code, raised.value.param) == (400, "unknown", "model")


def test_a_service_whose_own_services_are_away_counts_as_away() -> None:
    body = {"error": {"message": "Redis at x cannot be reached"}}
    with pytest.raises(UnreachableError, match="Redis at x"):
        _client(lambda _: _json(body, 503)).jobs()


def test_something_else_at_the_address_is_recognised() -> None:
    with pytest.raises(ApiError, match="answered 404 Not Found; is that Nightmill"):
        _client(lambda _: httpx.Response(404, text="<html>")).jobs()


def test_a_connection_that_fails_names_the_service() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[Errno 111] Connection refused", request=request)

    with pytest.raises(UnreachableError, match=r"Nightmill at http://mill:1 cannot be reached: .*refused"):
        _client(answer).jobs()


def test_an_upload_is_streamed_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CHUNK", 4)
    path = tmp_path / "my rows.csv"
    path.write_bytes(b"0123456789")
    sent: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.raw_path == b"/v1/inputs/my%20rows.csv"
        digest = hashlib.sha256(request.read()).hexdigest()
        return _json({"uri": "nightmill://inputs/x", "bytes": 10, "sha256": digest})

    assert _client(answer).upload(path, sent.append).uri == "nightmill://inputs/x"
    assert sent == [4, 8, 10]
    with pytest.raises(ApiError, match="arrived damaged"):
        _client(lambda _: _json({"uri": "x", "bytes": 10, "sha256": "0"})).upload(path)


def _events(*jobs: JobView) -> bytes:
    return b"".join(b"event: job\ndata: " + msgspec.json.encode(job) + b"\n\n" for job in jobs)


def test_a_watcher_comes_back_when_the_connection_is_lost() -> None:
    started, half, ended = job_view(), job_view(ok=50), job_view(JobStatus.COMPLETED, ok=100)
    answers: Iterator[Callable[[httpx.Request], httpx.Response]] = iter(
        [
            lambda _: httpx.Response(200, content=_events(started, half)),
            lambda request: (_ for _ in ()).throw(httpx.ConnectError("gone", request=request)),
            lambda _: _json({"error": {"message": "starting"}}, 503),
            lambda _: httpx.Response(200, content=b": ping\n\n" + _events(half, ended)),
        ]
    )

    def answer(request: httpx.Request) -> httpx.Response:
        return next(answers)(request)

    assert list(_client(answer).watch("x")) == [started, half, ended]


def test_a_watcher_gives_up_in_the_end(clock: ManualClock) -> None:
    begun = clock()

    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("gone", request=request)

    with pytest.raises(UnreachableError):
        list(_client(answer, clock).watch("x"))
    assert client_module.RECONNECT_SECONDS < clock() - begun < client_module.RECONNECT_SECONDS + 2


def test_a_watcher_of_no_job_ends_at_once() -> None:
    body = {"error": {"message": "there is no job 'x'", "code": "job_not_found"}}
    with pytest.raises(ApiError, match="no job"):
        list(_client(lambda _: _json(body, 404)).watch("x"))


def test_events_are_read_as_the_standard_has_them() -> None:
    lines = iter(["event: job", "data: one", "data:two", "", ": ping", "", "id: 3", "data: three", ""])
    assert list(event_data(lines)) == ["one\ntwo", "three"]
