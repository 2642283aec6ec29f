"""1,000,000 rows of a table, warm, on one worker, against mostlyai-engine doing the same by its own interface.

Both fit a model to the same rows, and sample before anything is timed. Nightmill: submission, planning, shards, blocks
in the store, until the job has ended; without rules and report. The bare engine: one call of `sample`, and its rows
written as one Parquet file. Rounds take turns. A job with rules and one with passes are timed beside them.

Writes results/tables.json and .md. Run as `python -m benchmarks.tables [--rows 1000000] [--rounds 3]`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.csv as pa_csv

from benchmarks.measuring import Memory, Stack, keep, machine, rows, said, summary
from benchmarks.table_engines import Sample, fit_bare, split

MODEL = "bench"
RULES: dict[str, Any] = {"rules": ["carat BETWEEN 0.25 AND 3", "price > 350 OR cut <> 'Ideal'"]}
OVER_ALL: dict[str, Any] = {"unique": [["carat", "depth", "table", "price", "x", "y", "z", "cut", "color", "clarity"]]}


def end(stack: Stack, spec: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Seconds from submission to the end of a job, and the job."""
    started = time.perf_counter()
    submitted = stack.client.submit(spec, key=f"{time.time_ns()}")
    *_, job = stack.client.watch(submitted.id)
    if job.status != "completed" or job.counts.failed:
        raise RuntimeError(f"the job {job.status}: {job.error or job.counts}")
    return time.perf_counter() - started, job.to_json()


def sampling(count: int, seed: int, **table: object) -> dict[str, Any]:
    fields = {"kind": "tabular", "model": MODEL, "seed": seed, "report": False}
    return {**fields, "table": {"rows": count, **table}}


def bare(sample: Sample, count: int, path: Path) -> float:
    started = time.perf_counter()
    import pyarrow.parquet as pq  # noqa: PLC0415 - imported already, by what fitted the model

    pq.write_table(sample(count, 0), path, compression="zstd")
    return time.perf_counter() - started


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--minutes", type=float, default=1.0, help="of each fit")
    given = options.parse_args()
    before = machine()
    seconds: dict[str, list[float]] = {"nightmill": [], "bare": []}
    with tempfile.TemporaryDirectory(prefix="nm-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        data = split("diamonds", 20_000, 7)
        source = folder / "diamonds.csv"
        pa_csv.write_csv(data.train, source)
        with said("fitting the bare engine"):
            sample = fit_bare(data, given.minutes, 7, folder)
        with Stack(folder / "stack") as stack, Memory(stack.pid) as memory:
            fit = {
                "kind": "train",
                "model": MODEL,
                "data": {"file": stack.client.upload(source).uri},
                "training": {"family": "tabular-argn", "budget": f"{round(60 * given.minutes)}s"},
                "seed": 7,
            }
            with said("fitting"):
                end(stack, fit)
            end(stack, sampling(20_000, 1))
            sample(20_000, 1)
            for number in range(given.rounds):
                turns = ["nightmill", "bare"]
                for turn in turns if number % 2 == 0 else reversed(turns):
                    with said(f"round {number + 1}: {turn}"):
                        if turn == "nightmill":
                            took, job = end(stack, sampling(given.rows, 10 + number))
                            if job["rows"] != given.rows:
                                raise RuntimeError(f"{job['rows']} rows came out")
                        else:
                            took = bare(sample, given.rows, folder / "bare.parquet")
                        seconds[turn].append(took)
            with said("with rules"):
                with_rules, _ = end(stack, sampling(given.rows, 20, accept=RULES))
            with said("with passes"):
                with_passes, judged = end(stack, sampling(given.rows, 21, accept=OVER_ALL))
    each = [b / a for a, b in zip(seconds["nightmill"], seconds["bare"], strict=True)]
    speeds = {key: summary([given.rows / took for took in taken]) for key, taken in seconds.items()}
    text = f"{given.rows:,} rows of diamonds, ten columns, {before['cores']} cores ({before['processor']})\n\n"
    text += rows(
        ["participant", "rows/s, median", "min", "max", "seconds, median"],
        [
            [
                key,
                f"{speed['median']:,.0f}",
                f"{speed['min']:,.0f}",
                f"{speed['max']:,.0f}",
                f"{given.rows / speed['median']:.1f}",
            ]
            for key, speed in speeds.items()
        ],
    )
    found = judged["findings"]
    text += f"\nratio, nightmill / bare (goal 0.9): median {summary(each)['median']:.2f}; rounds "
    text += ", ".join(f"{ratio:.2f}" for ratio in each)
    text += f"\n\nwith two rules: {given.rows / with_rules:,.0f} rows/s; with no row twice: "
    text += (
        f"{given.rows / with_passes:,.0f} rows/s, {found['rounds']} passes, {found['drawn_again']:,} rows drawn again"
    )
    text += "\n\npeak memory, MiB: " + ", ".join(f"{role} {size:,}" for role, size in memory.mebibytes().items()) + "\n"
    figures = {"machine": before, "rows": given.rows, "rows_per_second": speeds, "ratios": each, "seconds": seconds}
    figures |= {"with_rules": with_rules, "with_passes": with_passes, "findings": found}
    keep("tables", {**figures, "peak_mebibytes": memory.mebibytes()}, text)


if __name__ == "__main__":
    main()
