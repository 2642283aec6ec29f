"""Starts one child process so that it cannot outlive the launcher, however the launcher ends.

Run as a script, by path, with nothing but the standard library, between the launcher and the program it wants:

    python -I -S child.py exec PARENT_PID COMMAND…     becomes the command; the kernel kills it when its parent is gone
    python -I -S child.py keep PARENT_PID COMMAND…     stays, and ends every descendant of the command with itself

`keep` is for Ray, whose agents notice only after some twenty seconds that their node has died.

The parent is the *thread* that started us (prctl(2), PR_SET_PDEATHSIG): it has to live as long as the child shall.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
GRACE_SECONDS = 6.0  # Ray drains its node for about a second before it ends
NOT_STARTED = 127


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}, {value}): {os.strerror(code)}")


def die_with(parent: int, how: signal.Signals) -> None:
    """Have the kernel send us `how` when the parent ends; end now if it already has."""
    _prctl(PR_SET_PDEATHSIG, how)
    if os.getppid() != parent:
        sys.exit(NOT_STARTED)


def become(command: list[str]) -> None:
    """Replace this process by the command."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # `keep` blocks signals, and a mask survives exec
    try:
        os.execvp(command[0], command)  # noqa: S606 - the point of this file
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        sys.exit(NOT_STARTED)


def _children() -> list[int]:
    """Direct children, orphans of our descendants included: as their subreaper we inherit them."""
    own = str(os.getpid())
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue  # it has ended since
        # The second field is the program's name in brackets and may itself hold spaces and brackets.
        if stat.rpartition(")")[2].split()[1] == own:
            found.append(int(entry.name))
    return found


def end_descendants() -> None:
    """Kill children until none is left; the children of those we kill become ours."""
    while True:
        for pid in _children():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # ended between the look and the kill
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def keep(command: list[str]) -> int:
    """Run the command until it ends or we are told to stop; leave no descendant of it; return its exit status."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    awaited = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    wrapper = [sys.executable, "-I", "-S", __file__, "exec", str(os.getpid())]
    child = os.posix_spawn(sys.executable, [*wrapper, *command], os.environ)
    deadline: float | None = None
    status: int | None = None
    while status is None:
        if deadline is None:
            got = signal.sigwait(awaited)
        else:
            left = deadline - time.monotonic()
            info = signal.sigtimedwait(awaited, max(0.0, left))
            if info is None:
                break
            got = signal.Signals(info.si_signo)
        if got != signal.SIGCHLD and deadline is None:
            deadline = time.monotonic() + GRACE_SECONDS
            os.kill(child, signal.SIGTERM)
        status = _reap(child)
    end_descendants()
    return 128 + signal.SIGKILL if status is None else status


def _reap(awaited: int) -> int | None:
    """Collect every child that has ended; the exit status of the one that we wait for, if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == awaited:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code


def main(arguments: list[str]) -> int:
    """Do what the arguments say: see the top of this file."""
    mode, parent, *command = arguments
    if mode == "keep":
        die_with(int(parent), signal.SIGTERM)
        return keep(command)
    die_with(int(parent), signal.SIGKILL)
    become(command)
    return NOT_STARTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
