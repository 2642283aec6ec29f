"""Jobs of 100,000, 1,000,000 and 10,000,000 items through `echo`: what an item costs, and what memory a job takes.

Each job has a fresh stack. While it runs, it is looked at as a person would: its figures, and the first page of its
results. The results are read whole at the end, and checked: every item once, in order, with the right answer. Writes
results/size.json and results/size.md. Run as `python -m benchmarks.size [--items 100000 1000000 10000000]`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import func, select

from benchmarks.echo import SPEC, make_source
from benchmarks.measuring import Memory, Sampler, Stack, keep, machine, rows, said
from orchestrator import database
from orchestrator.tables import Execution, Job, Shard

LOOK_SECONDS = 0.5
SHOWN_ROLES = ("api", "control worker", "scheduler", "generation worker", "model actor")


class Looks(Sampler):
    """Looks at a job, and notes how long each look took, in seconds."""

    def __init__(self, stack: Stack, job: str) -> None:
        super().__init__(LOOK_SECONDS)
        self.shows: list[float] = []
        self.pages: list[float] = []
        self._stack = stack
        self._job = job

    def _look(self) -> None:
        client = self._stack.client
        started = time.perf_counter()
        client.job(self._job)
        self.shows.append(time.perf_counter() - started)
        started = time.perf_counter()
        client.results(self._job, limit=100)
        self.pages.append(time.perf_counter() - started)


def run(folder: Path, items: int) -> dict[str, Any]:
    """One job of so many items, on a stack of its own."""
    source = folder / "rows.jsonl"
    make_source(source, items)
    with Stack(folder / "stack") as stack:
        small = folder / "small.jsonl"
        make_source(small, 1000)
        stack.run(SPEC, small, folder / "small-out.jsonl")  # its workers have connected once this is done
        with Memory(stack.pid) as memory:
            started = time.perf_counter()
            uri = stack.client.upload(source).uri
            uploaded = time.perf_counter()
            submitted = stack.client.submit(
                {**SPEC, "source": {**SPEC["source"], "file": uri}}, key=str(time.time_ns())
            )
            with Looks(stack, submitted.id) as looks:
                *_, job = stack.client.watch(submitted.id)
            ended = time.perf_counter()
            check(stack.client.content(job.id, "jsonl"), items)
            read = time.perf_counter()
        if job.status != "completed" or job.counts.ok != items or job.planned_at is None:
            raise RuntimeError(f"the job of {items:,} items {job.status}: {job.counts}")
        engine = database.connect(f"sqlite:///{folder / 'stack' / 'nightmill.db'}")
        with database.reading(engine) as connection:
            tables = (Job, Shard, Execution)
            sql_rows = sum(connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables)
        engine.dispose()
    return {
        "items": items,
        "upload_seconds": uploaded - started,
        "planning_seconds": job.planned_at - job.created_at,
        "job_seconds": ended - uploaded,
        "reading_seconds": read - ended,
        "sql_rows": sql_rows,
        "shards": job.shard_count,
        "show_seconds": {"median": statistics.median(looks.shows), "max": max(looks.shows)},
        "page_seconds": {"median": statistics.median(looks.pages), "max": max(looks.pages)},
        "peak_mebibytes": memory.mebibytes(),
    }


def check(blocks: Iterator[bytes], items: int) -> None:
    """Raise unless the results are one record for each item, in order, with the right answer."""
    expected = 0
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            record = orjson.loads(line)
            answer = f"Write about Tent {expected}, one of our tents, at {expected % 500} euros."
            if record["index"] != expected or record["status"] != "ok" or record["output"] != answer:
                raise RuntimeError(f"item {expected} is wrong: {line.decode()[:300]}")
            expected += 1
    if expected != items or rest:
        raise RuntimeError(f"there are {expected:,} records of {items:,}")


def report(runs: list[dict[str, Any]], where: str) -> str:
    """The table, and what an item costs from one size to the next."""
    table = f"`echo`, JSON lines, a fresh stack for each size, {where}\n\n"
    table += rows(
        ["items", "upload, s", "planning, s", "job, s", "items/s", "reading results, s", "shards", "SQL rows"],
        [
            [
                f"{one['items']:,}",
                f"{one['upload_seconds']:.1f}",
                f"{one['planning_seconds']:.1f}",
                f"{one['job_seconds']:.1f}",
                f"{one['items'] / one['job_seconds']:,.0f}",
                f"{one['reading_seconds']:.1f}",
                f"{one['shards']:,}",
                f"{one['sql_rows']:,}",
            ]
            for one in runs
        ],
    )
    table += "\n" + rows(
        [
            "items",
            "show, ms: median",
            "max",
            "first page, ms: median",
            "max",
            *(f"{role}, MiB" for role in SHOWN_ROLES),
        ],
        [
            [
                f"{one['items']:,}",
                *(
                    f"{1000 * one[what][which]:.0f}"
                    for what in ("show_seconds", "page_seconds")
                    for which in ("median", "max")
                ),
                *(one["peak_mebibytes"].get(role, "-") for role in SHOWN_ROLES),
            ]
            for one in runs
        ],
    )
    for smaller, larger in itertools.pairwise(runs):
        more = larger["items"] - smaller["items"]
        each = (larger["job_seconds"] - smaller["job_seconds"]) / more
        fixed = smaller["job_seconds"] - each * smaller["items"]
        table += (
            f"\nfrom {smaller['items']:,} to {larger['items']:,} items: {1e6 * each:.2f} µs an item more, "
            f"and {fixed:.1f} s that do not depend on their number\n"
        )
    return table


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    given = options.parse_args()
    before = machine()
    runs = []
    for items in sorted(given.items):
        with (
            tempfile.TemporaryDirectory(prefix="nm-size-", ignore_cleanup_errors=True) as name,
            said(f"{items:,} items"),
        ):
            runs.append(run(Path(name), items))
    where = f"{before['cores']} cores ({before['processor']})"
    keep("size", {"machine": before, "runs": runs}, report(runs, where))


if __name__ == "__main__":
    main()
