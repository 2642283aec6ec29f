"""The HTTP service on a loopback port, for clients that speak to nothing less."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from orchestrator.api.app import create_app
from orchestrator.api.services import Services
from tests.support.eventually import eventually
from tests.support.services import free_port


@contextmanager
def http_service(services: Services) -> Iterator[str]:
    """Serves these services, which it closes at its end; gives the URL."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(create_app(services), host="127.0.0.1", port=port, log_config=None, access_log=False)
    )
    thread = threading.Thread(target=server.run, name="http-service")
    thread.start()
    try:
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
