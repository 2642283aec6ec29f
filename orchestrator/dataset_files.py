"""The rows of a dataset as files that `datasets.load_dataset` reads: Parquet by split, and a card that names them.

The records are read twice: once for the types of the columns, once to be written. Memory stays at some thousand rows,
whatever the size of the job. https://huggingface.co/docs/hub/datasets-manual-configuration
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeAlias

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import JsonValue

from orchestrator.dataset_splits import Splits

ROWS_PER_GROUP = 5_000
ROWS_PER_FILE = 500_000
Values: TypeAlias = dict[str, Any]  # a row: any JSON
Lines: TypeAlias = Callable[[], Iterable[bytes]]
"""The job's records, one a line, from the first; called more than once."""


class DatasetFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to say of a dataset that was written."""

    rows: dict[str, int]
    """By split."""
    types: dict[str, str]
    """By column, as Arrow has them."""
    failed: dict[str, int]
    """Rows that are missing, by the code of their error."""
    revisions: tuple[str, ...]
    """Of the models that wrote them."""


class _Record(msgspec.Struct):
    index: int
    status: str
    output: Values = {}
    error: dict[str, str] = {}
    model_revision: str = ""


def write_dataset(lines: Lines, folder: Path, columns: Sequence[str], splits: Splits, by: str | None) -> DatasetFigures:
    """Write `data/SPLIT-00000.parquet` and so on below `folder`.

    Args:
        lines: The records.
        folder: An empty folder.
        columns: What a row has.
        splits: Where rows go.
        by: The column that decides it; by default each row is for itself.

    Raises:
        OSError: a file cannot be written.
    """
    failed: Counter[str] = Counter()
    revisions: dict[str, None] = {}
    schema = _schema(_noted(_records(lines), failed, revisions), columns)
    (folder / "data").mkdir(parents=True)
    written: Counter[str] = Counter(dict.fromkeys(splits.names, 0))
    with ExitStack() as files:
        writers = {name: files.enter_context(_SplitFiles(folder / "data", name, schema)) for name in splits.names}
        for record in _records(lines):
            if record.status == "ok":
                split = splits.of(record.index if by is None else record.output.get(by))
                writers[split].add(record.output)
                written[split] += 1
    return DatasetFigures(
        rows=dict(written),
        types={field.name: str(field.type) for field in schema},
        failed=dict(failed),
        revisions=tuple(revisions),
    )


def _records(lines: Lines) -> Iterator[_Record]:
    decoder = msgspec.json.Decoder(_Record)
    return (decoder.decode(line) for line in lines() if line.strip())


def _noted(records: Iterator[_Record], failed: Counter[str], revisions: dict[str, None]) -> Iterator[Values]:
    """The rows that there are; why others are missing is counted on the way."""
    for record in records:
        if record.status == "ok":
            revisions[record.model_revision] = None
            yield record.output
        else:
            failed[record.error.get("code", record.status)] += 1


def _schema(rows: Iterator[Values], columns: Sequence[str]) -> pa.Schema:
    """The type of each column that fits all of its values; text where none does."""
    types: dict[str, pa.DataType] = dict.fromkeys(columns, pa.null())
    block: list[Values] = []
    for row in rows:
        block.append(row)
        if len(block) == ROWS_PER_GROUP:
            types = _widened(types, block)
            block = []
    types = _widened(types, block)
    return pa.schema([(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in types.items()])


def _widened(types: Mapping[str, pa.DataType], rows: Sequence[Values]) -> dict[str, pa.DataType]:
    return {name: _fitting(kind, [row.get(name) for row in rows]) for name, kind in types.items()}


def _fitting(known: pa.DataType, values: Sequence[Any]) -> pa.DataType:  # any JSON
    if pa.types.is_string(known):
        return known
    try:
        found = pa.array(values).type
        schemas = [pa.schema([("", kind)]) for kind in (known, found)]
        merged = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.string()
    return merged if _storable(merged) else pa.string()


def _storable(kind: pa.DataType) -> bool:
    """Whether Parquet can hold a type: no object without fields, and nothing that is never but null."""
    if pa.types.is_struct(kind):
        return bool(kind.num_fields) and all(_storable(field.type) for field in kind)
    if pa.types.is_list(kind):
        return not pa.types.is_null(kind.value_type) and _storable(kind.value_type)
    return True


class _SplitFiles:
    """The files of one split, filled one after the other."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self._folder, self._name, self._schema = folder, name, schema
        self._waiting: list[Values] = []
        self._files = self._rows = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._flush()
        self._close()

    def add(self, row: Values) -> None:
        """Take one row."""
        self._waiting.append(row)
        if len(self._waiting) == ROWS_PER_GROUP:
            self._flush()
            if self._rows >= ROWS_PER_FILE:
                self._close()

    def _flush(self) -> None:
        if not self._waiting and self._files:
            return
        if self._writer is None:
            # A split without rows has a file, too: a reader asks for it.
            path = self._folder / f"{self._name}-{self._files:05d}.parquet"
            self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
            self._files, self._rows = self._files + 1, 0
        arrays = [_array([row.get(field.name) for row in self._waiting], field.type) for field in self._schema]
        self._writer.write_table(pa.table(arrays, schema=self._schema))
        self._rows += len(self._waiting)
        self._waiting = []

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array[Any]:  # any JSON
    if pa.types.is_string(kind):
        return pa.array([None if value is None else _text(value) for value in values], kind)
    return pa.array(values, kind)


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
