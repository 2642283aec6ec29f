"""What the columns of a table are taken for, before a model is fitted to it: as the worker will see them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from models.errors import ModelError
from models.tabular.columns import Column
from models.training.settings import TABLE_FAMILIES
from orchestrator.spec import JobSpec
from orchestrator.spec_error import SpecError
from workers.contracts import FitWork, SourceRange
from workers.store import ObjectStore
from workers.training_tables import fetch_table


def is_fitting(spec: JobSpec) -> bool:
    """Whether a job fits a model to a table."""
    return spec.training is not None and spec.training.family in TABLE_FAMILIES


def planned_columns(spec: JobSpec, ranges: Sequence[SourceRange], store: ObjectStore) -> tuple[Column, ...]:
    """The columns of the table that a job's planned rows make.

    Raises:
        SpecError: they make none, or a column cannot be what the job takes it for.
        StoreError: the store cannot be reached.
    """
    given = {} if spec.data is None else spec.data.columns
    fit = FitWork(rows=tuple(ranges), columns=dict(given))
    try:
        return fetch_table(fit, store, threading.Event(), spec.input_file or "").columns
    except ModelError as error:
        raise SpecError(error.message, param="data.columns" if given else "data.file", code="invalid_source") from error
