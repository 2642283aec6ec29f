"""The report on what a job has made: its rows and its source's brought to this machine, and described."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import FailureKind, ModelError
from models.tabular.columns import find_columns, plain_table
from models.tabular.saved import Linked
from models.training_run import split_version
from workers.contracts import ReportWork, TableWork
from workers.dataset_engine import PartOf, decode_part_list
from workers.dataset_report.figures import Asked, Report
from workers.dataset_report.gate import Gate, check_gate
from workers.dataset_report.linked_files import LinkedFiles
from workers.dataset_report.report import EmptyDatasetError, make_report
from workers.keys import source_tables_prefix
from workers.store import MissingObjectError, ObjectStore
from workers.table_blocks import Fetch, fetch_blocks
from workers.trained_models import read_model
from workers.training_tables import HOLDOUT_FILE, HOLDOUT_PARENT_FILE, PARENT_FILE, TRAIN_FILE

LOOKED_AT = 50_000
"""Rows of texts by which their columns are taken for something."""
MOST_BYTES = 64 << 20
"""Of a row of texts."""


@dataclass(frozen=True, slots=True)
class _Dataset:
    """Files that a report is made of."""

    files: list[Path]
    columns: dict[str, str]
    train: Path | None
    holdout: Path | None
    linked: LinkedFiles | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """A report as it is stored."""

    html: bytes
    json: bytes
    figures: dict[str, float]
    held: tuple[str, ...]


async def describe(
    work: ReportWork, parts: Sequence[PartOf], folder: Path, fetch: Fetch, store: ObjectStore
) -> Described:
    """Describe what a job has made.

    Raises:
        ModelError: there is nothing to describe.
        StoreError: the store failed.
    """
    if work.table is not None:
        dataset = await _table(work, parts, folder, fetch, store)
    else:
        dataset = await _texts(parts, folder, fetch)

    def make() -> Described:
        report = make_report(
            dataset.files,
            dataset.train,
            dataset.holdout,
            columns=dataset.columns,
            target=work.target,
            seed=work.seed,
            name=work.name,
            asked=_asked(work.table),
            linked=dataset.linked,
        )
        held = check_gate(report, Gate.model_validate(work.gate))
        return Described(html=report.html(held), json=report.json(), figures=_telling(report), held=held)

    try:
        return await asyncio.to_thread(make)
    except (EmptyDatasetError, ValueError) as error:
        raise ModelError(FailureKind.MODEL, "no_report", str(error)) from error


async def _table(work: ReportWork, parts: Sequence[PartOf], folder: Path, fetch: Fetch, store: ObjectStore) -> _Dataset:
    """The blocks of a table, and what its model was fitted to."""
    blocks = {block: path async for block, path, _ in fetch_blocks(parts, folder, fetch)}
    version = split_version(work.model)
    model = None if version is None else await asyncio.to_thread(read_model, store, *version)
    if model is None or version is None:
        raise ModelError(FailureKind.MODEL, "model_missing", f"the model {work.model} is not in the store any more")
    train, holdout = await _source(version[1], folder, fetch, (TRAIN_FILE, HOLDOUT_FILE))
    linked = None
    if model.linked is not None and work.table is not None:
        linked = await _subjects(work.table, model.linked, version[1], blocks, folder, fetch)
    columns: dict[str, str] = {column.name: column.kind for column in model.columns}
    return _Dataset(list(blocks.values()), columns, train, holdout, linked)


async def _subjects(
    work: TableWork, linked: Linked, job: str, blocks: Collection[int], folder: Path, fetch: Fetch
) -> LinkedFiles:
    """Whose rows those of a linked table are: its foreign key, and where there is a parent, what that has.

    Args:
        work: The table's.
        linked: How its rows belong to subjects.
        job: The one that fitted its model.
        blocks: The table's that there are: each is of the subjects in the parent's block of the same number.
        folder: For what is fetched.
        fetch: Brings an object of the store to a file.
    """
    alone = LinkedFiles(foreign_key=linked.foreign_key, order_by=linked.order_by)
    if linked.parent_key is None or work.parent is None:
        return alone
    home = folder / "parent"
    home.mkdir()
    listed = home / "parts.json"
    try:
        await fetch(work.parent, listed)
        parts = decode_part_list(listed.read_bytes()).parts
        found = [path async for block, path, _ in fetch_blocks(parts, home, fetch) if block in blocks]
    except MissingObjectError:
        return alone  # the parent was removed once the last block was drawn, as it may be
    if work.most is not None:
        await asyncio.to_thread(_cut, found, work.most)
    train, holdout = await _source(job, home, fetch, (PARENT_FILE, HOLDOUT_PARENT_FILE))
    return LinkedFiles(
        foreign_key=linked.foreign_key,
        order_by=linked.order_by,
        parent_key=linked.parent_key,
        parent_columns={column.name: column.kind for column in linked.parent_columns},
        synthetic=found,
        train=[] if train is None else [train],
        holdout=[] if holdout is None else [holdout],
    )


def _cut(files: Sequence[Path], most: int) -> None:
    """Leave so many rows of each."""
    for path in files:
        pq.write_table(pq.read_table(path).slice(0, most), path)


async def _texts(parts: Sequence[PartOf], folder: Path, fetch: Fetch) -> _Dataset:
    """The rows of a dataset of texts, as columns."""
    rows = folder / "rows.jsonl"
    with rows.open("wb") as file:
        for part in parts:
            records = folder / "part.jsonl"
            await fetch(part.key, records)
            file.writelines(_rows(records.read_bytes()))
    return await asyncio.to_thread(_columns, rows, folder / "rows.parquet")


def _rows(records: bytes) -> Iterator[bytes]:
    """The row of each record that is ok. What is no plain value of it is JSON."""
    for line in records.splitlines():
        record = orjson.loads(line)
        if record["status"] == "ok":
            row = record["output"] if isinstance(record["output"], dict) else {"output": record["output"]}
            flat = {
                name: orjson.dumps(value).decode() if isinstance(value, dict | list) else value
                for name, value in row.items()
            }
            yield orjson.dumps(flat) + b"\n"


def _columns(rows: Path, path: Path) -> _Dataset:
    if not rows.stat().st_size:
        raise ModelError(FailureKind.MODEL, "no_report", "the dataset has no rows: there is nothing to report on")
    with duckdb.connect(config={"temp_directory": str(rows.parent), "memory_limit": "1GB"}) as connection:
        read = f"read_json(?, format = 'newline_delimited', sample_size = -1, maximum_object_size = {MOST_BYTES})"
        reader = connection.sql(f"SELECT * FROM {read}", params=[str(rows)]).to_arrow_reader(LOOKED_AT)  # noqa: S608
        with pq.ParquetWriter(path, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
    with pq.ParquetFile(path) as file:
        first = next(file.iter_batches(batch_size=LOOKED_AT))
    columns = find_columns(plain_table(pa.Table.from_batches([first])), {})
    return _Dataset([path], {column.name: column.kind for column in columns}, None, None)


async def _source(job: str, folder: Path, fetch: Fetch, names: tuple[str, str]) -> tuple[Path | None, Path | None]:
    """The rows that a model was fitted to, and those held out; None where they are gone with the job that fitted it."""
    found: list[Path | None] = []
    for name in names:
        path = folder / name
        try:
            await fetch(f"{source_tables_prefix(job)}{name}", path)
            found.append(path)
        except MissingObjectError:
            found.append(None)
    return found[0], found[1] if found[0] is not None else None


def _asked(table: TableWork | None) -> Asked:
    """In what a table was asked to differ from its source."""
    if table is None:
        return Asked()
    return Asked(where=table.where, rebalance=table.rebalance, impute=table.impute)


def _telling(report: Report) -> dict[str, float]:
    """The figures that are shown of a job."""
    figures: dict[str, float] = {}
    if report.fidelity is not None:
        figures["accuracy"] = report.fidelity.accuracy
        figures["accuracy_expected"] = report.fidelity.accuracy_expected
    if report.utility is not None and report.utility.ratio is not None:
        figures["utility"] = report.utility.ratio
    if report.privacy is not None:
        figures["identical"] = report.privacy.identical
        if report.privacy.closeness is not None:
            figures["closer_to_training"] = report.privacy.closeness.share
    return {name: round(value, 4) for name, value in figures.items()}
