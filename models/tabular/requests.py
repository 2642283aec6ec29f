"""What of a request for rows is the same for every engine: its checks, and values in a column's own type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
from pydantic import JsonValue

from models.errors import FailureKind, ModelError
from models.tabular.columns import Column, Values, are_dates
from models.tabular.engine import TableRequest
from models.tabular.saved import Linked

INVALID = "table_request_invalid"
ROUNDING = 1e-9


def check_request(request: TableRequest, columns: Sequence[Column], linked: Linked | None = None) -> None:
    """Raise ModelError, code `table_request_invalid`, where a request does not fit a model with these columns."""
    by_name = {column.name: column for column in columns}
    _check_context(request, linked)
    if request.rows < 0 or request.first < 0 or request.seed < 0:
        raise invalid("rows, first and seed are numbers of at least 0")
    if not request.temperature > 0:
        raise invalid(f"temperature is {request.temperature:g}; it must be above 0")
    for name in (*request.where, *request.rebalance, *request.impute):
        if name not in by_name:
            raise invalid(f"there is no column {name!r}; there are {', '.join(by_name)}")
    for name, value in request.where.items():
        if by_name[name].kind == "id":
            raise invalid(f"column {name!r} holds keys, which are made anew; no condition can be set on it")
        if value is None and name in request.impute:
            raise invalid(f"column {name!r} is to be missing, and is not to be missing")
        value_array(by_name[name], value, 1)
    for name, shares in request.rebalance.items():
        _check_shares(by_name[name], shares)
        if name in request.where:
            raise invalid(f"column {name!r} has a fixed value, and cannot be re-balanced as well")


def context_columns(context: pa.Table, linked: Linked) -> tuple[Column, ...]:
    """The columns of the subjects' table, without its key, as they are found in a context."""
    return tuple(column for column in linked.parent_columns if column.name in context.column_names)


def context_keys(context: pa.Table, linked: Linked, foreign_key: Column) -> Values:
    """The subjects' keys, in the type of the column that refers to them.

    Raises:
        ModelError: they do not fit into it.
    """
    keys = context.column(linked.key).combine_chunks()
    try:
        return keys.cast(foreign_key.arrow_type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise invalid(
            f"column {foreign_key.name!r} is of type {foreign_key.type}, and the keys {linked.key!r} of its parent are "
            f"{keys.type}: {error}"
        ) from error


def _check_context(request: TableRequest, linked: Linked | None) -> None:
    context = request.context
    if linked is None:
        if context is not None:
            raise invalid("the model has no foreign key, so its rows depend on no other table")
        return
    if context is None:
        if linked.parent_key is not None:
            raise invalid(f"the model's rows depend on a table with the key {linked.parent_key!r}, and there is none")
        return
    needed = [linked.key, *(column.name for column in linked.parent_columns)]
    missing = [name for name in dict.fromkeys(needed) if name not in context.column_names]
    if missing:
        raise invalid(
            f"the parent table has no column {missing[0]!r}, which the model's rows depend on; it has "
            f"{', '.join(context.column_names)}"
        )
    for column in linked.parent_columns:
        found = context.schema.field(column.name).type
        if column.name != linked.key and found != column.arrow_type:
            raise invalid(
                f"the parent's column {column.name!r} is of type {found}; the model has learned it as {column.type}"
            )
    if context.num_rows != request.rows:
        raise invalid(f"{request.rows} subjects are asked for, and the parent table has {context.num_rows}")
    if context.column(linked.key).null_count:
        raise invalid(f"the parent's column {linked.key!r} is a key, and is missing in some rows")


def value_array(column: Column, value: JsonValue, rows: int) -> Values:
    """A value as so many rows of its column.

    Raises:
        ModelError: it is none that the column can hold.
    """
    kind = column.arrow_type
    if value is None:
        if not column.nullable:
            raise invalid(f"column {column.name!r} is never missing in the source, so it cannot be asked to be")
        return pa.array([None] * rows, type=kind)
    if not _fits(value, kind):
        raise invalid(f"column {column.name!r} is of type {column.type}, which {value!r} is not")
    try:
        array: Values = pa.repeat(pa.scalar(value), rows).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError) as error:
        raise invalid(f"column {column.name!r} is of type {column.type}, which {value!r} is not: {error}") from error
    if column.format is not None and not are_dates(array, column.format):
        raise invalid(f"column {column.name!r} holds dates written as {column.format}, which {value!r} is not")
    return array


def _fits(value: JsonValue, kind: pa.DataType) -> bool:
    """Whether a value is a truth value, a number or a text, as the type wants it."""
    if isinstance(value, bool) or pa.types.is_boolean(kind):
        return isinstance(value, bool) and pa.types.is_boolean(kind)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return isinstance(value, int | float)
    return isinstance(value, str)


def _check_shares(column: Column, shares: Mapping[str, float]) -> None:
    if column.kind != "categorical":
        raise invalid(f"column {column.name!r} is {column.kind}; only categorical ones can be re-balanced")
    if any(not 0 <= share <= 1 for share in shares.values()) or sum(shares.values()) > 1 + ROUNDING:
        raise invalid(f"the shares of column {column.name!r} must lie between 0 and 1, and sum up to 1 at most")


def category_texts(values: Values) -> Values:
    """Categories as texts: `true`, `3`, `0.5`, as JSON would write them."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return array if pa.types.is_string(array.type) else array.cast(pa.string())


def invalid(message: str) -> ModelError:
    """A request that cannot be met, whoever tries."""
    return ModelError(FailureKind.MODEL, INVALID, message)
