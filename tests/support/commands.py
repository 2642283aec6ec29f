"""The command `nightmill` as a person runs it: a process of its own, with a data directory of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.eventually import eventually

ROOT = Path(__file__).resolve().parents[2]
COMMAND_SECONDS = 240


@dataclass
class Nightmill:
    """Runs commands against one data directory."""

    data_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "NIGHTMILL_DATA_DIR": str(self.data_dir),
            "NIGHTMILL_ALLOW_FAULTS": "1",
            **self.settings,
        }

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start a command; its output is read by the caller."""
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=self.data_dir.parent,
        )

    def run(self, *arguments: str | Path, code: int = 0) -> str:
        """Run a command to its end, which must be `code`; what it printed."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{arguments} did not end:\n{out}\n{err}\n{self.logs()}") from None
        assert process.returncode == code, f"{arguments} ended with {process.returncode}:\n{out}\n{err}\n{self.logs()}"
        return out if code == 0 else out + err

    def json(self, *arguments: str | Path) -> Any:
        """What a command prints with --json."""
        return json.loads(self.run(*arguments, "--json"))

    def logs(self) -> str:
        """The end of every process's log."""
        found = sorted((self.data_dir / "logs").glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text()[-1500:]}" for path in found)

    def processes(self) -> dict[int, str]:
        """Every process that was started below this data directory's parent, and lives.

        Told by its folder: Redis, Celery and Ray write their titles over the environment that /proc shows.
        """
        home = self.data_dir.parent
        found = {}
        for process in psutil.process_iter():
            try:
                folder = Path(process.cwd())
                if (folder == home or home in folder.parents) and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = " ".join(process.cmdline())[:120]
            except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):  # psutil on one that is ending
                continue
        return found

    def none_is_left(self, *, within: float = 30.0) -> None:
        """Assert that no process remains."""
        eventually(lambda: not self.processes(), within=within, what=f"none is left of {self.processes()}")
