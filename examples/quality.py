"""Count how good the copy of `product-copy.yaml` is: `python examples/quality.py out/demo/results.jsonl`.

An output counts as good if it is not empty, ended by itself (and not at the limit of tokens), differs from every other
one and names its product. Exits with 1 if fewer than 95 % are.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUIRED = 0.95
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Quality:
    """What holds for one output."""

    written: bool
    ended: bool
    distinct: bool
    named: bool

    @property
    def good(self) -> bool:
        """All of it holds."""
        return self.written and self.ended and self.distinct and self.named


def judge(records: list[dict[str, Any]]) -> list[Quality]:  # a record: any JSON
    """The quality of each record's output; of a record without one, that nothing holds."""
    texts = [str(record.get("output", "")).strip() for record in records]
    seen = Counter(text.casefold() for text in texts)
    return [
        Quality(
            written=bool(text),
            ended=bool(text) and record.get("finish_reason") == "stop",
            distinct=bool(text) and seen[text.casefold()] == 1,
            named=record["input"]["name"].casefold() in text.casefold(),
        )
        for record, text in zip(records, texts, strict=True)
    ]


def main(path: Path) -> int:
    """Print the figures; returns the exit code."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not records:
        print(f"{path} holds no records")
        return 1
    judged = judge(records)
    print(f"\nWhat the model made of {len(records)} items ({path}):")
    for label, count in (
        ("are not empty", sum(each.written for each in judged)),
        ("ended by themselves", sum(each.ended for each in judged)),
        ("differ from all others", sum(each.distinct for each in judged)),
        ("name their product", sum(each.named for each in judged)),
        ("are all of that", sum(each.good for each in judged)),
    ):
        print(f"  {count:5d}  {count / len(records):7.1%}  {label}")
    bad = [record for record, each in zip(records, judged, strict=True) if not each.good]
    for record in bad[:SHOWN]:
        print(f"  not good: {record.get('custom_id', record['index'])}: {str(record.get('output', ''))[:160]!r}")
    share = sum(each.good for each in judged) / len(records)
    if share < REQUIRED:
        print(f"  {share:.1%} is less than the {REQUIRED:.0%} that this example promises")
        return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/quality.py RESULTS.jsonl")
    sys.exit(main(Path(sys.argv[1])))
