"""A pass over a table: which of its rows break a rule that only all rows together fulfil or break.

The blocks are brought to this machine, where DuckDB reads them: its memory is bounded, and the disk holds the table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from workers.contracts import TableWork
from workers.dataset_engine import PartOf
from workers.rejections import Rejection
from workers.table_accept.over_all import BlockFile, judge
from workers.table_accept.rules import TableRules
from workers.table_blocks import Fetch, fetch_blocks


async def judge_table(
    work: TableWork,
    parts: Sequence[PartOf],
    before: Mapping[int, Rejection] | None,
    folder: Path,
    fetch: Fetch,
) -> tuple[int, dict[int, Rejection]]:
    """How many rows there are, and by block, which of them do not stay.

    Args:
        work: The table's.
        parts: The parts of its job, in order.
        before: By block, what the pass before rejected: these rows are new, and all others stayed. None in the first.
        folder: Of this pass alone.
        fetch: Brings a block to this machine.

    Raises:
        StoreError: the store failed.
    """
    files: list[BlockFile] = []
    total = 0
    async for block, path, rows in fetch_blocks(parts, folder, fetch):
        fresh = None if before is None else frozenset(before[block].rows if block in before else ())
        files.append(BlockFile(block, path, fresh))
        total += rows
    verdicts = await asyncio.to_thread(judge, files, TableRules.model_validate(work.rules), folder)
    return total, {
        block: Rejection(index=block, rows=tuple(sorted(verdict.rows)), rules=dict(sorted(verdict.rules.items())))
        for block, verdict in verdicts.items()
    }
