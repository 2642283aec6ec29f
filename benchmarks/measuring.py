"""What every benchmark here needs: rounds that take turns, peaks of memory, and a table at the end."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psutil

from orchestrator.client import Client

RESULTS = Path(__file__).with_name("results")
MEBIBYTE = 1 << 20
SAMPLE_SECONDS = 0.25


class Sampler(ABC):
    """Looks at something again and again, in a thread of its own, while the context is open."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._every):
            self._look()

    @abstractmethod
    def _look(self) -> None:
        """Look once."""


class Memory(Sampler):
    """The highest resident memory of every process below a root, by role."""

    def __init__(self, root: int) -> None:
        super().__init__(SAMPLE_SECONDS)
        self.peaks: dict[str, int] = {}
        self._root = root

    def _look(self) -> None:
        try:
            root = psutil.Process(self._root)
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in family:
            try:
                role, size = _role(process), process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            self.peaks[role] = max(self.peaks.get(role, 0), size)

    def mebibytes(self) -> dict[str, int]:
        """Peaks in MiB, largest first."""
        return {role: peak // MEBIBYTE for role, peak in sorted(self.peaks.items(), key=lambda entry: -entry[1])}


def _role(process: psutil.Process) -> str:
    words = process.cmdline() or [process.name()]
    line = " ".join(words)
    for mark, role in {
        "orchestrator.cli": "launcher",
        "orchestrator.api": "api",
        "orchestrator.scheduler": "scheduler",
        "orchestrator.control": "control worker",
        "celeryd: control": "control worker",
        "workers.tasks": "generation worker",
        "celeryd: generate": "generation worker",
        "ray::ModelActor": "model actor",
        "redis-server": "redis",
    }.items():
        if mark in line:
            return role
    return f"ray ({process.name()[:15]})" if "ray" in line else process.name()


class Stack:
    """An embedded stack of its own, on a free port, in a data directory of its own."""

    def __init__(self, folder: Path, *, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("NIGHTMILL_")},
            "NIGHTMILL_DATA_DIR": str(folder),
            **(environment or {}),
        }
        self.client: Client
        self.pid = 0

    def __enter__(self) -> Self:
        self._call("up", "--detach", "--port", "0")
        status = json.loads(self._call("status", "--json"))
        self.pid = next(process["pid"] for process in status["processes"] if process["role"] == "launcher")
        self.client = Client(status["url"])
        return self

    def __exit__(self, *_: object) -> None:
        self.client.__exit__(None, None, None)
        self._call("down")

    def run(self, spec: dict[str, Any], source: Path, output: Path) -> tuple[float, dict[str, Any]]:
        """Upload, submit, wait and fetch, as a client does; seconds from the first byte sent to the last one kept."""
        started = time.perf_counter()
        uri = self.client.upload(source).uri
        submitted = self.client.submit(
            {**spec, "source": {**spec.get("source", {}), "file": uri}}, key=f"{time.time_ns()}"
        )
        *_, job = self.client.watch(submitted.id)
        if job.status != "completed":
            raise RuntimeError(f"the job {job.status}: {job.error}")
        with output.open("wb") as file:
            for block in self.client.content(job.id, "jsonl"):
                file.write(block)
        return time.perf_counter() - started, job.to_json()

    def _call(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and spread of some rounds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": len(values)}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30)),
        "processor": _processor(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def keep(name: str, figures: dict[str, Any], table: str) -> None:
    """Write figures and table beside each other, and show the table."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    (RESULTS / f"{name}.md").write_text(table)
    print(table)


def rows(head: Sequence[str], body: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [
        " | ".join(head),
        " | ".join("---" for _ in head),
        *(" | ".join(str(cell) for cell in row) for row in body),
    ]
    return "".join(f"| {line} |\n" for line in lines)


@contextmanager
def said(what: str) -> Iterator[None]:
    """Say on stderr what is being measured, and how long it took."""
    started = time.perf_counter()
    print(f"{what} …", end=" ", file=sys.stderr, flush=True)
    yield
    print(f"{time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
