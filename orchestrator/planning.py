"""Planning: a job's source is read once, each row is checked, and shards are cut as the rows go by.

Memory does not grow with the source. Rows are found again by byte range (CSV, JSON lines) or by row group (Parquet).
What cannot be cut so is first copied into Nightmill's own store in a form that can: compressed files, rows that stand
in the job itself, and Parquet files whose row groups are too large to be read once for every shard.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from models.spec import Message
from orchestrator.row_blocks import Block, csv_blocks, csv_header, group_blocks, line_blocks
from orchestrator.row_checks import RowChecks
from orchestrator.shard_cuts import Cutter, PlannedShard, shard_size
from orchestrator.source_files import (
    ChunkReader,
    SourceFile,
    Staging,
    check_start,
    open_local,
    open_source,
    pinned,
    put_checked,
    stage,
)
from orchestrator.spec import JobSpec
from orchestrator.spec_error import SpecError
from orchestrator.static_checks import compile_templates
from orchestrator.train_spec import PARENT_FILE
from workers.contracts import ByteRange, CountRange, Row, RowGroupRange, SourceRange
from workers.sources import RangedFile, open_parquet, parquet_columns
from workers.store import ObjectStore, StoreError
from workers.store_folder import FolderStore

__all__ = [
    "PlanSummary",
    "PlannedShard",
    "Staging",
    "default_shard_size",
    "parent_rows",
    "plan",
    "plan_here",
    "training_rows",
]

TEXT_SHARD = 32
ECHO_SHARD = 5000
IMAGE_SHARD = 32
"""Images of a shard: some batches of most engines."""
AUDIO_SHARD = 64
"""Texts of a shard: some sentences each, spoken many times as fast as one listens."""
TABLE_SHARD = 4
"""Blocks of a table: some ten thousand rows each, a few seconds of most engines."""
SHARD_BATCH = 500
"""Shards that are handed over at once."""
MAX_ITEMS = 1_000_000_000
MAX_TRAINING_ROWS = 1_000_000
"""A training has its rows in memory."""
MAX_SHARDS = 5_000_000
MAX_GROUP_BYTES = 8 << 20
"""Uncompressed bytes of a Parquet row group that a shard may read for its rows' sake."""
OnShards = Callable[[list[PlannedShard]], None]


class PlanSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a source holds, and what a job makes of it."""

    items: int
    rows: int
    shards: int
    items_per_shard: int
    bytes: int
    """Size of the source, uncompressed."""
    columns: tuple[str, ...]
    """Names of the rows' fields: of CSV and Parquet all of them, of JSON those of the first rows."""
    fields: tuple[str, ...]
    """Fields that the templates name."""
    custom_id: str | None
    """The field that holds the rows' ids, where they have one."""
    samples: tuple[tuple[Message, ...], ...]
    """The first prompts, rendered."""


def default_shard_size(spec: JobSpec) -> int:
    """Items of a full shard, where nothing is known of the model's speed."""
    if spec.kind == "image":
        return max(1, IMAGE_SHARD // spec.n)
    if spec.kind == "audio":
        return AUDIO_SHARD
    if spec.kind == "tabular":
        return TABLE_SHARD
    return ECHO_SHARD if spec.model == "echo" else TEXT_SHARD


def plan(
    spec: JobSpec,
    source: SourceFile | None,
    staging: Staging,
    *,
    on_shards: OnShards,
    items_per_shard: int | None = None,
    samples: int = 3,
) -> PlanSummary:
    """Read a job's source once, check every row, and give its shards as they are found.

    Args:
        spec: The job, as `check_static` has seen it.
        source: Its file, from `open_source` or `open_local`; None where it has none.
        staging: Where the job's own copies of its input may go. They are the caller's to delete if planning fails.
        on_shards: Called with some hundred shards at a time, in order. If planning fails later, they are void.
        items_per_shard: Items of a full shard; by default `default_shard_size`.
        samples: How many rendered prompts to give.

    Raises:
        SpecError: the source does not fit the job; the message names file, line and field.
        StoreError: the store failed.
    """
    with tempfile.TemporaryDirectory(prefix="nightmill-plan-") as scratch:
        run = _Planning(spec, source, staging, items_per_shard or default_shard_size(spec), Path(scratch), samples)
        batch: list[PlannedShard] = []
        shards = 0
        for shard in run.shards():
            batch.append(shard)
            shards += 1
            if len(batch) == SHARD_BATCH:
                if shards > MAX_SHARDS:
                    raise SpecError(f"the job would make over {MAX_SHARDS:,} shards; divide it into several")
                on_shards(batch)
                batch = []
        if batch:
            on_shards(batch)
        return run.summary(shards)


def training_rows(spec: JobSpec, own: ObjectStore, staging: Staging) -> tuple[SourceRange, ...]:
    """Where the rows are that a job trains on, once each has been checked; of a job that trains on none, nothing.

    Raises:
        SpecError: as `plan`.
        StoreError: the store failed.
    """
    rows, data = spec.over_rows(), spec.data
    if rows is spec or data is None:
        return ()
    ranges, summary = _ranges(rows, own, staging, "data.file")
    _check_columns(data.columns, summary, "data.columns", spec.input_file)
    for name in ("foreign_key", "order_by"):
        column = getattr(data, name)
        _check_columns(() if column is None else (column,), summary, f"data.{name}", spec.input_file)
    return ranges


def parent_rows(spec: JobSpec, own: ObjectStore, staging: Staging) -> tuple[SourceRange, ...]:
    """As `training_rows`, of the table of the subjects that the rows of a linked table belong to.

    Raises:
        SpecError: as `plan`.
        StoreError: the store failed.
    """
    rows, parent = spec.over_parent(), None if spec.data is None else spec.data.parent
    if rows is None or parent is None:
        return ()
    # Beside what the other table leaves there.
    ranges, summary = _ranges(rows, own, Staging(staging.store, f"{staging.prefix}/parent"), PARENT_FILE)
    _check_columns(parent.columns, summary, "data.parent.columns", parent.file)
    _check_columns((parent.key,), summary, "data.parent.key", parent.file)
    return ranges


def _ranges(
    rows: JobSpec, own: ObjectStore, staging: Staging, param: str
) -> tuple[tuple[SourceRange, ...], PlanSummary]:
    ranges: list[SourceRange] = []
    try:
        summary = plan(
            rows,
            open_source(rows, own),
            staging,
            on_shards=lambda shards: ranges.extend(shard.source for shard in shards),
            items_per_shard=MAX_TRAINING_ROWS,
            samples=0,
        )
    except SpecError as error:
        raise error.renamed("source.file", param) from error
    if summary.rows > MAX_TRAINING_ROWS:
        message = f"holds {summary.rows:,} rows; a training takes {MAX_TRAINING_ROWS:,} at most"
        raise SpecError(message, file=rows.source.file, param=param, code="invalid_source")
    return tuple(ranges), summary


def _check_columns(names: Iterable[str], summary: PlanSummary, param: str, file: str | None) -> None:
    """See that the columns are there that a table's job names."""
    for name in names:
        if name not in summary.columns:
            near = get_close_matches(name, summary.columns, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(summary.columns[:20])}"
            message = f"{param}: there is no column {name!r}; {hint}"
            raise SpecError(message, file=file, param=param, code="invalid_source")


def plan_here(spec: JobSpec, *, items_per_shard: int | None = None, samples: int = 3) -> PlanSummary:
    """Plan a job whose source is a local file, or none, without a stack; nothing is kept.

    Raises:
        SpecError: as `plan`.
    """
    with tempfile.TemporaryDirectory(prefix="nightmill-plan-") as folder:
        staging = Staging(FolderStore(folder), "input")
        try:
            return plan(
                spec,
                open_local(spec),
                staging,
                on_shards=lambda _shards: None,
                items_per_shard=items_per_shard,
                samples=samples,
            )
        except StoreError as error:
            raise SpecError(str(error), param="source.file", code="invalid_source") from error


class _Planning:
    """One reading of one source."""

    def __init__(
        self,
        spec: JobSpec,
        source: SourceFile | None,
        staging: Staging,
        items_per_shard: int,
        scratch: Path,
        samples: int,
    ) -> None:
        self._spec = spec
        self._source = source
        self._staging = staging
        self._size = items_per_shard
        self._rows = 0
        self._bytes = 0
        template = compile_templates(spec)
        self._template = template
        unit = "line"
        if source is None:
            unit = "item" if spec.source.items is not None else "row"
        elif source.format == "parquet":
            unit = "row"
        self._checks = RowChecks(
            spec,
            template,
            name=None if source is None else source.name,
            unit=unit,
            scratch=scratch,
            samples=samples,
        )

    def shards(self) -> Iterator[PlannedShard]:
        """The job's shards; every row has been checked once the last of them is there."""
        source = self._source
        if source is None:
            if self._spec.source.items is None:
                yield from self._count_shards()
                return
            source = self._staged_items(self._spec.source.items)
        if source.compression is not None:
            source = stage(source, self._staging)
        if source.format == "csv":
            yield from self._csv_shards(source)
        elif source.format == "jsonl":
            yield from self._line_shards(source)
        else:
            yield from self._parquet_shards(source)

    def summary(self, shards: int) -> PlanSummary:
        """What was found."""
        grid = self._spec.source.grid_size
        return PlanSummary(
            items=self._rows * grid,
            rows=self._rows,
            shards=shards,
            items_per_shard=self._size,
            bytes=self._bytes,
            columns=tuple(self._checks.fields),
            fields=tuple(sorted(self._template.fields)),
            custom_id=self._checks.custom_id,
            samples=tuple(self._checks.samples),
        )

    def _count_shards(self) -> Iterator[PlannedShard]:
        spec = self._spec.source
        count = spec.count or 1
        self._check_total(count)
        if spec.count is not None:
            self._checks.columns(["index"])
            self._checks.numbers(count)
        else:
            # A grid alone is a single row without any field of its own.
            self._checks.columns([])
            self._checks.combinations_alone()
        self._rows = count
        grid = spec.grid_size
        size = shard_size(self._size, count * grid)
        step = max(1, size // grid)
        number = 0
        for start in range(0, count, step):
            rows_here = min(step, count - start)
            items = rows_here * grid
            part = items if rows_here > 1 else min(items, size)
            for offset in range(0, items, part):
                source = CountRange(start=start, count=rows_here)
                yield PlannedShard(number, start * grid + offset, min(part, items - offset), source)
                number += 1

    def _line_shards(self, source: SourceFile) -> Iterator[PlannedShard]:
        def range_of(start: int, end: int) -> ByteRange:
            return ByteRange(uri=source.uri, etag=source.etag, format="jsonl", offset=start, length=end - start)

        cutter = Cutter(self._size, self._spec.source.grid_size, range_of)
        yield from self._cut(cutter, line_blocks(source, self._checks.glance))
        self._finish(source, lambda: line_blocks(source))

    def _csv_shards(self, source: SourceFile) -> Iterator[PlannedShard]:
        header = csv_header(source)
        self._checks.columns(header.columns, line=header.line - 1)

        def range_of(start: int, end: int) -> ByteRange:
            return ByteRange(
                uri=source.uri,
                etag=source.etag,
                format="csv",
                offset=start,
                length=end - start,
                columns=header.columns,
                delimiter=header.delimiter,
            )

        cutter = Cutter(self._size, self._spec.source.grid_size, range_of)
        yield from self._cut(cutter, csv_blocks(source, header))
        self._finish(source, lambda: csv_blocks(source, header), empty="has a header and no rows below it")

    def _parquet_shards(self, source: SourceFile) -> Iterator[PlannedShard]:
        file = _opened(source)
        self._checks.columns(_columns(file, self._template.fields, source))
        metadata = file.metadata
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        if any(group.total_byte_size > MAX_GROUP_BYTES for group in groups):
            yield from self._line_shards(self._as_lines(source, file))
            return
        total = metadata.num_rows
        number = row = 0
        for group, described in enumerate(groups):

            def range_of(start: int, end: int, group: int = group) -> RowGroupRange:
                return RowGroupRange(uri=source.uri, etag=source.etag, group=group, offset=start, count=end - start)

            cutter = Cutter(self._size, self._spec.source.grid_size, range_of, number=number, row=row, rows=total)
            yield from self._cut(cutter, group_blocks(source, file, group, row))
            number, row = cutter.number, row + described.num_rows
        self._finish(source, lambda: _all_groups(source, file))

    def _cut(self, cutter: Cutter, blocks: Iterator[Block]) -> Iterator[PlannedShard]:
        for block in blocks:
            self._checks.block(block)
            self._rows += len(block.ends)
            yield from cutter.feed(block.start, block.ends)
        self._check_total(self._rows)
        yield from cutter.finish()

    def _finish(
        self, source: SourceFile, again: Callable[[], Iterator[Block]], *, empty: str = "holds no rows"
    ) -> None:
        self._bytes = source.size
        if not self._rows:
            raise SpecError(empty, file=source.name, param="source.file", code="invalid_source")
        self._checks.refuse_duplicates(again)

    def _check_total(self, rows: int) -> None:
        items = rows * self._spec.source.grid_size
        if items > MAX_ITEMS:
            raise SpecError(f"the source makes {items:,} items; a job can have {MAX_ITEMS:,} at most", param="source")

    def _staged_items(self, items: list[Row]) -> SourceFile:
        lines = (orjson.dumps(row) + b"\n" for row in items)
        return self._written("items.jsonl", lines, "source.items")

    def _as_lines(self, source: SourceFile, file: pq.ParquetFile) -> SourceFile:
        blocks = _all_groups(source, file)
        lines = (b"".join(orjson.dumps(row) + b"\n" for row in block.rows) for block in blocks)
        return self._written("source.jsonl", lines, source.name)

    def _written(self, name: str, lines: Iterator[bytes], shown: str) -> SourceFile:
        key = f"{self._staging.prefix}/{name}"
        size = put_checked(self._staging.store, key, io.BufferedReader(ChunkReader(lines)).read)
        return SourceFile(store=self._staging.store, key=key, uri=key, name=shown, etag=None, size=size, format="jsonl")


def _opened(source: SourceFile) -> pq.ParquetFile:
    check_start(next(source.stream(64), b""), source.format, source.name)
    try:
        with pinned(source):
            return open_parquet(RangedFile(source.store, source.key, source.etag))
    except (pa.ArrowException, OSError) as error:
        raise SpecError(
            f"is not a whole Parquet file: {error}", file=source.name, param="source.file", code="invalid_source"
        ) from error


def _columns(file: pq.ParquetFile, wanted: frozenset[str], source: SourceFile) -> list[str]:
    columns = parquet_columns(file.schema_arrow)
    binary = sorted(wanted.intersection(file.schema_arrow.names).difference(columns))
    if binary:
        raise SpecError(
            f"the column {binary[0]!r} holds raw bytes, which a prompt cannot; store it as text",
            file=source.name,
            param="prompt",
            code="invalid_source",
        )
    for place, name in enumerate(columns):
        if columns.index(name) != place:
            raise SpecError(f"has two columns named {name!r}", file=source.name, code="invalid_source")
    return columns


def _all_groups(source: SourceFile, file: pq.ParquetFile) -> Iterator[Block]:
    first = 0
    for group in range(file.metadata.num_row_groups):
        yield from group_blocks(source, file, group, first)
        first += file.metadata.row_group(group).num_rows
