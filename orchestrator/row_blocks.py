"""A source as blocks of rows with their places: the stream that planning reads once.

A block is some thousand rows. Everything a row costs here, planning costs for each of millions: blocks are parsed by
whole-list calls, and a slower path names the line only once something is wrong.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeAlias

import msgspec
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.source_files import SourceFile, check_start, pinned
from orchestrator.spec_error import SpecError
from workers.contracts import Row
from workers.sources import BYTE_ORDER_MARK, MAX_CELL, csv_reader, parquet_rows, sniff_delimiter

MAX_ROW = 8 << 20
"""Bytes of one row."""
_CHUNK = 1 << 17
"""Bytes parsed at once: enough to make numpy worth calling, and few enough for the processor's cache."""
_START = 64
"""Bytes that tell a file's format."""
_NEWLINE = 0x0A
_Offsets: TypeAlias = NDArray[np.int64]


class Block(msgspec.Struct, frozen=True):
    """Rows that follow each other in a source."""

    rows: list[Row]
    ends: _Offsets
    """Where each row ends: bytes from the file's start, or rows from its row group's."""
    lines: list[int] | range
    """The line on which each row begins, from 1; of Parquet, the number of the row."""
    start: int
    """Where the first row begins, in the unit of `ends`."""
    longest: int | None = None
    """Bytes that no row is longer than, where that is known."""
    picked: list[Any] | None = None  # ids: any JSON
    """The rows' ids, where a glance was enough; `rows` is empty then."""


class Glance(msgspec.Struct, frozen=True):
    """How to be sure of rows without keeping them: each is dropped as soon as its id has been taken.

    This is what makes planning half as fast as parsing alone: rows that are kept cost as much again.
    """

    pick: Callable[[Iterator[Row]], list[Any]]  # ids: any JSON
    """Takes the ids of rows; fails with KeyError or TypeError where a row has to be looked at."""
    longest: int
    """Bytes of a row above which it has to be looked at."""
    absent: bytes
    """What may not occur in the data, or its rows have to be looked at; empty for nothing."""


class CsvHeader(msgspec.Struct, frozen=True):
    """What the first record of a CSV file says."""

    columns: tuple[str, ...]
    delimiter: str
    start: int
    """Where the first row begins, in bytes."""
    line: int
    """The line on which it begins."""


def line_blocks(source: SourceFile, glance: Callable[[], Glance | None] = lambda: None) -> Iterator[Block]:
    """The rows of a JSON lines source.

    Args:
        source: The source.
        glance: Asked before each block whether a glance at its rows will do.

    Raises:
        SpecError: a line is not a JSON object in UTF-8, or too long.
    """
    line = 1
    for offset, data in _whole_lines(source):
        lines = data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        sizes = np.fromiter(map(len, lines), np.int64, len(lines))
        longest = int(sizes.max())
        sizes += 1
        ends = sizes.cumsum()
        ends += offset
        # The last line of a file may have no line end.
        ends[-1] = min(int(ends[-1]), offset + len(data))
        numbers: list[int] | range = range(line, line + len(lines))
        line += len(lines)
        picked = _glanced(glance(), data, lines, longest)
        if picked is not None:
            yield Block([], ends, numbers, offset, longest, picked)
            continue
        try:
            rows = list(map(orjson.loads, lines))
        except orjson.JSONDecodeError:
            full = [place for place, text in enumerate(lines) if text.strip()]
            ends, numbers = ends[full], [numbers[place] for place in full]
            rows = [_parsed(lines[place], number, source.name) for place, number in zip(full, numbers, strict=True)]
        if set(map(type, rows)) - {dict}:
            place = next(place for place, row in enumerate(rows) if type(row) is not dict)
            found = {list: "an array", str: "a text", type(None): "null", bool: "a truth value"}
            kind = found.get(type(rows[place]), "a number")
            raise _wrong(f'holds {kind}; each line must be an object, such as {{"name": "…"}}', source, numbers[place])
        if rows:
            yield Block(rows, ends, numbers, offset, longest)


def csv_header(source: SourceFile) -> CsvHeader:
    """The names of a CSV file's columns, and what separates its cells.

    Raises:
        SpecError: the file is empty or not text, or a column has no name, or the name of another.
    """
    for offset, data in _whole_lines(source):
        text = _text(data, 1, source)
        first = next((line for line in text.split("\n") if line.strip()), "")
        delimiter = source.delimiter or sniff_delimiter(first)
        reader = csv_reader(io.StringIO(text, newline="\n"), delimiter)
        try:
            names = next((cells for cells in reader if cells), None)
        except csv.Error as error:
            _refuse_quotes(error, source, 1, header=True)
        if names is None:
            continue
        line = reader.line_num + 1
        columns = tuple(name.strip() for name in names)
        _check_columns(columns, source, reader.line_num)
        length = len("".join(itertools.islice(io.StringIO(text, newline="\n"), reader.line_num)).encode())
        return CsvHeader(columns, delimiter, offset + length, line)
    raise SpecError("is empty", file=source.name, param="source.file", code="invalid_source")


def csv_blocks(source: SourceFile, header: CsvHeader) -> Iterator[Block]:
    """The rows of a CSV source, without its header.

    Raises:
        SpecError: a row has too many or too few cells, its quotes are broken, or it is not UTF-8.
    """
    line, rest = header.line, b""
    for offset, data in _whole_lines(source, header.start):
        data, offset = rest + data, offset - len(rest)  # noqa: PLW2901 - an unfinished record goes before what follows
        last = offset + len(data) == source.size
        text = _text(data, line, source)
        reader = csv_reader(io.StringIO(text, newline="\n"), header.delimiter)
        records: list[tuple[list[str], int]] = []
        try:
            records.extend((cells, reader.line_num) for cells in reader)
        except csv.Error as error:
            done = records[-1][1] if records else 0
            if last or "unexpected end of data" not in str(error) or len(data) > MAX_ROW:
                _refuse_quotes(error, source, line + done)
        ends = _line_ends(data, offset)
        read = records[-1][1] if records else 0
        rest = data[int(ends[read - 1]) - offset :] if read else data
        starts = [1, *(number + 1 for _, number in records)]
        full = [place for place, (cells, _) in enumerate(records) if cells]
        _check_cells(records, full, header, source, [line - 1 + start for start in starts])
        if full:
            rows = [dict(zip(header.columns, records[place][0], strict=True)) for place in full]
            numbers = [line - 1 + starts[place] for place in full]
            ends = ends[[records[place][1] - 1 for place in full]]
            yield Block(rows, ends, numbers, offset, len(data))
        line += read


def group_blocks(source: SourceFile, file: pq.ParquetFile, group: int, first: int) -> Iterator[Block]:
    """The rows of one row group of a Parquet source, whose first row is row `first` of the file, from 0.

    Raises:
        SpecError: the group is broken.
    """
    done = 0
    batches = parquet_rows(file, group)
    while True:
        try:
            with pinned(source):
                rows = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            raise SpecError(
                f"the Parquet file is broken in row group {group}, after row {first + done:,}: {error}",
                file=source.name,
                param="source.file",
                code="invalid_source",
            ) from error
        if rows is None:
            return
        if rows:
            ends = np.arange(done + 1, done + len(rows) + 1, dtype=np.int64)
            yield Block(rows, ends, range(first + done + 1, first + done + len(rows) + 1), done)
        done += len(rows)


def _whole_lines(source: SourceFile, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """The data from byte `start` on, in blocks that end with a line, each with its offset."""
    chunks = source.stream(_CHUNK)
    head = b""
    while len(head) < _START and (chunk := next(chunks, b"")):
        head += chunk
    check_start(head[:_START], source.format, source.name)
    if head.startswith(BYTE_ORDER_MARK):
        start = max(start, len(BYTE_ORDER_MARK))
    position, rest = 0, b""
    for chunk in itertools.chain((head,), chunks):
        data = rest + chunk if rest else chunk
        if position < start:
            skipped = min(start - position, len(data))
            position, data = position + skipped, data[skipped:]
        cut = data.rfind(b"\n") + 1
        if cut:
            yield position, data[:cut]
        elif len(data) > MAX_ROW:
            raise SpecError(
                f"has a line of over {MAX_ROW >> 20} MiB; a row can be {MAX_ROW >> 20} MiB long at most",
                file=source.name,
                param="source.file",
                code="invalid_source",
            )
        position, rest = position + cut, data[cut:]
    if rest:
        yield position, rest


def _line_ends(data: bytes, offset: int) -> _Offsets:
    """Where each line ends, after its line end."""
    ends: _Offsets = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE)
    ends += offset + 1
    # The last line of a file may have no line end.
    return ends if data.endswith(b"\n") else np.append(ends, offset + len(data))


def _glanced(glance: Glance | None, data: bytes, lines: list[bytes], longest: int) -> list[Any] | None:
    if glance is None or longest > glance.longest or (glance.absent and glance.absent in data):
        return None
    try:
        return glance.pick(map(orjson.loads, lines))
    except (KeyError, TypeError, orjson.JSONDecodeError):
        # A blank line, a field that is not there, or a mistake: the slower path knows which, and where.
        return None


def _parsed(text: bytes, line: int, name: str) -> Row:
    try:
        row: Row = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        try:
            text.decode()
        except UnicodeDecodeError as wrong:
            raise _not_utf8(text, wrong, name, line) from wrong
        reason = error.msg.partition(": line ")[0]
        shown = text[:60].decode(errors="replace") + ("…" if len(text) > 60 else "")
        raise SpecError(
            f"is not valid JSON at column {error.colno}: {reason}, in: {shown}",
            file=name,
            line=line,
            param="source.file",
            code="invalid_source",
        ) from error
    return row


def _text(data: bytes, line: int, source: SourceFile) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(data, error, source.name, line + data.count(b"\n", 0, error.start)) from error


def _not_utf8(data: bytes, error: UnicodeDecodeError, name: str, line: int) -> SpecError:
    return SpecError(
        f"is not UTF-8 text: byte 0x{data[error.start]:02X} is out of place; save the file as UTF-8",
        file=name,
        line=line,
        param="source.file",
        code="invalid_source",
    )


def _check_columns(columns: tuple[str, ...], source: SourceFile, line: int) -> None:
    for place, name in enumerate(columns):
        if not name:
            raise _wrong(f"column {place + 1} of the header has no name", source, line)
        if columns.index(name) != place:
            raise _wrong(f"the header names the column {name!r} twice", source, line)


def _check_cells(
    records: list[tuple[list[str], int]], full: list[int], header: CsvHeader, source: SourceFile, lines: list[int]
) -> None:
    columns = len(header.columns)
    if not {len(records[place][0]) for place in full} - {columns}:
        return
    place = next(place for place in full if len(records[place][0]) != columns)
    found = len(records[place][0])
    mark = {"\t": "a tab"}.get(header.delimiter, repr(header.delimiter))
    right = f"put quotes around a cell that holds {mark}" if found > columns else "is a cell, or a quote, missing?"
    raise _wrong(
        f"has {found} cell{'s' * (found != 1)}, and the header has {columns} ({', '.join(header.columns[:8])}"
        f"{', …' if columns > 8 else ''}); {right}",
        source,
        lines[place],
    )


def _refuse_quotes(error: csv.Error, source: SourceFile, line: int, *, header: bool = False) -> NoReturn:
    text = str(error)
    if "unexpected end of data" in text:
        what = "a quoted cell that begins in this row is never closed"
    elif "field larger than field limit" in text:
        what = f"has a cell of over {MAX_CELL:,} characters; is a quote not closed?"
    elif "new-line character seen" in text:
        what = "has a carriage return inside a cell without quotes; save the file with the usual line ends"
    elif "expected after" in text:
        what = 'text follows a closing quote; write a quote inside a quoted cell twice, ""'
    else:
        what = f"is not valid CSV: {text}"
    raise _wrong(("in the header, " if header else "") + what, source, line) from error


def _wrong(message: str, source: SourceFile, line: int) -> SpecError:
    return SpecError(message, file=source.name, line=line, param="source.file", code="invalid_source")
