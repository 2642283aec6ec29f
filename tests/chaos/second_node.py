"""A second Ray node with a worker of its own, on this machine, that can be lost as a whole.

It lives in a process namespace of its own (`unshare`): its worker sees only its own raylet, as on another machine, and
the kernel ends everything in it with its first process.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from tests.chaos.stand import Stand
from tests.support.commands import ROOT
from tests.support.services import service

_ALONE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
_AS_NOBODY = ("--user", "--map-root-user")
"""Who is not root may make a namespace only where they seem to be."""


class SecondNode:
    """The node. `start` it, `lose` it, and start it again."""

    def __init__(self, stand: Stand) -> None:
        # All of the stack share one environment. The workers' own cannot be read: their titles are written over it.
        [scheduler] = stand.pids("scheduler")
        self._environment = {
            **psutil.Process(scheduler).environ(),
            "PYTHONPATH": str(ROOT),
        }
        self._held = ExitStack()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start node and worker; returns once the node has joined."""
        ray = Path(sys.executable).with_name("ray")
        address = self._environment["NIGHTMILL_RAY_ADDRESS"]
        options = (
            "--block --disable-usage-stats --num-cpus 2 --node-ip-address 127.0.0.1 --object-store-memory 100000000"
        )
        node = f"{shlex.quote(str(ray))} start --address {address} {options}"
        worker = f"{shlex.quote(sys.executable)} -m workers.tasks"
        command = [*_ALONE, *(() if os.geteuid() == 0 else _AS_NOBODY), "sh", "-c", f"{node} & exec {worker}"]
        started = service(command, ready="Ray runtime started", environment=self._environment)
        self._process = self._held.enter_context(started)

    def lose(self) -> None:
        """Kill everything on it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._held.close()


@contextmanager
def second_node(stand: Stand) -> Iterator[SecondNode]:
    """A second node that runs, and is gone after."""
    node = SecondNode(stand)
    try:
        node.start()
        yield node
    finally:
        node.lose()
