"""Where a job is cut into shards, as its rows stream by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from workers.contracts import SourceRange

MAX_SHARD_BYTES = 8 << 20
"""Bytes of input that a shard reads; a longer row is a shard of its own."""
_FEWEST_SHARDS = 4
_WORTH_SPLITTING = 32
"""From so many items on, a job makes at least four shards, so that several workers can share it."""
RangeOf: TypeAlias = Callable[[int, int], SourceRange]
"""The range from one offset to another, in the source's own unit: bytes, or rows."""


class PlannedShard(msgspec.Struct, frozen=True):
    """Items `first` to `first + count` of a job, and the rows that they come from."""

    number: int
    first: int
    count: int
    source: SourceRange


class Cutter:
    """Turns the ends of rows, fed in order, into shards.

    A shard is whole rows, unless one row makes more items than a shard may have.

    Args:
        items_per_shard: Items of a full shard.
        grid_size: Items that a row makes.
        range_of: Makes the range of a shard.
        number: Number of the first shard.
        row: Index of the first row.
        rows: How many rows there will be, where that is known.
    """

    def __init__(
        self,
        items_per_shard: int,
        grid_size: int,
        range_of: RangeOf,
        *,
        number: int = 0,
        row: int = 0,
        rows: int | None = None,
    ) -> None:
        self.number = number
        self._size = items_per_shard if rows is None else shard_size(items_per_shard, rows * grid_size)
        self._settled = rows is not None
        self._grid = grid_size
        self._range_of = range_of
        self._start = 0
        self._begun = False
        self._row = row
        self._waiting: list[NDArray[np.int64]] = []
        self._held = 0

    def feed(self, start: int, ends: NDArray[np.int64]) -> Iterator[PlannedShard]:
        """Take the ends of the next rows, the first of which begins at `start`; gives the shards that are full."""
        if not self._begun:
            self._start, self._begun = start, True
        self._waiting.append(ends)
        self._held += len(ends)
        self._settled = self._settled or self._held * self._grid >= _FEWEST_SHARDS * self._size
        if self._settled and self._held >= self._rows_per_shard:
            yield from self._cut(whole=True)

    def finish(self) -> Iterator[PlannedShard]:
        """The shards that are left once there are no more rows."""
        if not self._settled:
            # Few items: how many is known only now.
            self._size = shard_size(self._size, self._held * self._grid)
        if self._held:
            yield from self._cut(whole=False)

    @property
    def _rows_per_shard(self) -> int:
        return max(1, self._size // self._grid)

    def _cut(self, *, whole: bool) -> Iterator[PlannedShard]:
        ends = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
        done, per_shard = 0, self._rows_per_shard
        if self._grid <= self._size and ends[-1] - self._start <= MAX_SHARD_BYTES:
            # The usual case: no shard of these rows can be too large, whichever way they are cut.
            for end in ends[per_shard - 1 :: per_shard].tolist():
                yield self._whole_rows(per_shard, end)
                done += per_shard
        while len(ends) - done >= (per_shard if whole else 1):
            fitting = int(np.searchsorted(ends, self._start + MAX_SHARD_BYTES, side="right"))
            last = max(done + 1, min(done + per_shard, fitting, len(ends)))
            yield from self._shards(last - done, int(ends[last - 1]))
            done = last
        self._held = len(ends) - done
        self._waiting = [ends[done:]] if self._held else []

    def _whole_rows(self, rows: int, end: int) -> PlannedShard:
        source = self._range_of(self._start, end)
        shard = PlannedShard(self.number, self._row * self._grid, rows * self._grid, source)
        self.number += 1
        self._start = end
        self._row += rows
        return shard

    def _shards(self, rows: int, end: int) -> Iterator[PlannedShard]:
        if rows > 1 or self._grid <= self._size:
            yield self._whole_rows(rows, end)
            return
        source = self._range_of(self._start, end)
        first = self._row * self._grid
        for offset in range(0, self._grid, self._size):
            yield PlannedShard(self.number, first + offset, min(self._size, self._grid - offset), source)
            self.number += 1
        self._start = end
        self._row += 1


def shard_size(items_per_shard: int, items: int) -> int:
    """Items of a shard of a job of so many."""
    if items < _WORTH_SPLITTING:
        return items_per_shard
    return max(1, min(items_per_shard, -(-items // _FEWEST_SHARDS)))
