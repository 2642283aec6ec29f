"""One pass over the blocks of a table that keeps what must hold for all accepted rows together.

A row is rejected if it shares a unique key with an accepted row before it, or contradicts one in a functional
dependency. Before all others stand the rows that an earlier round accepted, then the rest in order. So an earlier
choice stays, and the outcome depends on the rows alone, not on how blocks are cut.

Keys of accepted rows are in DuckDB's tables, which spill to disk. Rows are taken in batches: what a batch shares with
those tables is asked in SQL, and what its rows share with one another is settled in order.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from workers.store import StoreError
from workers.table_accept.engine import DEFAULT_MEMORY_MIB, connected, plain_schema
from workers.table_accept.errors import TableRuleError
from workers.table_accept.expressions import first_line
from workers.table_accept.kept_keys import KeptKeys
from workers.table_accept.rules import TableRules

BATCH: Final = 1 << 17
"""Rows in memory at once."""
Rows: TypeAlias = NDArray[np.int64]


def _no_rows() -> Rows:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class CandidateBlock:
    """A Parquet file of candidates, and what is known of its rows; numbers of rows are from 0 within it, ascending."""

    path: Path
    out: Rows = field(default_factory=_no_rows)
    """Rows that are rejected already, by rules that a row breaks alone: they are passed over."""
    accepted: Rows = field(default_factory=_no_rows)
    """Rows that an earlier round accepted."""


class BlockOutcome(msgspec.Struct, frozen=True):
    """What the pass says of one block."""

    block: int
    """Its number, from 0."""
    rejected: tuple[int, ...]
    """Numbers of its rows that do not stay, ascending, without those that were out before."""
    by_rule: dict[str, int]
    """How many rows of it each rule rejects; a row may be rejected by several."""


def global_pass(
    blocks: Sequence[CandidateBlock],
    rules: TableRules,
    *,
    scratch: Path,
    memory_mib: int = DEFAULT_MEMORY_MIB,
    threads: int = 1,
    batch: int = BATCH,
) -> Iterator[BlockOutcome]:
    """Yield what does not stay of each block, in order of the blocks.

    Args:
        blocks: All blocks of the job in order. Files of other accepted rows may stand among them, all rows `accepted`.
        rules: Those of `unique` and `dependencies`.
        scratch: A folder of this pass alone. What is in it is removed, at the beginning and at the end.
        memory_mib: What DuckDB may hold, in MiB; a batch's columns come on top.
        threads: Cores that it may use.
        batch: Rows in memory at once. The outcome does not depend on it.

    Raises:
        TableRuleError: DuckDB is not installed, or a column is missing.
        StoreError: no room in the scratch folder, or a block cannot be read.
    """
    if not rules.global_labels:
        for number in range(len(blocks)):
            yield BlockOutcome(number, (), {})
        return
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        connection = connected(scratch, memory_mib=memory_mib, threads=threads)
    except OSError as error:
        raise StoreError(f"no room to compare rows in {scratch}: {error.strerror or error}") from error
    import duckdb  # noqa: PLC0415 - as `connected`

    try:
        schema = _key_schema(blocks, rules)
        kept_keys = KeptKeys(connection, rules, schema)
        for _, table, _ in _batches(blocks, schema, batch, wanted=True):
            kept_keys.keep(table)
        yield from _judged(blocks, rules, schema, kept_keys, batch)
    except duckdb.Error as error:
        raise StoreError(f"rows cannot be compared in {scratch}: {first_line(error)}") from error
    finally:
        connection.close()
        shutil.rmtree(scratch, ignore_errors=True)


def _judged(
    blocks: Sequence[CandidateBlock], rules: TableRules, schema: pa.Schema, kept_keys: KeptKeys, batch: int
) -> Iterator[BlockOutcome]:
    """Outcomes of blocks, each as soon as its last row is judged."""
    held: dict[int, tuple[list[int], dict[str, int]]] = {}
    told = 0
    for owners, table, numbers in _batches(blocks, schema, batch, wanted=False):
        broken = kept_keys.judge(table)
        first = int(owners[0])
        while told < first:
            yield _outcome(told, held.pop(told, None), rules)
            told += 1
        for row, labels in broken.items():
            rejected, counts = held.setdefault(int(owners[row]), ([], {}))
            rejected.append(int(numbers[row]))
            for label in labels:
                counts[label] = counts.get(label, 0) + 1
    while told < len(blocks):
        yield _outcome(told, held.pop(told, None), rules)
        told += 1


def _outcome(number: int, found: tuple[list[int], dict[str, int]] | None, rules: TableRules) -> BlockOutcome:
    rejected, counts = found or ([], {})
    return BlockOutcome(number, tuple(rejected), {label: counts.get(label, 0) for label in rules.global_labels})


def _batches(
    blocks: Sequence[CandidateBlock], schema: pa.Schema, batch: int, *, wanted: bool
) -> Iterator[tuple[Rows, pa.Table, Rows]]:
    """Rows that were accepted before, or those that are to be judged: their blocks, columns and numbers."""
    held: list[tuple[Rows, pa.Table, Rows]] = []
    count = 0
    for number, block in enumerate(blocks):
        if wanted and not len(block.accepted):
            continue
        for table, numbers in _read(block, schema, batch):
            known = np.isin(numbers, block.accepted)
            chosen = np.flatnonzero(known if wanted else ~known & ~np.isin(numbers, block.out))
            if not len(chosen):
                continue
            if count + len(chosen) > batch and held:
                yield _together(held)
                held, count = [], 0
            held.append((np.full(len(chosen), number, np.int64), table.take(chosen), numbers[chosen]))
            count += len(chosen)
    if held:
        yield _together(held)


def _read(block: CandidateBlock, schema: pa.Schema, batch: int) -> Iterator[tuple[pa.Table, Rows]]:
    try:
        with parquet.ParquetFile(block.path) as file:
            first = 0
            for some in file.iter_batches(batch_size=batch, columns=schema.names):
                yield (
                    pa.Table.from_batches([some]).select(schema.names).cast(schema),
                    np.arange(first, first + len(some)),
                )
                first += len(some)
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(f"{block.path.name} cannot be read: {error}") from error


def _key_schema(blocks: Sequence[CandidateBlock], rules: TableRules) -> pa.Schema:
    """The columns that rows are compared by, with the blocks' types; a block may have missing values alone."""
    keys = [*rules.unique, *((*each.determinant, *each.dependent) for each in rules.dependencies)]
    types: dict[str, pa.DataType] = {column: pa.null() for key in keys for column in key}
    for block in blocks:
        try:
            schema = plain_schema(parquet.read_schema(block.path))
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreError(f"{block.path.name} cannot be read: {error}") from error
        for column, kind in types.items():
            if column not in schema.names:
                raise TableRuleError(f"there is no column {column!r} in {block.path.name}")
            if pa.types.is_null(kind):
                types[column] = schema.field(column).type
        if not any(map(pa.types.is_null, types.values())):
            break
    return pa.schema(list(types.items()))


def _together(held: Sequence[tuple[Rows, pa.Table, Rows]]) -> tuple[Rows, pa.Table, Rows]:
    return (
        np.concatenate([owners for owners, _, _ in held]),
        pa.concat_tables([table for _, table, _ in held]),
        np.concatenate([numbers for _, _, numbers in held]),
    )
