"""Jobs of 100,000, 1,000,000 and 10,000,000 items through `echo`: what an item costs, and what memory a job takes.

Each size has a fresh stack, warm when it is measured: a job before it has made every actor load. Small jobs are
run several times. While a job runs, it is looked at as a person would: its figures, and the first page of its results.
The results are read whole at the end, and checked: every item once, in order, with the right answer. Writes
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
WARM_ROWS = 200_000
"""Shards enough for an actor on every core."""
TIMES = {100_000: 5, 1_000_000: 3}
"""How often a job of up to so many items is run: what is short is noisy."""
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


def measure(folder: Path, items: int) -> dict[str, Any]:
    """Jobs of so many items, one after the other, on a stack of their own."""
    source, warm = folder / "rows.jsonl", folder / "warm.jsonl"
    make_source(source, items)
    make_source(warm, WARM_ROWS)
    times = next((times for most, times in TIMES.items() if items <= most), 1)
    with Stack(folder / "stack") as stack:
        stack.run(SPEC, warm, folder / "warm-out.jsonl")
        with Memory(stack.pid) as memory:
            jobs = [_one_job(stack, source, items) for _ in range(times)]
        ids = [job["id"] for job in jobs]
        engine = database.connect(f"sqlite:///{folder / 'stack' / 'nightmill.db'}")
        with database.reading(engine) as connection:
            columns = (Job.id, Shard.job_id, Execution.job_id)
            sql_rows = sum(connection.scalar(select(func.count()).where(column.in_(ids))) or 0 for column in columns)
        engine.dispose()
    return {
        "items": items,
        "times": times,
        **{
            f"{what}_seconds": statistics.median(job[what] for job in jobs)
            for what in ("upload", "planning", "job", "reading")
        },
        "all_job_seconds": [job["job"] for job in jobs],
        "predictions_off": [job["off"] for job in jobs if job["off"] is not None],
        "sql_rows": sql_rows // times,
        "shards": jobs[0]["shards"],
        **{
            f"{what}_seconds": {"median": statistics.median(each), "max": max(each)}
            for what in ("show", "page")
            for each in [[seconds for job in jobs for seconds in job[what]]]
        },
        "peak_mebibytes": memory.mebibytes(),
    }


def _one_job(stack: Stack, source: Path, items: int) -> dict[str, Any]:
    started = time.perf_counter()
    uri = stack.client.upload(source).uri
    uploaded = time.perf_counter()
    submitted = stack.client.submit({**SPEC, "source": {**SPEC["source"], "file": uri}}, key=str(time.time_ns()))
    with Looks(stack, submitted.id) as looks:
        *_, job = stack.client.watch(submitted.id)
    ended = time.perf_counter()
    check(stack.client.content(job.id, "jsonl"), items)
    read = time.perf_counter()
    if job.status != "completed" or job.counts.ok != items or job.planned_at is None or job.finished_at is None:
        raise RuntimeError(f"the job of {items:,} items {job.status}: {job.counts}")
    return {
        "id": job.id,
        "upload": uploaded - started,
        "planning": job.planned_at - job.created_at,
        "job": ended - uploaded,
        "reading": read - ended,
        "shards": job.shard_count,
        "show": looks.shows,
        "page": looks.pages,
        "off": None if job.first_prediction is None else job.first_prediction.off_by(job.finished_at),
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
    table = f"`echo`, JSON lines, a fresh stack for each size, its actors loaded, {where}; times are medians\n\n"
    table += rows(
        ["items", "jobs", "upload, s", "planning, s", "job, s", "items/s", "reading results, s", "shards", "SQL rows"],
        [
            [
                f"{one['items']:,}",
                f"{one['times']}",
                f"{one['upload_seconds']:.1f}",
                f"{one['planning_seconds']:.1f}",
                f"{one['job_seconds']:.2f}",
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
    each = [
        (larger["job_seconds"] - smaller["job_seconds"]) / (larger["items"] - smaller["items"])
        for smaller, larger in itertools.pairwise(runs)
    ]
    for (smaller, larger), seconds in zip(itertools.pairwise(runs), each, strict=True):
        table += f"\nfrom {smaller['items']:,} to {larger['items']:,} items: {1e6 * seconds:.2f} µs an item more\n"
    if each:
        table += f"\nof a job, whatever its size: {runs[0]['job_seconds'] - each[0] * runs[0]['items']:.2f} s\n"
    for one in runs:
        if one["predictions_off"]:
            off = ", ".join(f"{100 * part:+.0f} %" for part in one["predictions_off"])
            table += (
                f"\nfirst prediction of the finish, {one['items']:,} items: off by {off} of the time it looked ahead\n"
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
            runs.append(measure(Path(name), items))
    where = f"{before['cores']} cores ({before['processor']})"
    keep("size", {"machine": before, "runs": runs}, report(runs, where))


if __name__ == "__main__":
    main()
