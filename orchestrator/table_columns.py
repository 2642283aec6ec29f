"""What the columns of a table are taken for, before a model is fitted to it: as the worker will see them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from models.errors import ModelError
from models.tabular.columns import Kind
from models.training.settings import TABLE_FAMILIES
from orchestrator.spec import JobSpec
from orchestrator.spec_error import SpecError
from orchestrator.train_spec import NO_RANGES
from workers.contracts import FitWork, SourceRange
from workers.store import ObjectStore
from workers.training_tables import FetchedTable, fetch_table, link_tables


@dataclass(frozen=True)
class PlannedRows:
    """The rows of a file, as planning found them."""

    ranges: Sequence[SourceRange]
    store: ObjectStore
    """Where they are."""


def is_fitting(spec: JobSpec) -> bool:
    """Whether a job fits a model to the table of a file."""
    fits = spec.training is not None and spec.training.family in TABLE_FAMILIES
    return fits and spec.data is not None and spec.data.file is not None


def planned_columns(spec: JobSpec, rows: PlannedRows, parent: PlannedRows | None) -> FetchedTable:
    """The table that a job's planned rows make, with its parent's where that comes from a file, and their columns.

    Raises:
        SpecError: they make none, a column cannot be what the job takes it for, or the two do not fit together.
        StoreError: the store cannot be reached.
    """
    data = spec.data
    if data is None:
        raise AssertionError("the job fits no model")
    found = _fetched(rows, data.columns, spec.input_file or "", "data")
    if data.foreign_key is None:
        return found
    subjects: FetchedTable | None = None
    if parent is not None and data.parent is not None:
        subjects = _fetched(parent, data.parent.columns, data.parent.file or "", "data.parent")
    try:
        return link_tables(found, subjects, data.fit_work(NO_RANGES, NO_RANGES), spec.input_file or "")
    except ModelError as error:
        raise SpecError(error.message, param="data.foreign_key", code="invalid_source") from error


def _fetched(rows: PlannedRows, kinds: dict[str, Kind], name: str, field: str) -> FetchedTable:
    fit = FitWork(rows=tuple(rows.ranges), columns=dict(kinds))
    try:
        return fetch_table(fit, rows.store, threading.Event(), name)
    except ModelError as error:
        param = f"{field}.columns" if kinds else f"{field}.file"
        raise SpecError(error.message, param=param, code="invalid_source") from error
