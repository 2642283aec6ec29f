"""An HTTP proxy before a real server, which does to each request what the test has put in its list."""

from __future__ import annotations

import http.client
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

ERROR = b'<?xml version="1.0"?><Error><Code>InternalError</Code><Message>We encountered an error.</Message></Error>'
SLOW_DOWN = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>'
_OWN_HEADERS = {"content-length", "transfer-encoding", "connection", "expect"}


class FaultyProxy(ThreadingHTTPServer):
    """A proxy on a free port; give its `url` to a client.

    `faults` are taken one a request, where `method` is set only by requests of that method; when none is left,
    everything passes:

    - `error`: answered with 500
    - `slow_down`: answered with 503 and S3's code
    - `drop`: the connection is closed without an answer
    - `hang`: no answer until the proxy is closed
    - `cut_answer`: half of the answer's body, then the connection is closed
    - `cut_upload`: half of the request's body reaches the server, then its connection is closed
    - `keep_half`: half of the request's body is passed on as if it were all of it
    - `pass`
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.upstream = urlsplit(upstream).netloc
        self.faults: deque[str] = deque()
        self.method: str | None = None
        self.closing = threading.Event()
        self._methods: list[str] = []

    def next_fault(self, method: str) -> str:
        """What is to happen to the request that has come."""
        self._methods.append(method)
        return self.faults.popleft() if self.faults and self.method in {None, method} else "pass"

    def requests(self, method: str) -> int:
        """How many of them have come."""
        return self._methods.count(method)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is the point of many a test."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def handle_one_request(self) -> None:
        """As the base class does, for every method alike."""
        self.raw_requestline = self.rfile.readline(65_537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        fault = self.server.next_fault(self.command)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match fault:
            case "error":
                self._answer(500, {}, ERROR)
            case "slow_down":
                self._answer(503, {}, SLOW_DOWN)
            case "drop":
                self.close_connection = True
            case "hang":
                self.server.closing.wait()
                self.close_connection = True
            case "cut_upload":
                self._cut_upload(body)
            case "keep_half":
                self._pass_on(body[: len(body) // 2])
            case _:
                self._pass_on(body, cut=fault == "cut_answer")

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def _pass_on(self, body: bytes, *, cut: bool = False) -> None:
        with closing(http.client.HTTPConnection(self.server.upstream)) as connection:
            connection.request(self.command, self.path, body, self._headers(len(body)))
            response = connection.getresponse()
            self._answer(response.status, dict(response.getheaders()), response.read(), cut=cut)

    def _cut_upload(self, body: bytes) -> None:
        with closing(http.client.HTTPConnection(self.server.upstream)) as connection:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self._headers(len(body)).items():
                connection.putheader(name, value)
            connection.endheaders(body[: len(body) // 2])
        self.close_connection = True

    def _headers(self, length: int) -> dict[str, str]:
        kept = {name: value for name, value in self.headers.items() if name.lower() not in _OWN_HEADERS}
        return {**kept, "Content-Length": str(length)}

    def _answer(self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _OWN_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """A proxy for the time of a `with` block."""
    with FaultyProxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.closing.set()
            proxy.shutdown()
            thread.join()
