"""Results in the formats that other programs open: CSV and Parquet, made from the JSON lines as they pass.

Memory stays at one chunk, or one row group, whatever the size of the job.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import Buffer

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for a formula. Source: OWASP, "CSV Injection"."""
ROWS_PER_GROUP = 20_000
Outputs: TypeAlias = int | Literal["images", "audio"] | tuple[str, ...]
"""How many texts a record holds, or the field that names its files, or the columns of a dataset's row."""
_FIRST = ("index", "custom_id", "status")
_LAST = (
    "finish_reason",
    "error_code",
    "error_message",
    "prompt_tokens",
    "completion_tokens",
    "model",
    "model_revision",
    "seed",
    "reproducible",
    "attempts",
)
_INTEGERS = frozenset({"index", "prompt_tokens", "completion_tokens", "seed", "attempts"})


def columns(kept: Sequence[str], outputs: Outputs, nodes: Sequence[str] = ()) -> list[str]:
    """The columns of an export: `kept` fields of the input, an item's outputs, or the keys of its files in one.

    Of a flow, a column for what each node made.
    """
    if nodes:
        return [*_FIRST, *(f"input.{name}" for name in kept), *nodes, "error_code", "error_message"]
    if isinstance(outputs, tuple):
        return [*_FIRST, *(f"input.{name}" for name in kept), *map(_column, outputs), *_LAST]
    if isinstance(outputs, str):
        return [*_FIRST, *(f"input.{name}" for name in kept), "prompt", outputs, *_LAST]
    texts = ["output"] if outputs == 1 else [f"output_{number}" for number in range(1, outputs + 1)]
    return [*_FIRST, *(f"input.{name}" for name in kept), *texts, *_LAST]


def to_csv(
    chunks: Iterable[bytes], kept: Sequence[str], outputs: Outputs, nodes: Sequence[str] = ()
) -> Iterator[bytes]:
    """Results as CSV with a header line, for a spreadsheet: no cell of it runs as a formula."""
    names = columns(kept, outputs, nodes)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")  # RFC 4180
    writer.writerow(names)
    for lines in _lines(chunks):
        for line in lines:
            row = _row(_flat(orjson.loads(line), nodes), kept, outputs)
            writer.writerow([harmless(row.get(name)) for name in names])
        yield drained(buffer)
    yield drained(buffer)


def to_parquet(
    chunks: Iterable[bytes], kept: Sequence[str], outputs: Outputs, nodes: Sequence[str] = ()
) -> Iterator[bytes]:
    """Results as a Parquet file, in row groups of 20,000."""
    names = columns(kept, outputs, nodes)
    schema = pa.schema([(name, pa.int64() if name in _INTEGERS else pa.string()) for name in names])
    sink = Sink()
    with pq.ParquetWriter(pa.PythonFile(sink, "w"), schema, compression="zstd") as writer:
        waiting: list[dict[str, Any]] = []  # records: any JSON
        for lines in _lines(chunks):
            waiting += (_row(_flat(orjson.loads(line), nodes), kept, outputs) for line in lines)
            while len(waiting) >= ROWS_PER_GROUP:
                writer.write_table(_table(waiting[:ROWS_PER_GROUP], schema))
                del waiting[:ROWS_PER_GROUP]
                yield sink.drain()
        if waiting:
            writer.write_table(_table(waiting, schema))
    yield sink.drain()


class Sink(io.RawIOBase):
    """A file that is only ever appended to, and emptied as it grows."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Buffer) -> int:
        """Append."""
        part = bytes(data)
        self._parts.append(part)
        self._position += len(part)
        return len(part)

    def tell(self) -> int:
        """Bytes written so far, in all."""
        return self._position

    def drain(self) -> bytes:
        """What was written since it was drained."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def _lines(chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Whole lines, as many at a time as came together."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
    if rest:
        yield [rest]


def _flat(record: dict[str, Any], nodes: Sequence[str]) -> dict[str, Any]:  # records: any JSON
    """A flow's record with what each node made under its name, and the error of the first that failed."""
    if not nodes:
        return record
    made = [record["nodes"][name] for name in nodes]
    errors = (own["error"] for own in made if "error" in own)
    return {**record, **dict(zip(nodes, map(_made, made), strict=True)), "error": next(errors, None)}


def _made(record: dict[str, Any]) -> object:  # of a node: any JSON
    """What a node made of an item, as one cell: its output, its outputs as a list, or the keys of its files."""
    if "outputs" in record:
        return [each["text"] for each in record["outputs"]]
    files = record.get("images") or record.get("audio")
    return " ".join(file["key"] for file in files) if files else record.get("output")


def _row(record: dict[str, Any], kept: Sequence[str], outputs: Outputs) -> dict[str, Any]:  # records: any JSON
    """A record as flat cells, of any JSON."""
    given = record.get("input") or {}
    usage = record.get("usage") or {}
    error = record.get("error") or {}
    row = {
        **record,
        **{f"input.{name}": given.get(name) for name in kept},
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "error_code": error.get("code"),
        "error_message": error.get("message"),
    }
    if isinstance(outputs, str):
        row[outputs] = " ".join(file["key"] for file in record.get(outputs) or ()) or None
    elif isinstance(outputs, tuple):
        row |= {_column(name): (record.get("output") or {}).get(name) for name in outputs}
    elif outputs == 1:
        row["output"] = record.get("output")
    else:
        samples = record.get("outputs") or []
        row |= {f"output_{number}": sample["text"] for number, sample in enumerate(samples, start=1)}
        row["finish_reason"] = ",".join(sample["finish_reason"] for sample in samples) or None
    return row


def _column(name: str) -> str:
    """A dataset's column among those that every export has."""
    return f"output.{name}" if name in {*_FIRST, *_LAST} else name


def _text(value: object) -> str | None:
    """A cell of a text column: JSON where it is not text."""
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()


def harmless(value: object) -> object:
    """A cell of a CSV file. Numbers stay numbers; text that a spreadsheet would run is marked as text."""
    if value is None or isinstance(value, int | float):
        return value
    text = _text(value) or ""
    return "'" + text if text.startswith(FORMULA_STARTS) else text


def drained(buffer: io.StringIO) -> bytes:
    """What a buffer holds, which is then empty."""
    data = buffer.getvalue().encode()
    buffer.seek(0)
    buffer.truncate()
    return data


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:  # records: any JSON
    arrays = {}
    for field in schema:
        cells = [row.get(field.name) for row in rows]
        arrays[field.name] = pa.array(cells if field.name in _INTEGERS else map(_text, cells), field.type)
    return pa.table(arrays)
