"""How fast planning reads JSON lines, against one thread of orjson.loads over the same lines, in
processor time.

python benchmarks/planning.py [--rows 200000] [--rounds 9]
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import orjson

from orchestrator.planning import Staging, plan
from orchestrator.source_files import open_local
from orchestrator.spec import parse_job
from workers.store_folder import FolderStore

WORDS = [
    "tent",
    "lantern",
    "stove",
    "jacket",
    "alpine",
    "merino",
    "light",
    "storm",
    "river",
    "trail",
    "pack",
    "summit",
    "valley",
    "down",
    "shell",
]


def write_rows(path: Path, rows: int) -> None:
    chance = random.Random(7)
    with path.open("wb") as file:
        for index in range(rows):
            row = {
                "custom_id": f"sku-{index:07d}",
                "name": " ".join(chance.choices(WORDS, k=3)),
                "category": chance.choice(WORDS),
                "features": chance.choices(WORDS, k=4),
                "price": round(chance.uniform(5, 500), 2),
                "text": " ".join(chance.choices(WORDS, k=12)),
            }
            file.write(orjson.dumps(row) + b"\n")


def parse_all(path: Path) -> float:
    lines = path.read_bytes().splitlines()
    start = time.process_time()
    for line in lines:
        orjson.loads(line)
    return time.process_time() - start


def plan_all(path: Path) -> float:
    prompt = "Describe {{ name }} ({{ category }}) for {{ price }}: {{ text }}"
    spec = parse_job({"model": "echo", "prompt": prompt, "source": {"file": str(path)}})
    start = time.process_time()
    plan(
        spec,
        open_local(spec),
        Staging(FolderStore(path.parent), "staged"),
        on_shards=lambda _shards: None,
        items_per_shard=32,
    )
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, chosen.rows)
        parsed, planned = [], []
        for _ in range(chosen.rounds):
            parsed.append(parse_all(path))
            planned.append(plan_all(path))
    # The best round of each: what else the machine did meanwhile is not ours to measure.
    loads, whole = min(parsed), min(planned)
    print(f"orjson.loads {chosen.rows / loads:12,.0f} rows/s")
    print(f"planning     {chosen.rows / whole:12,.0f} rows/s")
    print(f"ratio        {loads / whole:12.2f} (goal: at least 0.50)")


if __name__ == "__main__":
    main()
