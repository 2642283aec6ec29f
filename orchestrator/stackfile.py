"""What a running stack leaves in its data directory: two locks, and a record of where it is and what it runs.

The locks are `flock`s, which the kernel lets go when their process ends, however it ends. The record may be left
behind by a killed launcher, so it counts only while the process that it names is the one that wrote it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

RECORD = "stack.json"
LOCK = "stack.lock"
USERS = "stack.users"
LAUNCHER = "launcher"
"""The role of the process that started all others, and owns them."""

StackState = Literal["starting", "ready", "stopping"]


class StackRunningError(Exception):
    """Another launcher owns the data directory."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid is not None else "another process"
        super().__init__(
            f"a stack is already running in {data_dir}, started by {who}; see `nightmill status`, stop it with "
            "`nightmill down`, or give another --data-dir"
        )
        self.pid = pid


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process of a stack."""

    role: str
    pid: int | None
    state: str


@dataclass(frozen=True, slots=True)
class StackRecord:
    """A stack as its launcher describes it."""

    pid: int
    created: float
    """Start of the launcher's process, in seconds since the epoch, as psutil gives it: a pid alone may be reused."""
    url: str
    state: StackState
    temporary: bool
    """Started by `nightmill run` for one job, and stopped after it."""
    data_dir: str
    processes: tuple[ProcessRecord, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether the launcher that wrote this still runs."""
        return is_process(self.pid, self.created)

    def as_json(self) -> dict[str, object]:
        """The record as JSON."""
        return asdict(self)


def is_process(pid: int, created: float) -> bool:
    """Whether the process `pid` runs and is the one that began at `created`."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def read_record(data_dir: Path) -> StackRecord | None:
    """The record of the stack that runs in a data directory; None where none runs."""
    try:
        found = json.loads((data_dir / RECORD).read_bytes())
        processes = tuple(ProcessRecord(**entry) for entry in found.pop("processes"))
        record = StackRecord(**found, processes=processes)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError):
        return None  # of another version: whoever wrote it, we cannot speak to it
    return record if record.alive else None


def write_record(data_dir: Path, record: StackRecord) -> None:
    """Replace the record, whole."""
    path = data_dir / RECORD
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(record.as_json(), indent=1))
    fresh.replace(path)


def remove_record(data_dir: Path) -> None:
    """Take the record away: no stack runs any more."""
    (data_dir / RECORD).unlink(missing_ok=True)


@contextmanager
def own_stack(data_dir: Path) -> Iterator[None]:
    """Be the only launcher of a data directory.

    Raises:
        StackRunningError: there is one already.
    """
    with (data_dir / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            text = lock.read().strip()
            raise StackRunningError(data_dir, int(text) if text.isdigit() else None) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def using_stack(data_dir: Path) -> Iterator[None]:
    """Keep a temporary stack from being stopped while we use it."""
    with (data_dir / USERS).open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        yield


def others_use_stack(data_dir: Path) -> bool:
    """Whether another process is inside `using_stack`. Asked by the stack's owner, which is not."""
    with (data_dir / USERS).open("a") as users:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def with_descendants(processes: Sequence[ProcessRecord]) -> list[ProcessRecord]:
    """The processes and all that they have started, named `ray:raylet`, `ray:ModelActor` and so on."""
    found: list[ProcessRecord] = []
    for record in processes:
        found.append(record)
        if record.pid is None or record.role == LAUNCHER:
            continue
        try:
            below = psutil.Process(record.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            continue
        for process in below:
            try:
                name = _short_name(process.cmdline(), process.name())
            except psutil.NoSuchProcess:
                continue
            found.append(ProcessRecord(f"{record.role}:{name}", process.pid, "running"))
    return found


def _short_name(command: Sequence[str], name: str) -> str:
    """What a process is called in a list: Ray's own title, or the name of its program or script."""
    title = command[0] if command else name
    if "::" in title:
        return title.removeprefix("ray::").split("(")[0].strip()
    scripts = [Path(word).stem for word in command[1:] if word.endswith(".py")]
    if Path(title).name.startswith("python") and scripts:
        return scripts[0]
    return Path(title).name or name
