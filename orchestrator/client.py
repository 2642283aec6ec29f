"""Nightmill's native HTTP API from the client's side: what the command line speaks, and what a script can use.

with Client("http://127.0.0.1:8080") as client:
    job = client.submit(spec.to_json(), key="nightly-2026-11-24")
    for job in client.watch(job.id):
        print(job.status, job.counts.done)
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, Self
from urllib.parse import quote

import httpx
import msgspec

from orchestrator.views import JobView
from workers.urls import without_password

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
RECONNECT_SECONDS = 30.0
"""How long a watcher tries to come back to a service that has gone."""
CHUNK = 1 << 20
RECORDS_AT_ONCE = 1000
Action = Literal["cancel", "pause", "resume", "retry"]
ResultFormat = Literal["jsonl", "csv", "parquet"]


class ApiError(Exception):
    """The service refused what was asked: `status` is HTTP's, `code` and `param` are for programs."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param


class UnreachableError(Exception):
    """The service, or something that it stands on, could not be reached; the message says which and where."""


class Upload(msgspec.Struct, frozen=True):
    """A file that the service now holds; `uri` is what a job's `source.file` names."""

    uri: str
    bytes: int
    sha256: str


class Page(msgspec.Struct, frozen=True):
    """Some records of a job, in item order."""

    data: list[dict[str, Any]]  # records: any JSON
    next_after: int | None
    """Give it as `after` for the following page; None where there is none yet."""
    has_more: bool


class ModelColumn(msgspec.Struct, frozen=True):
    """A column of a model of tables, as far as it is shown."""

    name: str
    kind: str


class ModelEntry(msgspec.Struct, frozen=True):
    """A model as the service lists it."""

    id: str
    engine: str = ""
    available: bool = True
    detail: str = ""
    created: float = 0
    version: str | None = None
    """Of a model that was trained here: its newest."""
    family: str | None = None
    classes: tuple[str, ...] = ()
    size: tuple[int, ...] = ()
    license: str = ""
    kind: str = "image"
    engines: tuple[str, ...] = ()
    base: str | None = None
    """Of an adapter: the model that it changes."""
    columns: tuple[ModelColumn, ...] = ()
    """Of a model of tables."""
    rows: int = 0


class _Problem(msgspec.Struct):
    message: str = ""
    code: str | None = None
    param: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _Problem


class _Jobs(msgspec.Struct):
    data: list[JobView]
    has_more: bool


class _Models(msgspec.Struct):
    data: list[ModelEntry]


class Client:
    """One service. Every method raises UnreachableError where it does not answer, ApiError where it refuses."""

    def __init__(
        self,
        url: str,
        api_key: str = "",
        *,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._clock = clock
        self._pause = pause
        headers = {b"Authorization": f"Bearer {api_key}".encode()} if api_key else {}
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            transport=transport,
            # A proxy of the company's has no business between us and a service that was named by its address.
            trust_env=False,
        )

    def __enter__(self) -> Self:
        """Use the client, and close it after."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def upload(self, path: Path, progress: Callable[[int], None] = lambda _: None) -> Upload:
        """Send a file, as a stream; `progress` hears of the bytes sent so far."""
        digest = hashlib.sha256()

        def body(file: IO[bytes]) -> Iterator[bytes]:
            sent = 0
            while block := file.read(CHUNK):
                digest.update(block)
                sent += len(block)
                yield block
                progress(sent)

        with path.open("rb") as file:
            answer = self._send("PUT", f"/v1/inputs/{quote(path.name, safe='')}", content=body(file))
        upload = msgspec.json.decode(answer.content, type=Upload)
        if upload.sha256 != digest.hexdigest():
            raise ApiError(502, f"{path} arrived damaged at {self.url}; send it again", code="upload_damaged")
        return upload

    def submit(self, spec: dict[str, Any], *, key: str) -> JobView:  # a JobSpec as JSON
        """Ask for a job. The same key and spec give the same job, so this may be sent again."""
        return self._job(
            "POST",
            "/v1/jobs",
            content=msgspec.json.encode(spec),
            headers={"Content-Type": "application/json", "Idempotency-Key": key},
        )

    def job(self, job_id: str) -> JobView:
        """A job as it is now."""
        return self._job("GET", _job_path(job_id))

    def jobs(self, *, status: str | None = None, after: str | None = None, limit: int = 20) -> list[JobView]:
        """Jobs, the newest first."""
        given = {"status": status, "after": after, "limit": str(limit)}
        answer = self._send("GET", "/v1/jobs", params={name: value for name, value in given.items() if value})
        return msgspec.json.decode(answer.content, type=_Jobs).data

    def act(self, job_id: str, action: Action) -> JobView:
        """Cancel, pause, resume or retry a job."""
        return self._job("POST", f"{_job_path(job_id)}/{action}")

    def results(self, job_id: str, *, after: int | None = None, limit: int = 100) -> Page:
        """Records in item order, also while the job runs."""
        return self._page(f"{_job_path(job_id)}/results", after, limit)

    def errors(self, job_id: str, *, after: int | None = None, limit: int = 100) -> Page:
        """Records of items that did not end well, in item order."""
        return self._page(f"{_job_path(job_id)}/errors", after, limit)

    def content(self, job_id: str, form: ResultFormat) -> Iterator[bytes]:
        """All results, as a file in chunks."""
        with self._stream(f"{_job_path(job_id)}/results/content", params={"format": form}) as answer:
            yield from answer.iter_bytes(CHUNK)

    def records(self, job_id: str) -> Iterator[bytes]:
        """The records of all items, a line each: of a table they name its blocks."""
        after: int | None = None
        while True:
            page = self.results(job_id, after=after, limit=RECORDS_AT_ONCE)
            yield b"".join(msgspec.json.encode(record) + b"\n" for record in page.data)
            if page.next_after is None or not page.has_more:
                return
            after = page.next_after

    def report(self, job_id: str, form: Literal["html", "json"]) -> bytes:
        """The report on the dataset that a job has made."""
        return self._send("GET", f"{_job_path(job_id)}/report", params={"format": form}).content

    def image(self, job_id: str, name: str) -> bytes:
        """An image that a record of the job names, by the last part of its key."""
        return self._send("GET", f"{_job_path(job_id)}/images/{quote(name, safe='')}").content

    def samples(self, job_id: str) -> bytes:
        """The newest sheet of samples of a model in training, as PNG."""
        return self._send("GET", f"{_job_path(job_id)}/training/samples").content

    def losses(self, job_id: str) -> bytes:
        """The losses of a training so far, as JSON lines."""
        return self._send("GET", f"{_job_path(job_id)}/training/losses").content

    def audio(self, job_id: str, name: str) -> bytes:
        """A sound that a record of the job names, by the last part of its key."""
        return self._send("GET", f"{_job_path(job_id)}/audio/{quote(name, safe='')}").content

    def replay(self, job_id: str, index: int, image: int) -> JobView:
        """Make image `image` of an item again; the job that does so."""
        return self._job("POST", f"{_job_path(job_id)}/replay?index={index}&image={image}")

    def models(self) -> list[ModelEntry]:
        """What can be run there."""
        return msgspec.json.decode(self._send("GET", "/v1/models").content, type=_Models).data

    def watch(self, job_id: str) -> Iterator[JobView]:
        """A job whenever it has changed, until it has ended. Comes back by itself when the connection is lost.

        Raises:
            UnreachableError: the service stayed away for half a minute.
        """
        lost_since: float | None = None
        last: JobView | None = None
        while True:
            try:
                with self._stream(f"{_job_path(job_id)}/events") as answer:
                    for data in event_data(answer.iter_lines()):
                        lost_since = None
                        job = msgspec.json.decode(data, type=JobView)
                        if job != last:
                            yield job
                        last = job
                        if job.ended:
                            return
            except (UnreachableError, ApiError) as error:
                if isinstance(error, ApiError) and error.status < 500:
                    raise
                now = self._clock()
                lost_since = lost_since or now
                if now - lost_since > RECONNECT_SECONDS:
                    raise
            self._pause(0.5)

    def _job(
        self, method: str, path: str, *, content: bytes | None = None, headers: dict[str, str] | None = None
    ) -> JobView:
        answer = self._send(method, path, content=content, headers=headers)
        return msgspec.json.decode(answer.content, type=JobView)

    def _page(self, path: str, after: int | None, limit: int) -> Page:
        params = {"limit": str(limit)} if after is None else {"limit": str(limit), "after": str(after)}
        return msgspec.json.decode(self._send("GET", path, params=params).content, type=Page)

    def _send(
        self,
        method: str,
        path: str,
        *,
        content: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
    ) -> httpx.Response:
        with self._reaching():
            answer = self._http.request(method, path, content=content, headers=headers, params=params)
        _check(answer)
        return answer

    @contextmanager
    def _stream(self, path: str, params: dict[str, str] | None = None) -> Iterator[httpx.Response]:
        with self._reaching(), self._http.stream("GET", path, params=params) as answer:
            if answer.is_error:
                answer.read()
            _check(answer)
            yield answer

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.InvalidURL as error:
            raise UnreachableError(f"{self.url!r} is no address of a service: {error}") from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise UnreachableError(f"Nightmill at {without_password(self.url)} cannot be reached: {reason}") from error


def event_data(lines: Iterator[str]) -> Iterator[str]:
    """The data of each event in a stream of server-sent events.

    Source: "Server-sent events", HTML Living Standard, section 9.2.6.
    """
    data: list[str] = []
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            if name == "data":
                data.append(value.removeprefix(" "))
        elif data:
            yield "\n".join(data)
            data = []


def _job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _check(answer: httpx.Response) -> None:
    """Raise what an answer's status means."""
    if answer.is_success:
        return
    try:
        problem = msgspec.json.decode(answer.content, type=_ErrorBody).error
    except msgspec.MsgspecError:
        problem = _Problem(
            f"{answer.request.url} answered {answer.status_code} {answer.reason_phrase}; is that Nightmill?"
        )
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        raise UnreachableError(problem.message)
    raise ApiError(answer.status_code, problem.message, code=problem.code, param=problem.param)
