"""Tables whose rows belong to subjects, as mostlyai-engine takes them: each with the number of its subject."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import FailureKind, ModelError
from models.tabular.argn_frames import ENCODINGS, engine_names, to_frame
from models.tabular.columns import Values
from models.training_run import TableData

SUBJECT: Final = "subject"
"""The column of both frames that holds a subject's number: no name of a column that is modelled (`c0`, `c1`, …)."""


def check_linked(data: TableData) -> None:
    """Raise ModelError, kind MODEL, code `table_not_learnable`, where rows cannot be told by their subjects."""
    if data.foreign_key is None:
        return
    _check_key(data.table.column(data.foreign_key), f"the foreign key {data.foreign_key!r}")
    if data.parent is not None:
        keys = data.parent.table.column(data.parent.key)
        _check_key(keys, f"the parent's key {data.parent.key!r}")
        if len(pc.unique(keys)) < len(keys):
            raise _not_learnable(f"the parent's key {data.parent.key!r} is not unique")
        strangers: Values = pc.is_null(_numbers(data))
        if pc.any(strangers).as_py():
            example = data.table.column(data.foreign_key).filter(strangers)[0]
            raise _not_learnable(
                f"column {data.foreign_key!r} refers to {example}, and the parent has no such {data.parent.key!r}"
            )
    order = next((column for column in data.columns if column.name == data.order_by), None)
    if data.order_by is not None and (order is None or order.kind not in ENCODINGS or order.kind == "categorical"):
        found = "there is none" if order is None else f"it is {order.kind}"
        raise _not_learnable(f"order_by is {data.order_by!r}, which must be a column of dates or numbers; {found}")


def linked_frames(data: TableData) -> dict[str, Any]:
    """A table, and that of its subjects where it has any, as arguments of the engine's `split`."""
    frame = to_frame(data.table, data.columns)
    if data.foreign_key is None:
        return {"tgt_data": frame}
    frame[SUBJECT] = np.asarray(_numbers(data)).astype(np.int64)
    frame = frame.sort_values(by=_order(data), kind="stable", ignore_index=True)
    arguments: dict[str, Any] = {"tgt_data": frame, "tgt_context_key": SUBJECT, "ctx_primary_key": SUBJECT}
    if data.parent is None:
        arguments["ctx_data"] = pd.DataFrame({SUBJECT: frame[SUBJECT].unique()})
        return arguments
    context = to_frame(data.parent.table, data.parent.columns)
    names = engine_names(data.parent.columns)
    arguments["ctx_data"] = context.assign(**{SUBJECT: np.arange(data.parent.table.num_rows)})
    arguments["ctx_encoding_types"] = {
        names[column.name]: ENCODINGS[column.kind] for column in data.parent.columns if column.name in names
    }
    return arguments


def _order(data: TableData) -> list[str]:
    return [SUBJECT] if data.order_by is None else [SUBJECT, engine_names(data.columns)[data.order_by]]


def _numbers(data: TableData) -> Values:
    """By row, the number of its subject; null where the parent has none such."""
    keys = data.table.column(str(data.foreign_key)).combine_chunks()
    if data.parent is None:
        return keys.dictionary_encode().indices
    parent = data.parent.table.column(data.parent.key).combine_chunks()
    try:
        return pc.index_in(keys, value_set=parent.cast(keys.type))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _not_learnable(
            f"column {data.foreign_key!r} is of type {keys.type}, and the parent's key {data.parent.key!r} of type "
            f"{parent.type}: {error}"
        ) from error


def _check_key(values: Values, what: str) -> None:
    if values.null_count:
        raise _not_learnable(f"{what} is missing in {values.null_count} rows; leave these rows out")


def _not_learnable(message: str) -> ModelError:
    return ModelError(FailureKind.MODEL, "table_not_learnable", message)
