"""The table of a training job, brought to this machine, and the part of it that is held out.

Rows of CSV and JSON lines come as bytes and are typed here, as a whole; those of Parquet keep their types.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.errors import FailureKind, ModelError
from models.tabular.columns import Column, find_columns, plain_table
from models.tabular.links import check_links, key_column, places_of
from models.training_run import ParentTable
from workers.contracts import ByteRange, CountRange, FitWork, RowGroupRange, SourceRange
from workers.sources import MAX_CELL, RangedFile, SourceError, open_parquet, parse_lines
from workers.store import ObjectStore, open_uri
from workers.training_data import FetchStoppedError

MISSING: Final = ("", "NA", "N/A", "NaN", "nan", "null", "NULL")
"""Cells of CSV without a value, unless they are quoted."""
MAX_ROWS: Final = 1_000_000
"""A training has its rows in memory."""
TRAIN_FILE = "train.parquet"
HOLDOUT_FILE = "holdout.parquet"
PARENT_FILE = "parent.parquet"
HOLDOUT_PARENT_FILE = "holdout-parent.parquet"
"""Of a linked table's parent: the subjects that were learned from, and those held out."""
_SALT: Final = 0x9E3779B97F4A7C15


@dataclass(frozen=True, kw_only=True)
class FetchedTable:
    """A table, and what its columns are taken for."""

    table: pa.Table
    columns: tuple[Column, ...]
    digest: str
    """Of all its values, the parent's among them."""
    parent: ParentTable | None = None


@dataclass(frozen=True, kw_only=True)
class Split:
    """A table in two: what is learned from, and what the model never sees. Of a linked one, whole subjects."""

    learned: pa.Table
    holdout: pa.Table
    parent: ParentTable | None = None
    """The subjects that are learned from."""
    holdout_parent: pa.Table | None = None

    @property
    def files(self) -> dict[str, bytes]:
        """What is kept of it for the report, by name."""
        tables = {TRAIN_FILE: self.learned, HOLDOUT_FILE: self.holdout}
        if self.parent is not None:
            tables[PARENT_FILE] = self.parent.table
        if self.holdout_parent is not None:
            tables[HOLDOUT_PARENT_FILE] = self.holdout_parent
        return {name: parquet_bytes(table) for name, table in tables.items()}


def fetch_table(fit: FitWork, store: ObjectStore, stop: threading.Event, name: str) -> FetchedTable:
    """A job's table, with types that columns can have.

    Raises:
        ModelError: kind MODEL, code `training_data_unreadable`: the rows make no table, a column cannot be what it is
            to be taken for, or the rows of a linked table do not fit its parent's.
        StoreError: a store cannot be reached, or the rows changed since they were planned.
        SourceError: the rows are not those that were planned.
        FetchStoppedError: `stop` was set.
    """
    own = _typed(_pieces(fit.rows, fit.query, fit.database, store, stop), fit.columns, name)
    if fit.foreign_key is None:
        return own
    of = fit.parent
    if of is None:
        return link_tables(own, None, fit, name)
    pieces = _pieces(of.rows, of.query, fit.database, store, stop)
    return link_tables(own, _typed(pieces, of.columns, of.name or "data.parent"), fit, name)


def link_tables(own: FetchedTable, parent: FetchedTable | None, fit: FitWork, name: str) -> FetchedTable:
    """A linked table with its parent's: their keys are taken for keys, and checked.

    Raises:
        ModelError: kind MODEL, code `training_data_unreadable`: the tables do not fit together.
    """
    foreign_key = fit.foreign_key or ""
    subjects: ParentTable | None = None
    try:
        columns = key_column(own.columns, foreign_key, "data.foreign_key")
        if parent is not None and fit.parent is not None:
            about = key_column(parent.columns, fit.parent.key, "data.parent.key")
            subjects = ParentTable(table=parent.table, columns=about, key=fit.parent.key)
        check_links(own.table, columns, foreign_key, fit.order_by, subjects)
    except ValueError as error:
        raise _unreadable(f"{name}: {error}") from error
    links = (own.digest, columns, foreign_key, fit.order_by, parent and parent.digest, subjects and subjects.columns)
    digest = f"table:{hashlib.sha256(repr(links).encode()).hexdigest()}"
    return FetchedTable(table=own.table, columns=columns, digest=digest, parent=subjects)


def split_table(found: FetchedTable, foreign_key: str | None, share: float, seed: int) -> Split:
    """Hold out about this share of a table's rows; of a linked table's subjects, with all of their rows.

    A subject is known by its row of the parent; without one, by the order in which its first row comes.
    """
    table, parent = found.table, found.parent
    if foreign_key is None:
        held_out = split_rows(table.num_rows, share, seed)
        return Split(learned=table.filter(~held_out), holdout=table.filter(held_out))
    keys = table[foreign_key].combine_chunks()
    subjects = pc.unique(keys) if parent is None else parent.table[parent.key].combine_chunks()
    lots = split_rows(len(subjects), share, seed)
    held_out = lots[places_of(keys, subjects).to_numpy(zero_copy_only=False)]
    learned, holdout = table.filter(~held_out), table.filter(held_out)
    if parent is None:
        return Split(learned=learned, holdout=holdout)
    return Split(
        learned=learned,
        holdout=holdout,
        parent=replace(parent, table=parent.table.filter(~lots)),
        holdout_parent=parent.table.filter(lots),
    )


def split_rows(count: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Which of so many rows are held out: by a hash of the row's number and the seed, about this share of them.

    The hash is splitmix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators"). A row's lot
    does not depend on how many others there are.
    """
    with np.errstate(over="ignore"):
        mixed = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(_SALT)
        mixed += _mixed(np.array([seed % (1 << 64)], dtype=np.uint64))
        mixed = _mixed(mixed)
    return (mixed >> np.uint64(11)) * 2.0**-53 < share


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file: the same each time."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _typed(pieces: Sequence[pa.Table], kinds: Mapping[str, str], name: str) -> FetchedTable:
    """Pieces as one table, and what its columns are taken for."""
    try:
        table = plain_table(pa.concat_tables(pieces, promote_options="permissive"))
        columns = find_columns(table, kinds)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        raise _unreadable(f"{name}: {error}") from error
    whole = hashlib.sha256()
    for batch in table.combine_chunks().to_batches():
        whole.update(batch.serialize())
    whole.update(repr(columns).encode())
    return FetchedTable(table=table, columns=columns, digest=f"table:{whole.hexdigest()}")


def _pieces(
    rows: Sequence[SourceRange], query: str | None, database: str | None, store: ObjectStore, stop: threading.Event
) -> list[pa.Table]:
    if query is not None and database is not None:
        from workers.training_query import fetch_query  # noqa: PLC0415 - what plans and shows tables asks no database

        return [fetch_query(query, database, limit=MAX_ROWS, stop=stop)]
    # What follows each other in one object is typed as one.
    return [_read(list(ranges), store, stop) for _, ranges in groupby(rows, key=_kind)]


def _kind(source: SourceRange) -> str:
    return source.format if isinstance(source, ByteRange) else type(source).__name__


def _read(ranges: Sequence[SourceRange], store: ObjectStore, stop: threading.Event) -> pa.Table:
    groups = [each for each in ranges if isinstance(each, RowGroupRange)]
    parts = [each for each in ranges if isinstance(each, ByteRange)]
    if any(isinstance(each, CountRange) for each in ranges):
        raise AssertionError("a table is not made of numbers of rows")
    if groups:
        return pa.concat_tables([_row_group(each, store, stop) for each in groups])
    data = b"".join(_bytes(each, store, stop) for each in parts)
    return _from_csv(data, parts[0]) if parts[0].format == "csv" else _from_lines(data)


def _bytes(source: ByteRange, store: ObjectStore, stop: threading.Event) -> bytes:
    if stop.is_set():
        raise FetchStoppedError
    objects, key = open_uri(source.uri, store)
    data = objects.get(key, offset=source.offset, length=source.length, etag=source.etag)
    if len(data) != source.length:
        raise SourceError(f"{source.uri} ends at byte {source.offset + len(data):,}; it was longer when it was planned")
    return data if data.endswith(b"\n") else data + b"\n"


def _row_group(source: RowGroupRange, store: ObjectStore, stop: threading.Event) -> pa.Table:
    if stop.is_set():
        raise FetchStoppedError
    objects, key = open_uri(source.uri, store)
    with open_parquet(RangedFile(objects, key, source.etag)) as file:
        return file.read_row_group(source.group).slice(source.offset, source.count)


def _from_csv(data: bytes, source: ByteRange) -> pa.Table:
    try:
        return pa_csv.read_csv(
            io.BytesIO(data),
            read_options=pa_csv.ReadOptions(column_names=list(source.columns), block_size=max(MAX_CELL, len(data))),
            parse_options=pa_csv.ParseOptions(delimiter=source.delimiter, newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                null_values=list(MISSING), strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise SourceError(f"{source.uri}, from byte {source.offset:,}: not what was planned: {error}") from error


def _from_lines(data: bytes) -> pa.Table:
    rows = parse_lines(data)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise _unreadable(f"column {name!r} holds values of several types: {error}") from error
    return pa.table(columns)


def _unreadable(message: str) -> ModelError:
    return ModelError(FailureKind.MODEL, "training_data_unreadable", message)
