"""The job that a scenario runs: an `echo` job over a file of its own, and what must come of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

PROMPT = "{{ name }}, for {{ days }} days"


@dataclass(frozen=True)
class Workload:
    """Rows of a Parquet file, one shard for each of its row groups.

    `echo` takes `delay_ms` for each 512 items of a shard, and a worker runs eight shards at once: by default three
    rounds of two seconds.
    """

    shards: int = 20
    rows: int = 600
    """Of each shard."""
    delay_ms: float = 1000.0
    options: dict[str, Any] = field(default_factory=dict)
    """More of `echo`'s options."""
    bad: frozenset[int] = frozenset()
    """Indexes of the items that must fail."""
    lines: bool = False
    """Whether the source is JSON lines, which takes longer to plan; then shards have 5,000 rows."""
    model: str = "echo"
    """Any other's answers are not known beforehand."""

    @property
    def items(self) -> int:
        """How many the job has."""
        return self.shards * self.rows

    def write(self, folder: Path, chance: random.Random) -> tuple[Path, list[str]]:
        """Write the source; its path, and the answer to every item, as `echo` gives it."""
        names = [f"tent no. {index}-{chance.getrandbits(32):x} für zwei" for index in range(self.items)]
        days = [chance.randrange(1, 30) for _ in names]
        if self.lines:
            path = folder / "rows.jsonl"
            with path.open("wb") as file:
                for name, count in zip(names, days, strict=True):
                    file.write(orjson.dumps({"name": name, "days": count, "note": "a" * 200}) + b"\n")
        else:
            path = folder / "rows.parquet"
            pq.write_table(pa.table({"name": names, "days": days}), path, row_group_size=self.rows)
        return path, [f"{name}, for {count} days" for name, count in zip(names, days, strict=True)]

    def spec(self, uri: str) -> dict[str, Any]:
        """The job over the source that was uploaded as `uri`."""
        job = {"name": "chaos", "source": {"file": uri}, "prompt": PROMPT}
        if self.model != "echo":
            return {**job, "kind": "text", "model": self.model, "sampling": {"temperature": 0, "max_tokens": 16}}
        options = {"delay_ms": self.delay_ms, **self.options}
        return {**job, "kind": "echo", "options": options}
