"""The job that a scenario runs, an `echo` job over a file of its own mostly, and what must come of it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.client import Client

PROMPT = "{{ name }}, for {{ days }} days"


class Work(Protocol):
    """A job that a scenario can run."""

    @property
    def model(self) -> str:
        """What it asks."""
        ...

    @property
    def items(self) -> int:
        """How many the job has."""
        ...

    @property
    def bad(self) -> frozenset[int]:
        """Indexes of the items that must fail."""
        ...

    @property
    def judged(self) -> bool:
        """Whether passes follow, after which shards of it run again."""
        ...

    def small(self) -> Work:
        """A job that only makes everything ready for this one."""
        ...

    def prepare(self, client: Client, folder: Path, chance: random.Random) -> tuple[dict[str, Any], list[str]]:
        """The job as JSON, what it needs being there; and its answers, where they are known beforehand."""
        ...

    def records(self, client: Client, job: str) -> Iterable[bytes]:
        """The records of all items, as lines."""
        ...

    def is_right(self, record: dict[str, Any], answers: list[str]) -> bool:
        """Whether an item's record that is ok holds what it must."""
        ...


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
    judged: ClassVar[bool] = False

    @property
    def items(self) -> int:
        """How many the job has."""
        return self.shards * self.rows

    def small(self) -> Workload:
        """See `Work`."""
        return Workload(shards=1, rows=8, delay_ms=0.0, model=self.model)

    def prepare(self, client: Client, folder: Path, chance: random.Random) -> tuple[dict[str, Any], list[str]]:
        """See `Work`; the source is uploaded."""
        source, answers = self.write(folder, chance)
        return self.spec(client.upload(source).uri), answers

    def records(self, client: Client, job: str) -> Iterable[bytes]:
        """See `Work`."""
        return client.content(job, "jsonl")

    def is_right(self, record: dict[str, Any], answers: list[str]) -> bool:  # a record as JSON
        """See `Work`."""
        if self.model != "echo":
            return bool(record["output"].strip())
        return bool(record["output"] == answers[record["index"]])

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
