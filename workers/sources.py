"""Rows out of sources: CSV, JSON lines and Parquet, read by range.

Planner and worker share what is here, so that a row means the same to both. Blank lines are no rows, in CSV (a line
with no cell at all) as in JSON lines (a line of white space).
"""

from __future__ import annotations

import base64
import csv
import datetime as dt
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from workers.contracts import CountRange, Row, RowGroupRange, SourceRange
from workers.store import ObjectStore, open_uri

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DELIMITERS = (",", ";", "\t", "|")
MAX_CELL = 1 << 20
"""Characters of a CSV cell."""
_BATCH_ROWS = 4096


class SourceError(Exception):
    """A range does not hold the rows that were planned."""


def read_rows(source: SourceRange, store: ObjectStore) -> Iterator[Row]:
    """Exactly the rows of a range, in order, as JSON values. CSV cells are text.

    Args:
        source: The range, as it was planned.
        store: Nightmill's own store, to which keys and `nightmill://` URIs belong.

    Raises:
        StoreError: the object is gone, changed since it was planned, or cannot be reached.
        SourceError: the range does not hold what was planned.
    """
    if isinstance(source, CountRange):
        return ({"index": index} for index in range(source.start, source.start + source.count))
    objects, key = open_uri(source.uri, store)
    if isinstance(source, RowGroupRange):
        return _row_group_rows(source, RangedFile(objects, key, source.etag))
    data = objects.get(key, offset=source.offset, length=source.length, etag=source.etag)
    if len(data) != source.length:
        raise SourceError(f"{source.uri} ends at byte {source.offset + len(data):,}; it was longer when it was planned")
    try:
        rows = parse_lines(data) if source.format == "jsonl" else parse_csv(data, source.columns, source.delimiter)
    except (ValueError, csv.Error) as error:
        raise SourceError(f"{source.uri}, from byte {source.offset:,}: not what was planned: {error}") from error
    return iter(rows)


def parse_lines(data: bytes) -> list[Row]:
    """Rows of whole JSON lines.

    Raises:
        orjson.JSONDecodeError: a line is not JSON.
    """
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    try:
        return list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:
        # A blank line is the usual reason; anything else is raised again here.
        return [orjson.loads(line) for line in lines if line.strip()]


def parse_csv(data: bytes, columns: Sequence[str], delimiter: str) -> list[Row]:
    """Rows of whole CSV records, under the names of their columns.

    Raises:
        ValueError: the data is not UTF-8, or a record has another number of cells.
        csv.Error: the quoting is broken.
    """
    reader = csv_reader(io.StringIO(data.decode(), newline="\n"), delimiter)
    return [dict(zip(columns, cells, strict=True)) for cells in reader if cells]


def csv_reader(lines: Iterable[str], delimiter: str) -> Any:  # noqa: ANN401 - csv's reader has no public type
    """A reader of CSV as RFC 4180 has it: quotes are doubled, and a quoted cell may hold line ends."""
    # The limit belongs to the process, and its default would refuse an article in a cell.
    csv.field_size_limit(MAX_CELL)
    return csv.reader(lines, delimiter=delimiter, strict=True)


def sniff_delimiter(header: str) -> str:
    """What separates the cells of a header line: the likeliest character outside of quotes; a comma where none is."""
    bare = "".join(header.split('"')[::2])
    return max(DELIMITERS, key=bare.count)


class RangedFile(io.RawIOBase):
    """An object of a store as a seekable file that fetches what is read."""

    def __init__(self, store: ObjectStore, key: str, etag: str | None) -> None:
        super().__init__()
        info = store.head(key)
        self._size = 0 if info is None else info.size
        self._store, self._key, self._etag = store, key, etag
        self._position = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read from any place."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes."""
        left = max(0, self._size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        data = self._store.get(self._key, offset=self._position, length=wanted, etag=self._etag)
        self._position += len(data)
        return data


def open_parquet(file: RangedFile) -> pq.ParquetFile:
    """A Parquet file that is read column chunk by column chunk, at little memory.

    Raises:
        pyarrow.ArrowException: it is not Parquet, or broken.
    """
    return pq.ParquetFile(pa.PythonFile(file, mode="r"), buffer_size=1 << 20, pre_buffer=False)


def parquet_rows(file: pq.ParquetFile, group: int) -> Iterator[list[Row]]:
    """All rows of one row group, in batches.

    Raises:
        pyarrow.ArrowException: the group is broken.
    """
    columns = parquet_columns(file.schema_arrow)
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], columns=columns):
        rows = batch.to_pylist()
        yield rows if _plain_types(batch.schema) else [cast("Row", json_value(row)) for row in rows]


def parquet_columns(schema: pa.Schema) -> list[str]:
    """The columns of a Parquet file that have a JSON form: all but those of raw bytes."""
    return [field.name for field in schema if not _is_binary(field.type)]


def json_value(value: object) -> object:
    """A Parquet value as a JSON value: dates as ISO 8601, exact decimals as text, what is not a number as null."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in value]
    return _as_text(value)


def _as_text(value: object) -> str:
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def _row_group_rows(source: RowGroupRange, file: RangedFile) -> Iterator[Row]:
    try:
        batches = parquet_rows(open_parquet(file), source.group)
        rows = itertools.chain.from_iterable(batches)
        found = list(itertools.islice(rows, source.offset, source.offset + source.count))
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{source.uri}, row group {source.group}: not what was planned: {error}") from error
    if len(found) != source.count:
        raise SourceError(f"{source.uri}, row group {source.group}: has fewer rows than when it was planned")
    return iter(found)


def _plain_types(schema: pa.Schema) -> bool:
    return all(
        pa.types.is_string(field.type)
        or pa.types.is_large_string(field.type)
        or pa.types.is_integer(field.type)
        or pa.types.is_boolean(field.type)
        for field in schema
    )


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
