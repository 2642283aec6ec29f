"""How the blocks of a shard of a table are drawn: candidates until the block is full, stored while the next is drawn.

A block's candidates are drawn with seeds of its own, so it is the same whatever shard it is in, and in whatever order
blocks are drawn. A table is in the store before its block's record names it, and nothing is stored before the execution
owns its shard.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import math
from collections import Counter
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import UNSET

from models.errors import FailureKind, ModelError
from models.spec import ItemError
from models.tabular.engine import TableRequest, TabularBackend
from workers.item_files import Ask, Write, first_error
from workers.linked_drawing import LinkedDrawing
from workers.records import StoredTable, item_seed
from workers.store import ObjectStore
from workers.subjects import MissingSubjectsError, Subjects
from workers.table_accept.local import LocalRules, rates
from workers.table_accept.rules import TableRules
from workers.table_items import Block, TableItems

WAITING = 2
"""Blocks that are encoded and stored while others are drawn: memory has so many and one more."""
SPARE = 1.1
"""More candidates than the rate of those before would need, so that another draw is seldom needed."""
LEAST = 256
"""Candidates of a draw at least: a draw of a few rows takes nearly as long."""
DRAWS = 1_000_000
"""More than any try at a block makes."""
CANDIDATES = 10_000_000
"""More than any try at a block draws."""
TRIES = 1000
CONTENT_TYPE = "application/vnd.apache.parquet"


class TableShard:
    """One execution's blocks.

    Args:
        items: The shard's.
        store: Where a block lies of which some rows are drawn again.
        folder: Where this execution leaves its blocks.
        write: Stores one.
        ask: Asks the store for something.
        granted: Set once this execution owns the shard.
    """

    def __init__(
        self,
        items: TableItems,
        store: ObjectStore,
        *,
        folder: str,
        write: Write,
        ask: Ask,
        granted: asyncio.Event,
    ) -> None:
        self._items = items
        self._store = store
        self._folder = folder
        self._write = write
        self._ask = ask
        self._granted = granted
        self._rules = TableRules.model_validate(items.table.rules)
        self._room = asyncio.Semaphore(WAITING)

    async def run(self, backend: TabularBackend) -> None:
        """Draw and store every block, and settle it.

        Raises:
            StoreError: the store failed.
            ModelError: the engine failed.
        """
        try:
            with LocalRules(self._rules) as rules:
                subjects = self._subjects(backend)
                async with asyncio.TaskGroup() as storing:
                    for block in self._items.blocks:
                        await self._room.acquire()
                        try:
                            drawing = await self._begin(block, rules, backend, subjects)
                        except MissingSubjectsError as error:
                            self._items.give_up(block, ItemError("parent_missing", f"{error}; make that table again"))
                            self._room.release()
                            continue
                        while drawing.due:
                            await self._draw(block, drawing, backend)
                        storing.create_task(self._keep(block, drawing))
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors

    def _subjects(self, backend: TabularBackend) -> Subjects | None:
        """Where the subjects of a linked table come from; None where they are made, or there are none."""
        work = self._items.table
        if work.linked != (backend.linked is not None):
            what = "does not belong" if work.linked else "belongs"
            raise ModelError(FailureKind.MODEL, "wrong_kind", f"what the model makes {what} to subjects")
        if work.parent is None or backend.linked is None:
            return None
        return Subjects(work, backend.linked, self._store, self._ask)

    async def _begin(
        self, block: Block, rules: LocalRules, backend: TabularBackend, subjects: Subjects | None
    ) -> AnyDrawing:
        work = self._items.table
        if backend.linked is None:
            return _Drawing(block, work.candidates, rules)
        context = None if subjects is None else await subjects.of(block.index)
        count = block.rows if context is None else context.num_rows
        return LinkedDrawing(context, count, backend.linked, work.candidates, rules)

    async def _draw(self, block: Block, drawing: AnyDrawing, backend: TabularBackend) -> None:
        work = self._items.table
        request = TableRequest(
            rows=drawing.next_count(),
            context=drawing.context(),
            seed=item_seed(self._items.seed, block.index, block.attempt * DRAWS + drawing.draws),
            first=self._first(block, drawing),
            where=work.where,
            rebalance=work.rebalance,
            impute=work.impute,
            temperature=work.temperature,
        )
        table = await backend.sample(request)
        await asyncio.to_thread(drawing.take, table)

    def _first(self, block: Block, drawing: AnyDrawing) -> int:
        """The number of a draw's first candidate: its row's where it is the block's first draw, else one of its own."""
        work = self._items.table
        if work.linked:
            # Of several attempts at a block one is kept, whole, so that all may use the same numbers of subjects.
            most = work.block * work.candidates
            whole = math.ceil(work.rows / work.block) * work.block
            return whole + block.index * most + drawing.candidates if drawing.draws else block.index * work.block
        if block.attempt == 1 and not drawing.draws:
            return block.index * work.block
        return work.rows + (block.index * TRIES + block.attempt) * CANDIDATES + drawing.candidates

    async def _keep(self, block: Block, drawing: AnyDrawing) -> None:
        try:
            if drawing.missing:
                self._items.give_up(block, drawing.error())
                return
            table = await self._whole(block, drawing)
            data = await asyncio.to_thread(_parquet, table)
            key = f"{self._folder}{block.index}.parquet"
            await self._granted.wait()
            await self._write(key, data, CONTENT_TYPE)
            stored = StoredTable(
                key=key,
                rows=table.num_rows,
                bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                draws=drawing.draws,
                candidates=drawing.candidates,
                rejected=dict(drawing.rejected),
                subjects=drawing.subjects if isinstance(drawing, LinkedDrawing) else UNSET,
            )
            self._items.settle(block, stored)
        finally:
            self._room.release()

    async def _whole(self, block: Block, drawing: AnyDrawing) -> pa.Table:
        """The block with what was drawn in its place."""
        fresh = await asyncio.to_thread(drawing.accepted)
        if block.before is None:
            return fresh
        key = block.before.key
        before = await self._ask(lambda: self._store.get(key), "a block is read")
        return await asyncio.to_thread(_with_rows, pq.read_table(io.BytesIO(before)), fresh, block.again)


class _Drawing:
    """A block that is being drawn."""

    def __init__(self, block: Block, candidates: int, rules: LocalRules) -> None:
        self._block_rows = block.rows
        self.draws = 0
        self.candidates = 0
        self.rejected: Counter[str] = Counter()
        self.wanted = block.rows if block.before is None else len(block.again)
        self.missing = self.wanted
        self._limit = max(LEAST, candidates * self.wanted)
        self._rules = rules
        self._tables: list[pa.Table] = []

    @property
    def due(self) -> bool:
        """Whether there is to be another draw: rows are missing, and more may be drawn."""
        return self.missing > 0 and self.candidates < self._limit

    def next_count(self) -> int:
        """How many candidates to draw next: what is missing, by the rate at which those before were accepted."""
        rate = (self.wanted - self.missing) / self.candidates if self.candidates else 1.0
        needed = math.ceil(SPARE * self.missing / rate) if 0 < rate < 1 else self.missing
        if not rate:
            needed = 2 * self.candidates
        whole = max(LEAST, needed) if self.draws else needed
        return min(whole, max(self._block_rows, LEAST), self._limit - self.candidates)

    def context(self) -> None:
        """What the candidates depend on: nothing."""
        return

    def take(self, table: pa.Table) -> None:
        """Take candidates, and keep those that every rule accepts, as many as are missing."""
        self.draws += 1
        self.candidates += table.num_rows
        mask, rejected = self._rules.mask(table)
        self.rejected.update(rejected)
        kept = (table.filter(mask) if rejected else table).slice(0, self.missing)
        self.missing -= kept.num_rows
        self._tables.append(kept)

    def accepted(self) -> pa.Table:
        """What was accepted, in the order in which it was drawn."""
        return pa.concat_tables(self._tables)

    def error(self) -> ItemError:
        """Why the block is not full."""
        found = self.wanted - self.missing
        return ItemError(
            "candidates_exhausted",
            f"of {self.candidates:,} candidates {found:,} were accepted, and {self.wanted:,} are wanted; "
            f"{rates(self.rejected, self.candidates)}. Loosen that rule, or raise accept.candidates",
        )


AnyDrawing: TypeAlias = _Drawing | LinkedDrawing


def _with_rows(table: pa.Table, fresh: pa.Table, places: tuple[int, ...]) -> pa.Table:
    order = list(range(table.num_rows))
    for number, place in enumerate(places):
        order[place] = table.num_rows + number
    return pa.concat_tables([table, fresh]).take(order)


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table.combine_chunks(), buffer, compression="zstd")
    return buffer.getvalue()
