"""Keeps a handful of child processes running: starts them in order, restarts what dies, ends all of it together.

One thread starts and watches every child, because a child is tied to the thread that started it (`orchestrator.child`).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Protocol

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
START_SECONDS = 90.0
"""How long a child may take to become ready; a loaded machine with a cold disk takes half a minute."""
STEADY_SECONDS = 60.0
"""A child that has run this long has its earlier deaths forgotten."""
SETTLED_SECONDS = 10.0
"""A child that dies before it has ever run this long has something wrong with it that trying again will not mend."""
START_DEATHS = 2
RUN_DEATHS = 5
FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 30.0
STOP_SECONDS = 5.0
LATE_SECONDS = 8.0
LOG_LIMIT = 16 << 20
TAIL_LINES = 15


class ProcessState(StrEnum):
    """Where a child stands."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


class ProcessError(Exception):
    """A child did not start, or died too often. `str(error)` says which, why, and what it said last."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One child: what runs, and how it is known to be ready."""

    role: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    """Asked again and again while it starts; must answer within about a second."""
    after: tuple[str, ...] = ()
    """Roles or gates that have to be ready before this is started for the first time."""
    keep: bool = False
    """Its descendants do not end with it by themselves."""
    last: bool = False
    """Stopped only after the others, which need it to end well."""


class Process(Protocol):
    """The part of `subprocess.Popen` that is used."""

    pid: int

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""
        ...


@dataclass(slots=True)
class _Child:
    spec: ProcessSpec
    log: Path
    state: ProcessState = ProcessState.WAITING
    process: Process | None = None
    started_at: float = 0.0
    ever_ready: bool = False
    ever_settled: bool = False
    deaths: int = 0
    start_again_at: float = 0.0
    log_offset: int = 0


@dataclass(frozen=True, slots=True)
class ProcessView:
    """A child as `nightmill status` shows it."""

    role: str
    pid: int | None
    state: ProcessState


def spawn(spec: ProcessSpec, output: IO[bytes]) -> Process:
    """Start a child in a session of its own, so that the terminal's Ctrl-C reaches the launcher alone."""
    script = str(Path(__file__).with_name("child.py"))
    wrapper = [sys.executable, "-I", "-S", script, "keep" if spec.keep else "exec", str(os.getpid())]
    return subprocess.Popen(
        [*wrapper, *spec.command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=dict(spec.environment),
        start_new_session=True,
    )


@dataclass
class Supervisor:
    """Owns the children. `begin` starts its thread; `stop` ends them all and the thread with them."""

    specs: Sequence[ProcessSpec]
    logs: Path
    say: Callable[[str], None]
    """Tells a person what happened to a child."""
    changed: Callable[[], None] = lambda: None
    """Called in the supervisor's thread whenever a child's pid or state is another."""
    clock: Callable[[], float] = time.monotonic
    spawn: Callable[[ProcessSpec, IO[bytes]], Process] = spawn
    _gates: set[str] = field(default_factory=set)
    _failure: ProcessError | None = None

    def __post_init__(self) -> None:
        """Prepare one entry per child; nothing is started."""
        self._children = [_Child(spec, self.logs / f"{spec.role}.log") for spec in self.specs]
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def begin(self) -> None:
        """Start the thread that starts and watches the children."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def open_gate(self, name: str) -> None:
        """Let children start that wait for something which is no child."""
        with self._news:
            self._gates.add(name)

    def wait(self, roles: Sequence[str] | None = None) -> None:
        """Wait until these roles (all of them, by default) are ready.

        Raises:
            ProcessError: one of the children has failed.
        """
        wanted = {child.spec.role for child in self._children} if roles is None else set(roles)
        with self._news:
            self._news.wait_for(lambda: self._failure is not None or wanted <= self._ready())
            if self._failure is not None:
                raise self._failure

    def is_ready(self) -> bool:
        """Whether every child has become ready."""
        with self._news:
            return all(child.ever_ready for child in self._children)

    @property
    def failure(self) -> ProcessError | None:
        """Why the children cannot be kept running, once that is so."""
        return self._failure

    def views(self) -> list[ProcessView]:
        """Every child with its state."""
        with self._news:
            return [
                ProcessView(child.spec.role, child.process.pid if child.process else None, child.state)
                for child in self._children
            ]

    def stop(self) -> None:
        """End every child and wait until none is left. May be called more than once."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def step(self) -> None:
        """Look at every child once and do what is due."""
        now = self.clock()
        for child in self._children:
            if child.state in {ProcessState.WAITING, ProcessState.RESTARTING}:
                self._start_if_due(child, now)
            elif child.state in {ProcessState.STARTING, ProcessState.RUNNING}:
                self._check(child, now)

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and self._failure is None:
                self.step()
                self._stop.wait(LOOK_SECONDS)
        except OSError as error:
            # No child can be started: its log cannot be opened, say, or there is no process left to be had.
            with self._news:
                self._failure = ProcessError(f"the processes cannot be kept running: {error}")
                self._news.notify_all()
        try:
            self._stop.wait()  # after a failure the owner decides when to end the rest
        finally:
            self._end_all()

    def _ready(self) -> set[str]:
        return {child.spec.role for child in self._children if child.ever_ready} | self._gates

    def _set(self, child: _Child, state: ProcessState) -> None:
        with self._news:
            child.state = state
            if state is ProcessState.RUNNING:
                child.ever_ready = True
            self._news.notify_all()
        self.changed()

    def _start_if_due(self, child: _Child, now: float) -> None:
        if child.state is ProcessState.WAITING and not set(child.spec.after) <= self._ready():
            return
        if now < child.start_again_at:
            return
        if child.log.exists() and child.log.stat().st_size > LOG_LIMIT:
            child.log.replace(child.log.with_suffix(".log.1"))
        with child.log.open("ab") as output:
            child.log_offset = output.tell()
            child.process = self.spawn(child.spec, output)
        child.started_at = now
        self._set(child, ProcessState.STARTING)

    def _check(self, child: _Child, now: float) -> None:
        process = child.process
        if process is None:
            return
        status = process.poll()
        if status is not None:
            self._died(child, status, now)
        elif child.state is ProcessState.RUNNING:
            if now - child.started_at > SETTLED_SECONDS:
                child.ever_settled = True
            if child.deaths and now - child.started_at > STEADY_SECONDS:
                child.deaths = 0
        elif child.spec.ready():
            if child.ever_ready:
                self.say(f"{child.spec.role} is running again (pid {process.pid})")
            self._set(child, ProcessState.RUNNING)
        elif now - child.started_at > START_SECONDS:
            self._fail(child, f"was not ready after {START_SECONDS:.0f} s")

    def _died(self, child: _Child, status: int, now: float) -> None:
        _signal_group(child.process, signal.SIGKILL)  # what it started ends with it
        child.deaths += 1
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        bound = RUN_DEATHS if child.ever_settled else START_DEATHS
        if child.deaths >= bound:
            times = f"{child.deaths} times in a row" if child.deaths > 1 else "at once"
            self._fail(child, f"ended {times}, at last with {how}")
            return
        delay = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (child.deaths - 1))
        self.say(f"{child.spec.role} ended with {how}; starting it again in {delay:g} s")
        child.start_again_at = now + delay
        child.process = None
        self._set(child, ProcessState.RESTARTING)

    def _fail(self, child: _Child, what: str) -> None:
        with self._news:
            self._failure = ProcessError(f"{child.spec.role} {what}.{tail(child.log, child.log_offset)}")
        self._set(child, ProcessState.FAILED)

    def _end_all(self) -> None:
        for late in (False, True):
            group = [child for child in self._children if child.spec.last is late]
            for child in group:
                _signal_group(child.process, signal.SIGTERM, alone=child.spec.keep)
            deadline = time.monotonic() + (LATE_SECONDS if late else STOP_SECONDS)
            for child in group:
                self._end(child, deadline)

    def _end(self, child: _Child, deadline: float) -> None:
        process = child.process
        if process is not None:
            pause = threading.Event()
            while process.poll() is None and time.monotonic() < deadline:
                pause.wait(0.02)
            _signal_group(process, signal.SIGKILL)
            while process.poll() is None:
                pause.wait(0.02)
        self._set(child, ProcessState.STOPPED)


def _signal_group(process: Process | None, how: signal.Signals, *, alone: bool = False) -> None:
    """Signal a child and, unless `alone`, all that is in its process group."""
    if process is None:
        return
    with suppress(ProcessLookupError):  # it has ended since, and its group with it
        if alone:
            if process.poll() is None:
                os.kill(process.pid, how)
        else:
            os.killpg(process.pid, how)


def tail(path: Path, offset: int = 0, lines: int = TAIL_LINES) -> str:
    """The last lines of a log after `offset`, indented under a heading with its path; empty where there are none."""
    try:
        with path.open("rb") as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(max(offset, size - (64 << 10)))
            text = source.read().decode(errors="replace")
    except OSError:
        return ""
    last = [line for line in text.splitlines() if line.strip()][-lines:]
    if not last:
        return f" It left nothing in {path}."
    return f" The end of {path}:\n" + "\n".join(f"  | {line}" for line in last)
