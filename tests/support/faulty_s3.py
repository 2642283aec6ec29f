"""An S3 server that can be told to misbehave, in front of the same objects as `services.s3_server`.

moto keeps its objects per process: what is written through the one is read through the other. So a test looks at the
store through a server without faults while the stack under test meets them.
"""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

Environ: TypeAlias = dict[str, Any]  # WSGI, PEP 3333
StartResponse: TypeAlias = Callable[..., Any]
Fault: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes] | None]
"""Answers a request in the server's stead; None lets it through."""
_ENTRY = re.compile(rb"<Contents>.*?<Key>([^<]*)</Key>.*?</Contents>", re.DOTALL)


class FaultyS3:
    """A WSGI application around moto's. `strike` sets a fault, `mend` takes it away."""

    def __init__(self) -> None:
        self._behind = DomainDispatcherApplication(create_backend_app)
        self._fault: Fault | None = None
        self._lag_seconds = 0.0
        self._written: dict[str, float] = {}
        self.struck = 0
        """Requests that met a fault."""

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        fault = self._fault
        answer = None if fault is None else fault(environ, start_response)
        if answer is not None:
            self.struck += 1
            return answer
        if environ["REQUEST_METHOD"] == "PUT":
            self._written[environ["PATH_INFO"].split("/", 2)[-1]] = time.monotonic()
        if self._lag_seconds and "list-type=2" in environ["QUERY_STRING"]:
            return self._lagging(environ, start_response)
        return self._behind(environ, start_response)

    def strike(self, fault: Fault) -> None:
        """Let every request meet this fault first, until `mend`."""
        self._fault = fault

    def lag(self, seconds: float) -> None:
        """Leave out of listings what was written in the last `seconds`."""
        self._lag_seconds = seconds

    def mend(self) -> None:
        """Behave."""
        self._fault = None
        self._lag_seconds = 0.0

    def _lagging(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        said: list[Any] = []
        body = b"".join(self._behind(environ, lambda *given: said.extend(given)))
        since = time.monotonic() - self._lag_seconds

        def shown(entry: re.Match[bytes]) -> bytes:
            recent = self._written.get(entry[1].decode(), 0.0) > since
            self.struck += recent
            return b"" if recent else entry[0]

        body = _ENTRY.sub(shown, body)
        status, headers = said[:2]
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start_response(status, [*kept, ("Content-Length", str(len(body)))])
        return [body]


def errors(status: str, code: str, chance: random.Random, share: float) -> Fault:
    """A fault that answers this share of requests with an S3 error, such as "503 Slow Down", "SlowDown"."""

    def fault(environ: Environ, start_response: StartResponse) -> Iterable[bytes] | None:
        if chance.random() >= share:
            return None
        _read_body(environ)
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>a fault of the test</Message></Error>".encode()
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return fault


def truncated_uploads(chance: random.Random, share: float) -> Fault:
    """A fault that reads half of this share of uploads and ends their connection."""

    def fault(environ: Environ, start_response: StartResponse) -> Iterable[bytes] | None:
        if environ["REQUEST_METHOD"] != "PUT" or chance.random() >= share:
            return None
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)
        return _hang_up(environ, start_response)

    return fault


def silence(over: threading.Event, met: list[str]) -> Fault:
    """A fault that answers nothing until `over` is set, and then ends the connections that waited.

    The paths of the requests that met it are added to `met` as they come.
    """

    def fault(environ: Environ, start_response: StartResponse) -> Iterable[bytes] | None:
        if over.is_set():
            return None
        met.append(environ["PATH_INFO"])
        over.wait()
        return _hang_up(environ, start_response)

    return fault


def refused_conditions(environ: Environ, start_response: StartResponse) -> Iterable[bytes] | None:
    """A fault that refuses every conditional write, as servers do that have none."""
    if environ["REQUEST_METHOD"] != "PUT" or not {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"} & environ.keys():
        return None
    return errors("501 Not Implemented", "NotImplemented", random.Random(0), 1.0)(environ, start_response)


@contextmanager
def faulty_s3() -> Iterator[tuple[FaultyS3, int]]:
    """The server on a free loopback port; gives it and its port. Its bucket is `services.s3_server`'s."""
    application = FaultyS3()
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, name="faulty-s3", daemon=True)
    thread.start()
    try:
        yield application, server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _read_body(environ: Environ) -> None:
    # A server that answers before it has read everything resets the connection, which is another fault than this.
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def _hang_up(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    start_response("500 Internal Server Error", [("Content-Length", "0")])
    return []
