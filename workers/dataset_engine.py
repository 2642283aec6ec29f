"""What judges and describes whole datasets: it holds no model, and any worker has it.

The parts that it reads are named by a list in the store, for a job may have a hundred thousand of them.
"""

from __future__ import annotations

from typing import Final

import msgspec

from models.spec import ModelInfo
from workers.keys import passes_prefix

DATASET_ENGINE: Final = "datasets"
"""Model and engine of a pass and of a report."""


class PartOf(msgspec.Struct, frozen=True):
    """A winning part of a job."""

    key: str
    sha256: str
    first: int
    """Its first item."""
    count: int
    ok: int
    judged: str | None = None
    """Of a shard that was retried since it was judged: key of the part whose good records stay; empty for none."""


class PartList(msgspec.Struct, frozen=True):
    """The winning parts of a job, in the order of its items."""

    parts: tuple[PartOf, ...]
    against: dict[str, tuple[PartOf, ...]] = {}
    """Those of earlier jobs that are compared with, by job."""

    def encoded(self) -> bytes:
        """As it stands in the store."""
        return msgspec.json.encode(self)


def part_list_key(job: str, by: str) -> str:
    """Where the list of a job's parts lies that the job `by` reads."""
    return f"{passes_prefix(job)}{by}/parts.json"


def decode_part_list(data: bytes) -> PartList:
    """A list as it stands in the store."""
    return msgspec.json.decode(data, type=PartList)


class DatasetEngine:
    """Loads nothing: its packages are imported by the first pass that needs them."""

    async def load(self) -> ModelInfo:
        """Say what it is."""
        return ModelInfo(
            model=DATASET_ENGINE,
            revision="none",
            engine=DATASET_ENGINE,
            context_length=0,
            reproducible="exact",
            shards_in_flight=1,
        )

    def quiet_seconds(self) -> float:
        """It never hangs: what it does is bounded by what it reads."""
        return 0.0

    async def close(self) -> None:
        """Nothing to give back."""
