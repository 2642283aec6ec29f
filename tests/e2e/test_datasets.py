"""A table as its user sees it: fitted, sampled, judged and described by the whole stack, also where a worker dies."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
from pathlib import Path

import pyarrow.parquet as pq

from tests.support.commands import Nightmill
from tests.support.eventually import eventually

FIT = {
    "kind": "train",
    "model": "visits",
    "data": {"file": "visits.csv", "license": "CC0-1.0"},
    "training": {"family": "tabular-vae", "steps": 60, "options": {"widths": [32]}},
    "seed": 1,
}
SAMPLE = {
    "kind": "tabular",
    "model": "visits",
    "table": {
        "rows": 300_000,
        "block": 1000,
        "accept": {"rules": ["minutes >= 2"]},
    },
    "report": {"target": "town"},
    "seed": 4,
}


def test_a_table_whose_sampling_is_killed_is_the_same_to_the_byte(tmp_path: Path) -> None:
    nightmill = Nightmill(tmp_path / "data", {"NIGHTMILL_PREWARM": "0"})
    chance = random.Random(2)
    with (tmp_path / "visits.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["town", "zone", "minutes"])
        for _ in range(400):
            town = chance.choice(["Graz", "Linz", "Wels"])
            writer.writerow([town, f"zone {town[0]}", round(chance.lognormvariate(2, 0.6), 1)])
    job = tmp_path / "job.yaml"
    nightmill.run("up", "--detach", "--port", "0")
    try:
        job.write_text(json.dumps(FIT))
        assert "1 ok" in nightmill.run("run", job)
        [listed] = [entry for entry in nightmill.json("models") if entry["name"] == "visits"]
        assert listed["kind"] == "table"

        job.write_text(json.dumps(SAMPLE))
        assert nightmill.run("preview", job, "--n", "2").count("minutes:") == 2
        submitted = nightmill.run("submit", job).strip()
        tables = tmp_path / "data" / "store" / "jobs" / submitted / "table"
        eventually(lambda: any(tables.glob("*/*.parquet")), within=180, what="a block of rows")
        actors = [pid for pid, command in nightmill.processes().items() if command.startswith("ray::ModelActor")]
        assert actors
        for pid in actors:
            os.kill(pid, signal.SIGKILL)
        ended = nightmill.json("watch", submitted)
        assert (ended["status"], ended["counts"]["failed"], ended["rows"]) == ("completed", 0, 300_000)
        assert ended["losses"] + ended["failures"] > 0
        nightmill.run("results", submitted, "--out", tmp_path / "killed")
        assert "300,000" in nightmill.run("run", job, "--out", tmp_path / "whole")
        for name in ("table.parquet", "report.json"):
            assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name

        table = pq.read_table(tmp_path / "whole" / "table.parquet")
        assert table.num_rows == 300_000
        assert min(table["minutes"].to_pylist()) >= 2
        assert nightmill.json("results", submitted, "--limit", "1")[0]["table"]["rows"] == 1000
    finally:
        nightmill.run("down")
    nightmill.none_is_left()
