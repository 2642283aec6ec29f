"""A child ends with its launcher, however the launcher ends. Real processes, each ended by its test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from orchestrator import child
from tests.support.eventually import eventually
from tests.support.running import is_running

# A shell that starts a background process in a session of its own, as Ray starts its agents, and says its pid.
WITH_ORPHAN = "setsid sleep 600 & echo $!; echo $$; wait"


def _launcher(mode: str, command: str) -> subprocess.Popen[str]:
    """A process whose only child is what `child.py` makes of the command."""
    source = (
        "import os, subprocess, sys, threading\n"
        f"subprocess.Popen([sys.executable, '-I', '-S', {child.__file__!r}, {mode!r}, str(os.getpid()), "
        f"'sh', '-c', {command!r}], start_new_session=True)\n"
        "threading.Event().wait()\n"
    )
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)


def _launch(mode: str, command: str, says: int) -> tuple[subprocess.Popen[str], list[int]]:
    launcher = _launcher(mode, command)
    assert launcher.stdout is not None
    return launcher, [int(launcher.stdout.readline()) for _ in range(says)]


def _finish(launcher: subprocess.Popen[str]) -> None:
    launcher.kill()
    launcher.wait()
    if launcher.stdout is not None:
        launcher.stdout.close()


def test_exec_becomes_the_command_and_dies_with_its_parent() -> None:
    launcher, (pid,) = _launch("exec", "echo $$; exec sleep 600", 1)
    try:
        assert psutil.Process(pid).ppid() == launcher.pid
        launcher.kill()
        eventually(lambda: not is_running(pid))
    finally:
        _finish(launcher)


def test_keep_ends_descendants_that_left_their_session_when_the_launcher_is_killed() -> None:
    launcher, pids = _launch("keep", WITH_ORPHAN, 2)
    try:
        assert all(map(is_running, pids))
        launcher.kill()
        eventually(lambda: not any(map(is_running, pids)))
    finally:
        _finish(launcher)


def test_keep_ends_orphans_when_the_command_dies() -> None:
    launcher, (orphan, shell) = _launch("keep", WITH_ORPHAN, 2)
    try:
        keeper = psutil.Process(shell).ppid()
        os.kill(shell, signal.SIGKILL)
        eventually(lambda: not is_running(orphan) and not is_running(keeper))
        assert is_running(launcher.pid)
    finally:
        _finish(launcher)


def test_keep_passes_on_a_request_to_stop_and_kills_what_ignores_it(tmp_path: Path) -> None:
    # The child of the shell ignores SIGTERM; the shell itself notes it and ends.
    told = tmp_path / "told"
    command = f"trap 'touch {told}; exit 7' TERM; (trap '' TERM; sleep 600) & echo $!; while :; do wait; done"
    launcher, (deaf,) = _launch("keep", command, 1)
    try:
        shell = psutil.Process(deaf).parent()
        assert shell is not None
        keeper = shell.parent()
        assert keeper is not None
        keeper.terminate()
        eventually(lambda: not is_running(keeper.pid))
        assert told.exists()
        assert not is_running(deaf)
    finally:
        _finish(launcher)


def test_a_command_that_does_not_exist_is_said() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", child.__file__, "exec", str(os.getpid()), "/no/such/program"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == child.NOT_STARTED
    assert "cannot start /no/such/program: No such file" in done.stderr


def test_a_child_whose_parent_has_gone_already_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", child.__file__, "exec", "1", "echo", "started"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (child.NOT_STARTED, "")
