"""The items of one shard of a table: blocks of rows, each between its number and its record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
from msgspec import UNSET

from models.spec import Adapter, ItemError, ModelInfo, Usage
from workers.contracts import Row, ShardTask, TableWork
from workers.items import NO_ADAPTERS, ShardItems
from workers.records import EarlierRecord, Record, StoredTable, encode_record
from workers.rejections import Rejection
from workers.upstream import NO_UPSTREAM, Upstream


class _Drawn(msgspec.Struct):
    """As much of a record as it takes to go on from its block."""

    table: StoredTable


_drawn = msgspec.json.Decoder(_Drawn)


@dataclass(frozen=True, slots=True)
class Block:
    """A block that is to be drawn, or of which some rows are to be drawn again."""

    index: int
    rows: int
    """Of a linked table, its subjects, where they are no rows of a parent."""
    attempt: int
    """Which try at it this is, from 1."""
    before: StoredTable | None = None
    """As it was drawn before."""
    again: tuple[int, ...] = ()
    """Which of its rows are to be drawn again."""


class TableItems(ShardItems):
    """As `ShardItems`; `blocks` are those that are not done yet.

    Args:
        task: The shard.
        info: The model that is sampled.
        rows: Numbers.
        earlier: As in `ShardItems`.
        upstream: None.
        adapters: None.
        rejected: By block, what a pass has rejected of it.
    """

    def __init__(
        self,
        task: ShardTask,
        info: ModelInfo,
        rows: Iterable[Row],
        earlier: Mapping[int, EarlierRecord],
        upstream: Upstream = NO_UPSTREAM,
        adapters: Mapping[str, Adapter] = NO_ADAPTERS,
        *,
        rejected: Mapping[int, Rejection] | None = None,
    ) -> None:
        if task.work.table is None:
            raise AssertionError("the shard is not one of a table")
        self.table: TableWork = task.work.table
        self.blocks: list[Block] = []
        self._rejected = rejected or {}
        super().__init__(task, info, rows, earlier, upstream, adapters)

    @property
    def seed(self) -> int:
        """The job's."""
        return self._work.seed

    def settle(self, block: Block, table: StoredTable) -> None:
        """Take a table that is in the store as a block's end."""
        record = Record(
            index=block.index,
            status="ok",
            table=table,
            model=self._info.model,
            model_revision=self._info.revision,
            seed=self._work.seed,
            reproducible=self._info.reproducible,
            settings=self._settings() or UNSET,
            attempts=block.attempt,
        )
        self._end(block.index, encode_record(record), Usage(), ok=True)

    def give_up(self, block: Block, error: ItemError) -> None:
        """End a block that cannot be had as it is wanted."""
        self.fail(block.index, error)

    def _settings(self) -> dict[str, object]:
        table = self.table
        chosen: dict[str, object] = {"where": table.where, "rebalance": table.rebalance, "impute": list(table.impute)}
        chosen["temperature"] = table.temperature if table.temperature != 1.0 else None
        return {name: value for name, value in chosen.items() if value}

    def _ask(self, index: int, values: Row) -> None:  # noqa: ARG002 - a block has no row to be made from
        rejection, before = self._rejected.get(index), self._earlier.get(index)
        again = rejection is not None and bool(rejection.rows) and before is not None
        self.blocks.append(
            Block(
                index=index,
                rows=self.table.rows_of(index),
                attempt=self._attempt(index),
                before=_drawn.decode(before.line).table if again and before is not None else None,
                again=rejection.rows if again and rejection is not None else (),
            )
        )
