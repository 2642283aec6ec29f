"""The job whose rows are the subjects of a linked table: what it must be, and where its blocks are."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from sqlalchemy import Engine, select

from models.errors import UnknownModelError
from models.tabular.columns import Column
from models.tabular.saved import Linked
from orchestrator import database
from orchestrator.lifecycle import JobStatus
from orchestrator.passes import parts_of
from orchestrator.planning import Staging
from orchestrator.spec import JobSpec
from orchestrator.spec_error import SpecError
from orchestrator.static_checks import FindTrained
from orchestrator.table_spec import ParentRows
from orchestrator.tables import Job
from orchestrator.totals import Totals
from workers.contracts import TableWork, Work
from workers.dataset_engine import PartList
from workers.trained_models import TrainedModel

PARAM = "table.parent"
PARTS = "parent-parts.json"


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A job whose rows are subjects."""

    job: str
    blocks: int
    """Its items."""
    rows: int
    """At most."""
    block: int
    """Rows of one of its blocks, at most."""

    def blocks_of(self, spec: JobSpec) -> int:
        """How many of its blocks a job takes: all, or for a look at a few subjects the first."""
        return self.blocks if spec.table is None or spec.table.subjects is None else 1


def find_parent(engine: Engine, spec: JobSpec, tenant: str, find_table: FindTrained) -> Parent | None:
    """The job that a job names as its table's parent; None where it names none. Its rows are whole, and stay so.

    Raises:
        SpecError: there is none of this tenant, it makes no table, is not done, or its table is not what the model's
            sequences depend on.
        StoreError: the store cannot be reached.
    """
    asked = None if spec.table is None else spec.table.parent
    if asked is None:
        return None
    columns = (Job.tenant, Job.kind, Job.status, Job.outcome, Job.items, Job.work, Job.totals)
    with database.reading(engine) as connection:
        row = connection.execute(select(*columns).where(Job.id == asked)).first()
    if row is None or row.tenant != tenant:
        raise _wrong(f"there is no job {asked!r}")
    if row.kind != "tabular":
        raise _wrong(
            f"job {asked} is of kind {row.kind}; a parent is a job of kind tabular, whose rows are the subjects"
        )
    if row.status != JobStatus.COMPLETED:
        raise _wrong(f"job {asked} is {row.status}; its rows can be subjects once it has completed")
    totals = msgspec.json.decode(row.totals, type=Totals)
    if totals.counts.ok < row.items:
        raise _wrong(
            f"{row.items - totals.counts.ok:,} of {row.items:,} blocks of job {asked} failed, so that subjects are "
            f"missing; `nightmill errors {asked}` says why, `nightmill retry {asked}` draws them again"
        )
    work = msgspec.json.decode(row.work, type=Work)
    try:
        model = find_table(spec.model)
        made_by = find_table(work.model)
    except UnknownModelError as error:
        raise _wrong(f"the rows of job {asked} cannot be told: {error.message}") from error
    if work.table is None or model.linked is None:
        raise AssertionError("a completed job of kind tabular has its work, and the model was found to be linked")
    _check_columns(model, model.linked, made_by, asked)
    block = work.table.block if made_by.linked is None else work.table.block * made_by.linked.longest
    return Parent(job=asked, blocks=row.items, rows=_most_rows(work.table, row.items, block), block=block)


def parent_rows(engine: Engine, parent: Parent, staging: Staging) -> ParentRows:
    """What the workers are told of a parent, whose list of parts is left among a job's own input.

    Raises:
        StoreError: the store failed.
    """
    with database.reading(engine) as connection:
        parts = parts_of(connection, parent.job)
    key = f"{staging.prefix}/{PARTS}"
    staging.store.put(key, PartList(parts).encoded(), content_type="application/json")
    return ParentRows(rows=parent.rows, block=parent.block, parts=key)


def _most_rows(table: TableWork, blocks: int, block: int) -> int:
    return blocks * block if table.linked else table.rows


def _check_columns(model: TrainedModel, linked: Linked, made_by: TrainedModel, job: str) -> None:
    """See that the parent's rows have what the model's sequences depend on, and a key that names each of them."""
    there = {column.name: column for column in made_by.columns}
    key = linked.parent_key
    if key is None or key not in there:
        raise _wrong(f"job {job} has no column {key!r}, the parent's key of {model.name}; there are {_names(there)}")
    of_sequences = None if made_by.linked is None else made_by.linked.foreign_key
    if there[key].kind != "id" or key == of_sequences:
        kind = "a foreign key" if key == of_sequences else f"of kind {there[key].kind}"
        raise _wrong(f"column {key!r} of job {job} is {kind}, so its values may come twice; a key is of kind id")
    foreign = next(column for column in model.columns if column.name == linked.foreign_key)
    if _is_text(foreign) != _is_text(there[key]):
        raise _wrong(
            f"column {key!r} of job {job} holds {there[key].type}, and {linked.foreign_key!r} of {model.name} holds "
            f"{foreign.type}; fit both models to tables whose keys are alike"
        )
    for column in linked.parent_columns:
        found = there.get(column.name)
        if found is None:
            raise _wrong(
                f"{model.name} depends on the column {column.name!r} of its parent, which the rows of job {job} do not "
                f"have; there are {_names(there)}"
            )
        if found.type != column.type and column.name != key:
            raise _wrong(
                f"{model.name} depends on the column {column.name!r} of its parent as {column.type}, and job {job} has "
                f"it as {found.type}; fit both models to the same table"
            )


def _is_text(column: Column) -> bool:
    return column.type == "string"


def _names(columns: dict[str, Column]) -> str:
    return ", ".join(columns)


def _wrong(message: str) -> SpecError:
    return SpecError(f"{PARAM}: {message}", param=PARAM, code="invalid_parent")
