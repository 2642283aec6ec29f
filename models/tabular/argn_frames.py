"""Tables between Arrow and the frames of mostlyai-engine.

The engine knows columns by their place (`c0`, `c1`, …), so that no name of a client's meets one of its own, and sees
few types: texts, 64-bit numbers and moments. What a column's own type is, is put back here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import FailureKind, ModelError
from models.tabular.columns import Column, Kind, Values
from models.tabular.requests import category_texts

ENCODINGS: Final[Mapping[Kind, str]] = {
    "categorical": "TABULAR_CATEGORICAL",
    "numeric": "TABULAR_NUMERIC_AUTO",
    "integer": "TABULAR_NUMERIC_AUTO",
    "datetime": "TABULAR_DATETIME",
    "geo": "TABULAR_LAT_LONG",
}
"""How the engine takes the kinds that are modelled."""
_MOMENT: Final = pa.timestamp("ns")
_WHOLE: Final = pa.int64()


def engine_names(columns: Sequence[Column]) -> dict[str, str]:
    """By name of each column that is modelled, the engine's name of it."""
    return {column.name: f"c{place}" for place, column in enumerate(columns) if column.kind in ENCODINGS}


def to_frame(table: pa.Table, columns: Sequence[Column]) -> pd.DataFrame:
    """Columns of a table that are modelled, as the engine takes them.

    Raises:
        ModelError: kind MODEL, code `table_not_learnable`: a value is outside what the engine can hold.
    """
    names = engine_names(columns)
    taken = {}
    for column in columns:
        if column.name not in names or column.name not in table.column_names:
            continue
        try:
            taken[names[column.name]] = _for_engine(column, table.column(column.name).combine_chunks())
        except pa.ArrowInvalid as error:
            raise ModelError(
                FailureKind.MODEL, "table_not_learnable", f"column {column.name!r} of type {column.type}: {error}"
            ) from error
    return pa.table(taken).to_pandas(types_mapper={_WHOLE: pd.Int64Dtype(), pa.string(): pd.StringDtype()}.get)


def from_series(values: pd.Series, column: Column) -> Values:
    """What the engine has made of a column, in the column's own type."""
    array = pa.Array.from_pandas(values)
    kind = column.arrow_type
    if column.kind == "categorical":
        texts = array.cast(pa.string())
        # An engine's categories are texts of the source's own, so each is one that the type can be read from.
        return texts if pa.types.is_string(kind) else texts.cast(kind)
    if column.kind == "datetime":
        return from_moments(array.cast(_MOMENT), column)
    if column.kind == "geo":
        return array.cast(pa.string())
    return from_numbers(array, column)


def from_numbers(numbers: Values, column: Column) -> Values:
    """Numbers in the column's own type."""
    if column.kind == "integer" and not pa.types.is_integer(numbers.type):
        numbers = pc.round(numbers.cast(pa.float64()))
    return numbers.cast(column.arrow_type, safe=False)


def _for_engine(column: Column, values: Values) -> Values:
    kind = values.type
    if column.kind == "categorical":
        return category_texts(values)
    if column.kind == "datetime":
        if column.format is not None:
            values = pc.strptime(values, column.format, "s")
        elif pa.types.is_timestamp(kind) and kind.tz is not None:
            values = values.cast(pa.timestamp(kind.unit, "UTC")).cast(pa.timestamp(kind.unit))
        elif pa.types.is_date(kind):
            values = values.cast(pa.timestamp("s"))
        return values.cast(_MOMENT)
    if column.kind == "geo":
        return values
    return values.cast(pa.float64() if pa.types.is_floating(kind) else _WHOLE)


def from_moments(moments: Values, column: Column) -> Values:
    """Moments (`timestamp[ns]`, in UTC) in the column's own type."""
    kind: Any = column.arrow_type  # one with or without a time zone
    if column.format is not None:
        seconds: Values = moments.cast(pa.timestamp("s"), safe=False)
        return pc.strftime(seconds, column.format)
    if pa.types.is_date(kind):
        return moments.cast(kind, safe=False)
    if kind.tz is not None:
        moments = moments.cast(pa.timestamp("ns", "UTC"))
    return moments.cast(kind, safe=False)
