"""Records of shards that were not done: those they have; the others are spelt out when they are read."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator

import msgspec
from msgspec import UNSET

from models.spec import ItemError
from orchestrator.lifecycle import ShardStatus
from workers.contracts import Row, SourceRange, Work
from workers.records import Record, earlier_records, encode_record
from workers.sources import SourceError, read_rows
from workers.store import ObjectStore, StoreError

logger = logging.getLogger(__name__)
_sources: msgspec.json.Decoder[SourceRange] = msgspec.json.Decoder(SourceRange)


class UnrunShard(msgspec.Struct, frozen=True, kw_only=True):
    """What the records of an unrun shard are made of."""

    first: int
    count: int
    status: ShardStatus
    source: str
    skip: int
    part_key: str | None
    """The records of its items that did end, where there are some."""
    attempts: int
    error_code: str | None
    error_message: str | None


def spell_out(shard: UnrunShard, work: Work, store: ObjectStore, start: int) -> Iterator[bytes]:
    """The records of a shard from item `start` on, one line each, without newlines.

    Raises:
        StoreError: the store cannot be reached, or lost the part.
    """
    ended = {} if shard.part_key is None else earlier_records(store.get(shard.part_key))
    match shard.status:
        case ShardStatus.CANCELLED:
            error = ItemError("cancelled", "the job was cancelled before this item was done")
        case ShardStatus.EXPIRED:
            error = ItemError("expired", "the deadline passed before this item was done")
        case _:
            error = ItemError(shard.error_code or "failed", shard.error_message or "the shard of this item failed")
    status = {ShardStatus.CANCELLED: "cancelled", ShardStatus.EXPIRED: "expired"}.get(shard.status, "failed")
    end = shard.first + shard.count
    rows = _rows(shard, work, store)
    for index in range(shard.first, end):
        row = next(rows, None)
        if index < start:
            continue
        if index in ended:
            yield ended[index].line
            continue
        known = {} if row is None else row
        custom_id = known.get(work.custom_id) if work.custom_id is not None else None
        if custom_id is not None:
            custom_id = str(custom_id) if work.grid_size == 1 else f"{custom_id}/{index % work.grid_size}"
        yield encode_record(
            Record(
                index=index,
                custom_id=UNSET if custom_id is None else custom_id,
                status=status,  # type: ignore[arg-type]  # one of the three that the table above has
                error=error,
                input={name: known.get(name) for name in work.keep} if work.keep and row is not None else UNSET,
                attempts=shard.attempts,
            )
        )


def _rows(shard: UnrunShard, work: Work, store: ObjectStore) -> Iterator[Row]:
    """The row of each item, grid values included; nothing where the source is gone: the records do without."""
    if work.custom_id is None and not work.keep:
        return
    try:
        yield from item_rows(shard.source, work, store, first=shard.first, count=shard.count, skip=shard.skip)
    except (StoreError, SourceError) as error:
        logger.info("items from %d on are shown without their ids: %s", shard.first, error)


def item_rows(source: str, work: Work, store: ObjectStore, *, first: int, count: int, skip: int) -> Iterator[Row]:
    """The row of each item of a shard, grid values included.

    Args:
        source: The shard's, as JSON.
        work: The job's.
        store: Nightmill's own.
        first: The shard's first item.
        count: Its items.
        skip: Items that the source makes before them.

    Raises:
        StoreError: the source cannot be read, or is another by now.
        SourceError: it does not hold what was planned.
    """
    rows = list(read_rows(_sources.decode(source), store))
    grid = [dict(zip(work.grid, values, strict=True)) for values in itertools.product(*work.grid.values())]
    before = first - skip
    items = ({**row, **combination} for row in rows for combination in grid)
    return itertools.islice(items, before % len(grid) + skip, before % len(grid) + skip + count)
