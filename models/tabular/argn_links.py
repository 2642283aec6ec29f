"""Tables whose rows belong to subjects, as mostlyai-engine takes them: each with the number of its subject."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from models.tabular.argn_frames import ENCODINGS, engine_names, to_frame
from models.tabular.columns import Values
from models.tabular.links import places_of
from models.training_run import TableData

SUBJECT: Final = "subject"
"""The column of both frames that holds a subject's number: no name of a column that is modelled (`c0`, `c1`, …)."""


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
    """By row, the number of its subject."""
    keys = data.table.column(str(data.foreign_key)).combine_chunks()
    if data.parent is None:
        return keys.dictionary_encode().indices
    return places_of(keys, data.parent.table.column(data.parent.key).combine_chunks())
