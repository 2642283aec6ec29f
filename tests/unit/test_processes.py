"""The supervisor's decisions, with a clock and processes that the test moves; and two real processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest

from orchestrator import processes
from orchestrator.processes import ProcessError, ProcessSpec, ProcessState, Supervisor, tail
from tests.support.clocks import ManualClock
from tests.support.eventually import eventually


class FakeProcess:
    """A process that ends when the test says so. Its pid is one that no process has."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.pid = 2**22 + 1
        self.status: int | None = None

    def poll(self) -> int | None:
        return self.status


class Bench:
    """A supervisor whose every step the test takes."""

    def __init__(self, logs: Path, clock: ManualClock, *specs: ProcessSpec) -> None:
        self.clock = clock
        self.started: list[FakeProcess] = []
        self.said: list[str] = []
        self.supervisor = Supervisor(list(specs), logs, self.said.append, clock=clock, spawn=self._spawn)

    def _spawn(self, spec: ProcessSpec, output: IO[bytes]) -> FakeProcess:
        output.write(f"{spec.role} begins\n".encode())
        self.started.append(FakeProcess(spec.role))
        return self.started[-1]

    def step(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        self.supervisor.step()

    @property
    def states(self) -> list[str]:
        return [view.state.value for view in self.supervisor.views()]

    @property
    def roles(self) -> list[str]:
        return [process.role for process in self.started]


def _spec(role: str, *after: str, ready: Callable[[], bool] = lambda: True) -> ProcessSpec:
    return ProcessSpec(role, [role], {}, ready, after)


def test_children_start_in_order_and_gates_hold_them_back(tmp_path: Path, clock: ManualClock) -> None:
    ready: set[str] = set()
    bench = Bench(
        tmp_path,
        clock,
        _spec("api", "redis", "schema", ready=lambda: "api" in ready),
        _spec("redis", ready=lambda: "redis" in ready),
    )
    bench.step()
    bench.step()
    assert (bench.roles, bench.states) == (["redis"], ["waiting", "starting"])
    ready.add("redis")
    bench.step()
    bench.step()
    assert bench.roles == ["redis"]
    bench.supervisor.open_gate("schema")
    bench.step()
    bench.step()
    assert bench.states == ["starting", "running"]
    assert not bench.supervisor.is_ready()
    ready.add("api")
    bench.step()
    assert bench.supervisor.is_ready()


def test_a_child_that_dies_is_started_again_after_a_backoff_that_doubles(tmp_path: Path, clock: ManualClock) -> None:
    bench = Bench(tmp_path, clock, _spec("api"))
    bench.step()
    bench.step()
    bench.step(20)
    for delay in (0.5, 1.0, 2.0):
        bench.started[-1].status = -9
        bench.step()
        assert bench.states == ["restarting"]
        count = len(bench.started)
        bench.step(delay - 0.01)
        assert len(bench.started) == count
        bench.step(0.02)
        bench.step()
        assert bench.states == ["running"]
    assert bench.said[:2] == [
        "api ended with signal 9; starting it again in 0.5 s",
        f"api is running again (pid {2**22 + 1})",
    ]


def test_it_gives_up_at_a_bound_and_says_what_the_child_said_last(tmp_path: Path, clock: ManualClock) -> None:
    bench = Bench(tmp_path, clock, _spec("api"))
    bench.step()
    bench.step()
    bench.step(processes.SETTLED_SECONDS + 1)
    for _ in range(processes.RUN_DEATHS):
        bench.started[-1].status = 1
        bench.step()
        bench.step(processes.LONGEST_BACKOFF)
        bench.step()
    assert len(bench.started) == processes.RUN_DEATHS
    assert bench.states == ["failed"]
    assert str(bench.supervisor.failure).startswith(
        "api ended 5 times in a row, at last with exit status 1. The end of "
    )
    assert str(bench.supervisor.failure).endswith("  | api begins")


def test_a_child_that_never_runs_is_given_up_soon(tmp_path: Path, clock: ManualClock) -> None:
    bench = Bench(tmp_path, clock, _spec("api", ready=lambda: False))
    bench.step()
    for _ in range(processes.START_DEATHS):
        bench.started[-1].status = 1
        bench.step()
        bench.step(1)
    assert bench.states == ["failed"]
    with pytest.raises(ProcessError, match="api ended 2 times in a row"):
        bench.supervisor.wait()


def test_a_child_that_is_never_ready_is_given_up(tmp_path: Path, clock: ManualClock) -> None:
    bench = Bench(tmp_path, clock, _spec("api", ready=lambda: False))
    bench.step()
    bench.step(processes.START_SECONDS + 1)
    assert "api was not ready after 90 s" in str(bench.supervisor.failure)


def test_deaths_long_ago_are_forgotten(tmp_path: Path, clock: ManualClock) -> None:
    bench = Bench(tmp_path, clock, _spec("api"))
    bench.step()
    bench.step()
    for _ in range(processes.RUN_DEATHS * 2):
        bench.step(processes.STEADY_SECONDS + 1)
        bench.started[-1].status = 1
        bench.step()
        bench.step(processes.FIRST_BACKOFF)
        bench.step()
    assert bench.states == ["running"]


def test_a_large_log_is_put_aside(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOG_LIMIT", 10)
    (tmp_path / "api.log").write_text("x" * 11)
    bench = Bench(tmp_path, clock, _spec("api"))
    bench.step()
    assert (tmp_path / "api.log.1").read_text() == "x" * 11
    assert (tmp_path / "api.log").read_text() == "api begins\n"


def test_the_end_of_a_log_begins_where_the_last_start_did(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    log.write_text("an old trouble\nfresh\n")
    assert tail(log, len("an old trouble\n")) == f" The end of {log}:\n  | fresh"
    assert tail(log, log.stat().st_size) == f" It left nothing in {log}."
    assert tail(tmp_path / "none.log") == ""


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """Two real children; the second one ignores SIGTERM."""
    monkeypatch.setattr(processes, "LATE_SECONDS", 0.2)
    deaf = "import signal, threading; signal.signal(signal.SIGTERM, signal.SIG_IGN); threading.Event().wait()"
    specs = [
        ProcessSpec("sleeper", ["sleep", "600"], os.environ, lambda: True),
        ProcessSpec("deaf", [sys.executable, "-c", deaf], os.environ, lambda: True, last=True),
    ]
    supervisor = Supervisor(specs, tmp_path, lambda _: None)
    supervisor.begin()
    yield supervisor
    supervisor.stop()


def test_stop_leaves_no_process(real: Supervisor) -> None:
    real.wait()
    pids = [view.pid for view in real.views()]
    assert all(pid is not None and psutil.pid_exists(pid) for pid in pids)
    real.stop()
    assert not any(pid is not None and psutil.pid_exists(pid) for pid in pids)
    assert {view.state for view in real.views()} == {ProcessState.STOPPED}


def test_a_killed_child_is_replaced(real: Supervisor) -> None:
    real.wait()
    pid = real.views()[0].pid
    assert pid is not None
    psutil.Process(pid).kill()
    eventually(lambda: real.views()[0].pid not in {pid, None} and real.views()[0].state is ProcessState.RUNNING)
    assert psutil.Process(real.views()[0].pid).ppid() == os.getpid()


def test_no_child_can_be_started_at_all(tmp_path: Path) -> None:
    def refused(_spec: ProcessSpec, _output: IO[bytes]) -> FakeProcess:
        raise OSError(11, "Resource temporarily unavailable")

    supervisor = Supervisor([_spec("api")], tmp_path, lambda _: None, spawn=refused)
    supervisor.begin()
    with pytest.raises(ProcessError, match="Resource temporarily unavailable"):
        supervisor.wait()
    supervisor.stop()
