"""The blocks of a table on this machine, as its records name them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from workers.dataset_engine import PartOf
from workers.records import StoredTable

Fetch = Callable[[str, Path], Awaitable[None]]
"""Brings an object of the store to a file."""


class _Block(msgspec.Struct):
    """As much of a block's record as it takes to find its rows."""

    index: int
    table: StoredTable | None = None


_blocks = msgspec.json.Decoder(_Block)


async def fetch_blocks(parts: Sequence[PartOf], folder: Path, fetch: Fetch) -> AsyncIterator[tuple[int, Path, int]]:
    """Each block's number, file and rows, in order; blocks that failed are left out.

    Raises:
        StoreError: the store failed, or lost one of them.
    """
    for part in parts:
        records = folder / "part.jsonl"
        await fetch(part.key, records)
        for line in records.read_bytes().splitlines():
            record = _blocks.decode(line)
            if record.table is not None:
                path = folder / f"{record.index}.parquet"
                await fetch(record.table.key, path)
                yield record.index, path, record.table.rows
