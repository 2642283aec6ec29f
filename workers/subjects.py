"""The subjects of a linked table's blocks: rows of blocks that another job, the parent, has made."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from models.tabular.saved import Linked
from workers.contracts import TableWork
from workers.dataset_engine import PartOf, decode_part_list
from workers.item_files import Ask
from workers.records import StoredTable
from workers.store import MissingObjectError, ObjectStore
from workers.table_blocks import stored_blocks


class MissingSubjectsError(Exception):
    """A block of the parent is gone, with the job that made it."""


class Subjects:
    """The blocks of a parent, of which few are read: those of one shard.

    Args:
        work: The linked table's; it names the list of the parent's parts.
        linked: Which columns of the parent's are wanted.
        store: Where they lie.
        ask: Asks the store for something.
    """

    def __init__(self, work: TableWork, linked: Linked, store: ObjectStore, ask: Ask) -> None:
        self._work = work
        columns = {column.name: column.arrow_type for column in linked.parent_columns}
        self._names = list(dict.fromkeys([linked.key, *columns]))
        self._types = columns
        self._store = store
        self._ask = ask
        self._parts: tuple[PartOf, ...] | None = None
        self._known: dict[int, StoredTable] = {}

    async def of(self, block: int) -> pa.Table:
        """The subjects of a block: their key, and what their sequences depend on.

        Raises:
            MissingSubjectsError: the store has the parent's block no more.
            StoreError: the store failed.
        """
        try:
            if block not in self._known:
                self._known = await self._read_part(block)
            stored = self._known.get(block)
            if stored is None:
                raise MissingSubjectsError(f"the parent has no block {block}")
            data = await self._ask(lambda: self._store.get(stored.key), "a block of the parent is read")
        except MissingObjectError as error:
            raise MissingSubjectsError(f"block {block} of the parent is no longer in the store: {error}") from error
        table = pq.read_table(io.BytesIO(data), columns=self._names).slice(0, self._work.most)
        return pa.table(
            [table[name].cast(self._types.get(name, table[name].type)) for name in self._names], names=self._names
        )

    async def _read_part(self, block: int) -> dict[int, StoredTable]:
        """The blocks of the part that has this one."""
        key = self._work.parent
        if key is None:
            raise AssertionError("the table has no parent")
        if self._parts is None:
            listed = await self._ask(lambda: self._store.get(key), "the parent's parts are read")
            self._parts = decode_part_list(listed).parts
        part = next((each for each in self._parts if each.first <= block < each.first + each.count), None)
        if part is None:
            raise MissingSubjectsError(f"the parent has no block {block}")
        data = await self._ask(lambda: self._store.get(part.key), "a part of the parent is read")
        return stored_blocks(data)
