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


def stored_blocks(part: bytes) -> dict[int, StoredTable]:
    """By number, the blocks of a part; those that failed are left out."""
    records = map(_blocks.decode, part.splitlines())
    return {record.index: record.table for record in records if record.table is not None}


async def fetch_blocks(parts: Sequence[PartOf], folder: Path, fetch: Fetch) -> AsyncIterator[tuple[int, Path, int]]:
    """Each block's number, file and rows, in order; blocks that failed are left out.

    Raises:
        StoreError: the store failed, or lost one of them.
    """
    for part in parts:
        records = folder / "part.jsonl"
        await fetch(part.key, records)
        for block, table in stored_blocks(records.read_bytes()).items():
            path = folder / f"{block}.parquet"
            await fetch(table.key, path)
            yield block, path, table.rows
