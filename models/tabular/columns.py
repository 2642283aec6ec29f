"""What a column of a table is taken for. Found from its values, shown before anything is fitted, and overridable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

Kind: TypeAlias = Literal["categorical", "numeric", "integer", "datetime", "text", "id", "geo"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""`categorical`: few values that come again, truth values among them. `numeric`, `integer`: numbers. `datetime`: days
or moments. `text`: values of a pattern, such as phone numbers. `id`: keys, of which no two are equal. `geo`: latitude
and longitude. Values of `text` and `id` are never copied from the source: they are made anew."""
Values: TypeAlias = Any
"""An array of Arrow, of a type that is known when it runs: its stubs have a class for each type, and none for that."""
FEW = 10
"""So many different numbers are categories, not measurements."""
FEW_TEXTS = 20
MOST_CATEGORIES = 1000
CATEGORY_SHARE = 0.2
"""Beyond `FEW_TEXTS`, so many different texts a row are categories at most."""
LONGEST_CATEGORY = 200
"""Characters."""
_ID_NAME = re.compile(r"(?i:(^|[_\s.-])(id|ids|uuid|guid|key|pk)$)|[a-z](Id|ID|Key)$|^\s*$", re.ASCII)
"""Of columns that hold keys; one without a name holds the rows' numbers."""
_UUID = r"^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}$"
_GEO = r"^\s*-?\d{1,2}(\.\d+)?\s*,\s*-?\d{1,3}(\.\d+)?\s*$"
_DATE_FORMATS: Final = (
    ("%Y-%m-%d", r"^\d{4}-\d{2}-\d{2}$"),
    ("%Y-%m-%d %H:%M:%S", r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}$"),
    ("%Y-%m-%dT%H:%M:%S", r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}$"),
    ("%Y-%m-%dT%H:%M:%SZ", r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$"),
    ("%Y-%m-%d %H:%M", r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}$"),
    ("%Y/%m/%d", r"^\d{4}/\d{2}/\d{2}$"),
    ("%d.%m.%Y", r"^\d{2}\.\d{2}\.\d{4}$"),
)
_SIMPLE_TYPES: Final = {
    str(kind): kind
    for kind in (
        pa.bool_(),
        pa.int8(),
        pa.int16(),
        pa.int32(),
        pa.int64(),
        pa.uint8(),
        pa.uint16(),
        pa.uint32(),
        pa.uint64(),
        pa.float32(),
        pa.float64(),
        pa.string(),
        pa.date32(),
    )
}
_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:, tz=([^\]]+))?\]")


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A column, and what it is taken for."""

    name: str
    kind: Kind
    type: str
    """Of Arrow, as it writes itself: `int64`, `string`, `timestamp[us, tz=UTC]`."""
    nullable: bool = False
    """Whether values are missing in the source."""
    format: str | None = None
    """Of dates that are texts in the source: as strftime has it."""
    reason: str = ""
    """Why, to show."""

    @property
    def arrow_type(self) -> pa.DataType:
        """The type as an object."""
        found = _TIMESTAMP.fullmatch(self.type)
        if found is None:
            return _SIMPLE_TYPES[self.type]
        unit: Any = found[1]  # one of four, as the pattern has it
        return pa.timestamp(unit, tz=found[2])


def table_schema(columns: Iterable[Column]) -> pa.Schema:
    """The schema of a table with these columns: what every engine's samples have."""
    return pa.schema([pa.field(column.name, column.arrow_type) for column in columns])


def plain_table(table: pa.Table) -> pa.Table:
    """A table with types that columns can have: dictionaries spelt out, decimals as float64, long strings as strings.

    Raises:
        ValueError: a column's type is none that can be modelled, a list say; or two columns have one name.
    """
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"there are two columns {twice[0]!r}; each needs a name of its own")
    columns = [table.column(name).cast(_plain_type(name, table.column(name).type)) for name in names]
    return pa.table(columns, names=names)


def find_columns(table: pa.Table, given: Mapping[str, str]) -> tuple[Column, ...]:
    """What each column of a table is taken for, and why. `given` are kinds by name that override what is found.

    Raises:
        ValueError: a name or a kind that there is not; a kind that the column's values cannot be; a type that cannot
            be modelled. It says which, and what would be right.
    """
    table = plain_table(table)
    if not table.num_columns:
        raise ValueError("the table has no columns")
    for name, kind in given.items():
        if name not in table.column_names:
            raise ValueError(f"there is no column {name!r}; there are {', '.join(table.column_names)}")
        if kind not in KINDS:
            raise ValueError(f"column {name!r}: {kind!r} is no kind; take one of {', '.join(KINDS)}")
    columns = []
    for name in table.column_names:
        values = pc.drop_null(table.column(name).combine_chunks())
        kind, reason = _found(name, values, table.num_rows)
        if name in given:
            kind, reason = _checked(name, given[name], values), "as the job says"
        columns.append(
            Column(
                name=name,
                kind=kind,
                type=str(values.type),
                nullable=len(values) < table.num_rows,
                format=_date_format(values) if kind == "datetime" and pa.types.is_string(values.type) else None,
                reason=reason,
            )
        )
    return tuple(columns)


def _plain_type(name: str, kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(name, kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_decimal(kind) or pa.types.is_float16(kind):
        return pa.float64()
    if pa.types.is_date64(kind):
        return pa.date32()
    if str(kind) in _SIMPLE_TYPES or _TIMESTAMP.fullmatch(str(kind)):
        return kind
    raise ValueError(f"column {name!r} is of type {kind}; take numbers, texts, truth values, dates or moments")


def _found(name: str, values: Values, rows: int) -> tuple[Kind, str]:
    if not len(values):
        return "categorical", "every value is missing"
    kind = values.type
    if pa.types.is_boolean(kind):
        return "categorical", "truth values"
    if pa.types.is_temporal(kind):
        return "datetime", "days" if pa.types.is_date(kind) else "moments"
    distinct = pc.count_distinct(values).as_py()
    if pa.types.is_string(kind):
        return _found_text(name, values, distinct, rows)
    return _found_number(name, values, distinct)


def _found_number(name: str, values: Values, distinct: int) -> tuple[Kind, str]:
    unique = distinct == len(values) and distinct > FEW
    whole = _is_whole(values)
    if whole and unique:
        spread = pc.max(values).as_py() - pc.min(values).as_py()
        if _ID_NAME.search(name):
            return "id", "no two are equal, and its name is a key's"
        if spread == distinct - 1:
            return "id", "it counts the rows"
    if distinct <= FEW and distinct < len(values):
        return "categorical", f"{distinct} different numbers"
    if whole:
        return "integer", "whole numbers"
    return "numeric", "numbers"


def _found_text(name: str, values: Values, distinct: int, rows: int) -> tuple[Kind, str]:
    if (form := _date_format(values)) is not None:
        return "datetime", f"dates written as {form}"
    if _all_match(values, _GEO):
        return "geo", "latitude, longitude"
    lengths: Values = pc.utf8_length(values)
    longest = pc.max(lengths).as_py()
    unique = distinct == len(values) and distinct > FEW
    if unique and (_all_match(values, _UUID) or (_ID_NAME.search(name) and not _any_space(values))):
        return "id", "no two are equal, and they look like keys"
    few = distinct <= FEW_TEXTS and distinct <= max(2, rows / 2)
    if longest <= LONGEST_CATEGORY and (few or distinct <= min(MOST_CATEGORIES, CATEGORY_SHARE * rows)):
        return "categorical", f"{distinct} different texts"
    return "text", f"{distinct} different texts in {len(values)} rows"


def _checked(name: str, kind: str, values: Values) -> Kind:
    """A kind that the job gives, if the values can be of it."""
    number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if kind in {"numeric", "integer"} and not number:
        raise ValueError(f"column {name!r} holds {values.type}, which is not {kind}; take categorical or text")
    if kind == "integer" and not _is_whole(values):
        raise ValueError(f"column {name!r} holds fractions; take numeric")
    if kind == "datetime" and not pa.types.is_temporal(values.type) and _date_format(values) is None:
        formats = ", ".join(form for form, _ in _DATE_FORMATS)
        raise ValueError(f"column {name!r} holds no dates; texts are read as {formats}")
    if kind == "geo" and not (pa.types.is_string(values.type) and _all_match(values, _GEO)):
        raise ValueError(f"column {name!r} holds no places; write them as 'latitude, longitude', in degrees")
    if kind == "text" and not pa.types.is_string(values.type):
        raise ValueError(f"column {name!r} holds {values.type}, not texts; take categorical, numeric or id")
    if kind == "id" and not (pa.types.is_string(values.type) or pa.types.is_integer(values.type)):
        raise ValueError(f"column {name!r} holds {values.type}; keys are texts or whole numbers")
    found: dict[str, Kind] = {known: known for known in KINDS}
    return found[kind]


def _is_whole(values: Values) -> bool:
    if pa.types.is_integer(values.type):
        return True
    finite = pc.all(pc.is_finite(values)).as_py()
    return bool(finite) and bool(pc.all(pc.equal(values, pc.floor(values))).as_py())


def _date_format(values: Values) -> str | None:
    """How dates are written in texts; None where they are no dates."""
    if not pa.types.is_string(values.type) or not len(values):
        return None
    for form, pattern in _DATE_FORMATS:
        if _all_match(values, pattern) and are_dates(values, form):
            return form
    return None


def are_dates(texts: Values, form: str) -> bool:
    """Whether every text is a date as strftime writes it in this form; of days that there are."""
    moments: Values = pc.strptime(texts, form, "s", error_is_null=True)
    return moments.null_count == 0 and bool(pc.all(pc.equal(pc.strftime(moments, form), texts)).as_py())


def _all_match(values: Values, pattern: str) -> bool:
    return bool(len(values)) and bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())


def _any_space(values: Values) -> bool:
    return bool(pc.any(pc.match_substring_regex(values, r"\s")).as_py())
