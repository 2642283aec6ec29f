"""Count what a run of product-copy.yaml made: `python examples/quality.py results.jsonl`.

Prints four figures over all items and exits 1 if one is below 95 %: outputs that are not empty, that the model ended
by itself, that differ from every other, and that name their product.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

GOAL = 0.95


def figures(lines: list[str]) -> dict[str, int]:
    """How many of the records pass each count."""
    records = [json.loads(line) for line in lines]
    outputs = [str(record.get("output", "")).strip() for record in records]
    times = Counter(outputs)
    return {
        "not empty": sum(bool(output) for output in outputs),
        "ended by themselves": sum(record.get("finish_reason") == "stop" for record in records),
        "unlike any other": sum(times[output] == 1 for output in outputs),
        "name their product": sum(
            record["input"]["name"].casefold() in output.casefold()
            for record, output in zip(records, outputs, strict=True)
        ),
    }


def main() -> None:
    """Entry point."""
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/quality.py results.jsonl")
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    if not lines:
        sys.exit(f"{sys.argv[1]} holds no results")
    print(f"quality of {len(lines)} outputs, each counted; the goal is {GOAL:.0%}")
    short = False
    for name, passed in figures(lines).items():
        short = short or passed / len(lines) < GOAL
        print(f"  {name:<20} {passed:>4} of {len(lines)}  {passed / len(lines):.1%}")
    sys.exit(1 if short else 0)


if __name__ == "__main__":
    main()
