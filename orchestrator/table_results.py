"""The rows of a table that a job has sampled, as one file. Memory stays at one block, whatever the table's size."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator import results
from orchestrator.exports import Sink, drained, harmless
from orchestrator.flow_results import lines_of
from orchestrator.jobs import Jobs
from workers.records import StoredTable
from workers.store import ObjectStore

Form: TypeAlias = Literal["jsonl", "csv", "parquet"]


class _Block(msgspec.Struct):
    """As much of a record as it takes to find its rows."""

    table: StoredTable | None = None


_blocks = msgspec.json.Decoder(_Block)


def stream(store: ObjectStore, jobs: Jobs, job_id: str, form: Form) -> Iterator[bytes]:
    """Every row that can be read, in order, as chunks of a file. Blocks that failed have none.

    Raises:
        UnknownJobError: there is no such job.
        StoreError: the store cannot be reached, or lost a block.
    """
    return {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet}[form](_tables(store, jobs, job_id))


def _tables(store: ObjectStore, jobs: Jobs, job_id: str) -> Iterator[pa.Table]:
    for line in lines_of(results.stream(store, jobs, job_id)):
        block = _blocks.decode(line).table
        if block is not None:
            yield pq.read_table(io.BytesIO(store.get(block.key)))


def _jsonl(tables: Iterator[pa.Table]) -> Iterator[bytes]:
    for table in tables:
        yield b"".join(orjson.dumps(row) + b"\n" for row in table.to_pylist())


def _csv(tables: Iterator[pa.Table]) -> Iterator[bytes]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")  # RFC 4180
    for number, table in enumerate(tables):
        if not number:
            writer.writerow([harmless(name) for name in table.column_names])
        columns = [column.to_pylist() for column in table.columns]
        writer.writerows([_cell(value) for value in row] for row in zip(*columns, strict=True))
        yield drained(buffer)


def _cell(value: object) -> object:
    return harmless(value if value is None or isinstance(value, int | float | str) else str(value))


def _parquet(tables: Iterator[pa.Table]) -> Iterator[bytes]:
    """With a row group for each block."""
    sink = Sink()
    writer: pq.ParquetWriter | None = None
    try:
        for table in tables:
            if writer is None:
                schema = table.schema
                writer = pq.ParquetWriter(pa.PythonFile(sink, "w"), schema, compression="zstd")
            writer.write_table(table.cast(schema))
            yield sink.drain()
    finally:
        if writer is not None:
            writer.close()
    yield sink.drain()
