"""The matrix as a Markdown table, from the JSON files of its scenarios, whichever runs wrote them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

HEAD = (
    "fault",
    "seeds",
    "passed",
    "recovered after, s: median / max",
    "cut shards ran again after, s: max",
    "items computed again: median / max",
    "engine idle, s: median / max",
)


def read_results(folder: Path) -> list[dict[str, Any]]:  # scenario.Result as JSON
    """Every result in a folder, by fault and seed."""
    found = [orjson.loads(path.read_bytes()) for path in folder.glob("*.json")]
    return sorted(found, key=lambda result: (result["fault"], result["seed"]))


def table(results: Sequence[dict[str, Any]], order: Sequence[str]) -> str:
    """One line a fault, in this order; faults without a result are left out."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    for fault in order:
        of_fault = [result for result in results if result["fault"] == fault]
        if not of_fault:
            continue
        measured = [result["figures"] for result in of_fault if result["figures"]]
        again = [figures["again_seconds"] for figures in measured if figures["again_seconds"] is not None]
        cells = [
            fault,
            str(len(of_fault)),
            str(sum(not result["problems"] for result in of_fault)),
            _spread([figures["recover_seconds"] for figures in measured]),
            f"{max(again):.1f}" if again else "",
            _spread([figures["items_again"] for figures in measured]),
            _spread([figures["idle_seconds"] for figures in measured]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.4g} / {max(values):.4g}" if values else ""
