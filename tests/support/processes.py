"""The orchestrator's own processes, as the launcher would start them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import orchestrator.child
from tests.support.eventually import PATIENCE_SECONDS


class Running:
    """A process of ours, and what it has said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def said(self, text: str, *, within: float = PATIENCE_SECONDS) -> bool:
        """Whether it has said this, or says it in time."""
        with self._said:
            return self._said.wait_for(lambda: any(text in line for line in self.lines), within)

    def end(self) -> int:
        """Ask it to end as the launcher does; its exit status."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(timeout=PATIENCE_SECONDS)
        self._reader.join()
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._said:
                self.lines.append(line)
                self._said.notify_all()
        self.process.stdout.close()


@contextmanager
def running(module: str, environment: Mapping[str, str]) -> Iterator[Running]:
    """`python -m module`, ended with the context."""
    wrapper = [sys.executable, "-I", "-S", orchestrator.child.__file__, "exec", str(os.getpid())]
    process = subprocess.Popen(
        [*wrapper, sys.executable, "-m", module],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
        cwd=Path(orchestrator.__file__).parent.parent,
    )
    child = Running(process)
    try:
        yield child
    finally:
        if process.poll() is None:
            process.kill()
            child.wait()
