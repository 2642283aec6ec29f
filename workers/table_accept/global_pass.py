"""One pass over the blocks of a table that keeps what must hold for all accepted rows together.

A row is rejected if it shares a unique key with an accepted row before it, or contradicts one in a functional
dependency. Before all others stand the rows that an earlier round accepted, then the rest in order. So an earlier
choice stays, and the outcome depends on the rows alone, not on how blocks are cut.

Keys of accepted rows are in DuckDB's tables, which spill to disk. Rows are taken in batches: what a batch shares with
those tables is asked in SQL, and what its rows share with one another is settled in order.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from workers.store import StoreError
from workers.table_accept.engine import DEFAULT_MEMORY_MIB, connected, plain_schema
from workers.table_accept.errors import TableRuleError
from workers.table_accept.expressions import first_line
from workers.table_accept.rules import TableRules

if TYPE_CHECKING:
    import duckdb

BATCH: Final = 1 << 17
"""Rows in memory at once."""
Rows: TypeAlias = NDArray[np.int64]
NONE: Final = -1


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
        keeper = _Keeper(connection, rules, schema)
        for _, table, _ in _batches(blocks, schema, batch, wanted=True):
            keeper.keep(table)
        yield from _judged(blocks, rules, schema, keeper, batch)
    except duckdb.Error as error:
        raise StoreError(f"rows cannot be compared in {scratch}: {first_line(error)}") from error
    finally:
        connection.close()
        shutil.rmtree(scratch, ignore_errors=True)


def _judged(
    blocks: Sequence[CandidateBlock], rules: TableRules, schema: pa.Schema, keeper: _Keeper, batch: int
) -> Iterator[BlockOutcome]:
    """Outcomes of blocks, each as soon as its last row is judged."""
    held: dict[int, tuple[list[int], dict[str, int]]] = {}
    told = 0
    for owners, table, numbers in _batches(blocks, schema, batch, wanted=False):
        broken = keeper.judge(table)
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


class _Keeper:
    """Keys of accepted rows, a table for each rule: of a unique key its columns, of a dependency both sides'."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, rules: TableRules, schema: pa.Schema) -> None:
        self._connection = connection
        self._labels = rules.global_labels
        # By number: no name of a column is then mistaken for one of ours.
        self._numbers = {name: f"c{number}" for number, name in enumerate(schema.names)}
        # By rule the columns that make rows comparable, and those that must then be equal.
        pairs: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
            *((key, ()) for key in rules.unique),
            *((each.determinant, each.dependent) for each in rules.dependencies),
        ]
        self._rules = [(self._named(key), self._named(dependent)) for key, dependent in pairs]
        with self._batch(schema.empty_table()):
            for place, (key, dependent) in enumerate(self._rules):
                connection.execute(f"CREATE TABLE kept{place} AS SELECT {_listed(*key, *dependent)} FROM batch")  # noqa: S608 - names of ours

    def keep(self, rows: pa.Table) -> None:
        """Accept rows without judging them."""
        with self._batch(rows):
            self._insert("TRUE")

    def judge(self, rows: pa.Table) -> Mapping[int, list[str]]:
        """Judge rows that stand behind all that was seen, in order; the accepted ones are kept.

        Returns:
            By place in the batch, ascending, the rules that reject the row.
        """
        with self._batch(rows):
            met = [self._met(place) for place in range(len(self._rules))]
            groups = [self._groups(key, dependent) for key, dependent in self._rules]
            broken = self._settled(met, groups)
            self._connection.register("broken", pa.table({"place": pa.array(list(broken), pa.int64())}))
            self._insert("place NOT IN (SELECT place FROM broken)")
            self._connection.unregister("broken")
        return broken

    def _settled(
        self, met: Sequence[frozenset[int]], groups: Sequence[Mapping[int, tuple[int, int]]]
    ) -> dict[int, list[str]]:
        """Go through the rows that others may reject, in order: only accepted rows reject."""
        taken: list[dict[int, int]] = [{} for _ in self._rules]
        broken: dict[int, list[str]] = {}
        for row in sorted({row for rows in (*met, *groups) for row in rows}):
            labels = []
            for place, (_, dependent) in enumerate(self._rules):
                group, rest = groups[place].get(row, (NONE, NONE))
                other = taken[place].get(group, NONE)
                if row in met[place] or (other != NONE and not (dependent and other == rest)):
                    labels.append(self._labels[place])
            if labels:
                broken[row] = labels
                continue
            for place in range(len(self._rules)):
                if row in groups[place]:
                    taken[place].setdefault(*groups[place][row])
        return broken

    @contextmanager
    def _batch(self, rows: pa.Table) -> Iterator[None]:
        """Make rows known to SQL, with their places."""
        named = rows.rename_columns([self._numbers[name] for name in rows.column_names])
        self._connection.register("batch", named.append_column("place", pa.array(np.arange(len(rows)))))
        try:
            yield
        finally:
            self._connection.unregister("batch")

    def _insert(self, where: str) -> None:
        for place, (key, dependent) in enumerate(self._rules):
            # Of a dependency, what is known already is not written again.
            known = f" EXCEPT SELECT * FROM kept{place}" if dependent else ""  # noqa: S608 - names of ours
            self._connection.execute(
                f"INSERT INTO kept{place} SELECT DISTINCT {_listed(*key, *dependent)} FROM batch "  # noqa: S608 - names of ours
                f"WHERE {where} AND {_present(key)}{known}"
            )

    def _met(self, place: int) -> frozenset[int]:
        """Places of rows that an accepted row of an earlier batch rejects."""
        key, dependent = self._rules[place]
        same = " AND ".join(f"kept.{name} = batch.{name}" for name in key)
        other = " OR ".join(f"kept.{name} IS DISTINCT FROM batch.{name}" for name in dependent) or "TRUE"
        found = self._connection.execute(
            f"SELECT DISTINCT batch.place FROM batch JOIN kept{place} AS kept ON {same} WHERE {other}"  # noqa: S608 - names of ours
        )
        places: NDArray[np.int64] = np.asarray(found.fetchnumpy()["place"], np.int64)
        return frozenset(places.tolist())

    def _groups(self, key: Sequence[str], dependent: Sequence[str]) -> Mapping[int, tuple[int, int]]:
        """Of rows that others of the batch may reject: by place, a number of the key and one of all columns."""
        found = self._connection.execute(
            f"WITH shared AS (SELECT * FROM batch WHERE {_present(key)} "  # noqa: S608 - names of ours
            f"QUALIFY count(*) OVER (PARTITION BY {_listed(*key)}) > 1) "
            f"SELECT place, dense_rank() OVER (ORDER BY {_listed(*key)}) AS same, "
            f"dense_rank() OVER (ORDER BY {_listed(*key, *dependent)}) AS whole FROM shared"
        ).fetchnumpy()
        places, same, whole = (np.asarray(found[name], np.int64) for name in ("place", "same", "whole"))
        if dependent and len(places):
            # Rows that agree in everything cannot contradict one another; most groups are of such rows.
            last = int(same.max()) + 1
            lowest, highest = np.full(last, len(same) + 1), np.zeros(last, np.int64)
            np.minimum.at(lowest, same, whole)
            np.maximum.at(highest, same, whole)
            mixed = (lowest < highest)[same]
            places, same, whole = places[mixed], same[mixed], whole[mixed]
        return dict(zip(places.tolist(), zip(same.tolist(), whole.tolist(), strict=True), strict=True))

    def _named(self, columns: Sequence[str]) -> tuple[str, ...]:
        return tuple(self._numbers[column] for column in columns)


def _listed(*names: str) -> str:
    return ", ".join(names)


def _present(names: Sequence[str]) -> str:
    return " AND ".join(f"{name} IS NOT NULL" for name in names)
