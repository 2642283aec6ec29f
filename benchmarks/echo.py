"""1,000,000 rows through `echo`, against ray.data doing the same, both with Ray already up.

Nightmill: upload, planning, queue, shards, parts, results fetched as one JSON lines file. ray.data: read_json →
map_batches (one actor, rendering the same template) → write_json. Both outputs are compared row by row. Rounds take
turns. Writes results/echo.json and results/echo.md. Run as `python -m benchmarks.echo [--rows 1000000] [--rounds 3]`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

from benchmarks.measuring import Memory, Stack, keep, machine, rows, said, summary
from tests.support import services

HERE = Path(__file__).parent
TEMPLATE = "Write about {{ name }}, one of our {{ category }}, at {{ price }} euros."
SPEC: dict[str, Any] = {"name": "echo", "kind": "echo", "source": {"custom_id": "sku"}, "prompt": TEMPLATE}


def make_source(path: Path, count: int) -> None:
    """Rows of about 100 bytes."""
    with path.open("wb") as file:
        for number in range(count):
            row = {"sku": f"sku-{number}", "name": f"Tent {number}", "category": "tents", "price": number % 500}
            file.write(orjson.dumps(row) + b"\n")


def ray_data(address: str, source: Path, output: Path) -> dict[str, Any]:
    """The same work in ray.data, in a process of its own; the seconds exclude its imports and its connection."""
    command = [sys.executable, "-m", "benchmarks.echo_ray_data", address, str(source), str(output), TEMPLATE]
    process = subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    said_last, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError("the ray.data side failed")
    answer: dict[str, Any] = json.loads(said_last.splitlines()[-1])
    return answer


def answers_of_ray(folder: Path) -> dict[str, str]:
    """Answer by sku."""
    found = {}
    for path in folder.glob("*.json"):
        for line in path.read_bytes().splitlines():
            row = orjson.loads(line)
            found[row["sku"]] = row["output"]
    return found


def answers_of_nightmill(path: Path) -> dict[str, str]:
    """Answer by custom_id."""
    found = {}
    for line in path.read_bytes().splitlines():
        record = orjson.loads(line)
        found[record["custom_id"]] = record["output"]
    return found


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    before = machine()
    seconds: dict[str, list[float]] = {"nightmill": [], "ray.data": []}
    with tempfile.TemporaryDirectory(prefix="nm-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        source = folder / "rows.jsonl"
        make_source(source, given.rows)
        with services.ray_head(cpus=2) as address, Stack(folder / "stack") as stack, Memory(stack.pid) as memory:
            small = folder / "small.jsonl"
            make_source(small, 1000)
            stack.run(SPEC, small, folder / "small-out.jsonl")  # its workers have connected once this is done
            for number in range(given.rounds):
                turns = ["nightmill", "ray.data"]
                for turn in turns if number % 2 == 0 else reversed(turns):
                    with said(f"round {number + 1}: {turn}"):
                        if turn == "nightmill":
                            took, _ = stack.run(SPEC, source, folder / "nightmill.jsonl")
                        else:
                            time.sleep(1.0)  # lets the stack come to rest
                            took = ray_data(address, source, folder / f"ray-{number}")["seconds"]
                        seconds[turn].append(took)
        ours, theirs = answers_of_nightmill(folder / "nightmill.jsonl"), answers_of_ray(folder / "ray-0")
    if ours != theirs or len(ours) != given.rows:
        raise RuntimeError(f"the outputs differ: {len(ours)} rows here, {len(theirs)} there")
    speeds = {key: summary([given.rows / took for took in taken]) for key, taken in seconds.items()}
    each = [b / a for a, b in zip(seconds["nightmill"], seconds["ray.data"], strict=True)]
    where = f"{before['cores']} cores ({before['processor']})"
    table = f"{given.rows:,} rows, JSON lines in and out, outputs equal, {where}\n\n"
    table += rows(
        ["participant", "rows/s, median", "min", "max", "seconds, median"],
        [
            [
                key,
                f"{speed['median']:,.0f}",
                f"{speed['min']:,.0f}",
                f"{speed['max']:,.0f}",
                f"{given.rows / speed['median']:.2f}",
            ]
            for key, speed in speeds.items()
        ],
    )
    table += f"\nratio, nightmill / ray.data (goal 1.5): median {summary(each)['median']:.2f}; rounds "
    table += ", ".join(f"{ratio:.2f}" for ratio in each) + "\n\npeak memory, MiB: "
    table += ", ".join(f"{role} {size:,}" for role, size in memory.mebibytes().items()) + "\n"
    figures = {"machine": before, "rows": given.rows, "rows_per_second": speeds, "ratios": each, "seconds": seconds}
    keep("echo", {**figures, "peak_mebibytes": memory.mebibytes()}, table)


if __name__ == "__main__":
    main()
