"""What must hold of a linked table before a model is fitted to it: keys that are there, and name one subject each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from models.tabular.columns import Column, Kind, Values
from models.training_run import ParentTable

KEY_REASON: Final = "the job names it as the key"
_ORDERED: Final[frozenset[Kind]] = frozenset({"numeric", "integer", "datetime"})
"""Kinds of columns that can order a sequence."""


def key_column(columns: Sequence[Column], name: str, field: str) -> tuple[Column, ...]:
    """Columns of which the one that a field of the job names as a key is taken for one.

    Raises:
        ValueError: there is none of the name, or its values can be no keys.
    """
    found = next((column for column in columns if column.name == name), None)
    if found is None:
        raise ValueError(f"{field}: there is no column {name!r}; there are {', '.join(each.name for each in columns)}")
    if not (pa.types.is_string(found.arrow_type) or pa.types.is_integer(found.arrow_type)):
        raise ValueError(f"{field}: column {name!r} holds {found.type}; keys are texts or whole numbers")
    key = msgspec.structs.replace(found, kind="id", format=None, reason=KEY_REASON)
    return tuple(key if column is found else column for column in columns)


def check_links(
    table: pa.Table, columns: Sequence[Column], foreign_key: str, order_by: str | None, parent: ParentTable | None
) -> None:
    """See that each row of a table has its subject, that the parent has each subject once, and what orders sequences.

    Raises:
        ValueError: it does not; the message names the column, and a value or a row as an example.
    """
    if order_by is not None:
        _check_order(columns, order_by)
    keys: Values = table[foreign_key].combine_chunks()
    _check_complete(keys, f"data.foreign_key: column {foreign_key!r}")
    if parent is None:
        return
    shown = f"data.parent.key: column {parent.key!r}"
    subjects: Values = parent.table[parent.key].combine_chunks()
    _check_complete(subjects, shown)
    if pa.types.is_string(keys.type) != pa.types.is_string(subjects.type):
        raise ValueError(
            f"data.foreign_key: column {foreign_key!r} holds {keys.type}, and {parent.key!r} of the parent "
            f"{subjects.type}; give both texts or both whole numbers"
        )
    for value, count in Counter(subjects.to_pylist()).most_common(1):
        if count > 1:
            raise ValueError(f"{shown} holds {value!r} {count:,} times; each subject has one row")
    places = places_of(keys, subjects)
    if places.null_count:
        row = places.is_null().to_pylist().index(True)
        raise ValueError(
            f"data.foreign_key: column {foreign_key!r} holds {keys[row].as_py()!r} in row {row + 1:,}, which "
            f"{parent.key!r} of the parent does not; {places.null_count:,} of {len(keys):,} rows are without a subject"
        )


def places_of(keys: Values, subjects: Values) -> Values:
    """For each foreign key, at which place among the subjects' keys it stands; null where it is none of them."""
    if keys.type != subjects.type and pa.types.is_integer(keys.type):
        keys, subjects = keys.cast(pa.int64()), subjects.cast(pa.int64())
    places: Values = pc.index_in(keys, subjects)
    return places


def _check_order(columns: Sequence[Column], order_by: str) -> None:
    order = next((column for column in columns if column.name == order_by), None)
    if order is None:
        names = ", ".join(column.name for column in columns)
        raise ValueError(f"data.order_by: there is no column {order_by!r}; there are {names}")
    if order.kind not in _ORDERED:
        raise ValueError(
            f"data.order_by: column {order_by!r} is taken as {order.kind}; dates and numbers order a sequence. Where "
            "it holds such, say so in data.columns"
        )


def _check_complete(keys: Values, shown: str) -> None:
    if keys.null_count:
        row = keys.is_null().to_pylist().index(True) + 1
        raise ValueError(f"{shown} is missing in {keys.null_count:,} of {len(keys):,} rows, the first is row {row:,}")
