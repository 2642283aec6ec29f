"""A table as codes and scalars that networks learn, and back as a table of the source's columns and types.

Each column that is modelled becomes one head (a place becomes two, latitude and longitude): see `models.tabular.heads`.
Texts and keys are not modelled: see `models.tabular.fresh`. All of an encoding is JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.tabular.columns import Column, Values, plain_table, table_schema
from models.tabular.fresh import FreshKeys, FreshTexts, learn_fresh, make_fresh
from models.tabular.heads import FEW, Codes, Head, Levels, Modes, Scalars, find_levels, find_modes

_AXES: Final = ("latitude", "longitude")
_PLACE: Final = r"^\s*(?P<latitude>[-+]?[0-9.]+)\s*,\s*(?P<longitude>[-+]?[0-9.]+)\s*$"


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="place"):
    """A column of places: two numbers in one text."""

    latitude: Modes
    longitude: Modes


ColumnCode: TypeAlias = Levels | Modes | Place | FreshTexts | FreshKeys


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a table as a network has them."""

    codes: Codes
    """Rows by heads."""
    scalars: Scalars
    """Rows by heads, -1 to 1; 0 where a code has none."""

    def __len__(self) -> int:
        return len(self.codes)


class TableEncoding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a table's columns are encoded, one code a column."""

    columns: tuple[Column, ...]
    codes: tuple[ColumnCode, ...]

    @property
    def heads(self) -> tuple[Head, ...]:
        """What networks learn, in the order of the columns."""
        return tuple(head for code in self.codes for head in _heads_of(code))

    def head_places(self) -> dict[str, int]:
        """By name of each column that is modelled, the place of its (first) head."""
        places, at = {}, 0
        for column, code in zip(self.columns, self.codes, strict=True):
            count = len(_heads_of(code))
            if count:
                places[column.name] = at
            at += count
        return places

    def encode(self, table: pa.Table, seed: int) -> Rows:
        """Rows of a table with these columns. `seed` draws which mode a number is taken for, where several may be."""
        table = plain_table(table)
        codes, scalars = [], []
        for place, (column, code) in enumerate(zip(self.columns, self.codes, strict=True)):
            draws = np.random.default_rng([seed, place])
            for part, head, named in _parts(table.column(column.name).combine_chunks(), code, column):
                if isinstance(head, Levels):
                    codes.append(head.encode(part))
                    scalars.append(np.zeros(len(part), np.float32))
                else:
                    coded, within = head.encode(part, named, draws)
                    codes.append(coded)
                    scalars.append(within)
        if not codes:
            return Rows(np.zeros((table.num_rows, 0), np.int64), np.zeros((table.num_rows, 0), np.float32))
        return Rows(np.stack(codes, 1), np.stack(scalars, 1))

    def decode(self, rows: Rows, *, first: int, seed: int, impute: Iterable[str] = ()) -> pa.Table:
        """A table from rows; texts are drawn from `seed`, keys made of the rows' numbers from `first` on.

        Texts of columns in `impute` are never missing; elsewhere that is the rows' affair.
        """
        whole, places, numbers = frozenset(impute), self.head_places(), range(first, first + len(rows))
        arrays = []
        for number, (column, code) in enumerate(zip(self.columns, self.codes, strict=True)):
            if isinstance(code, FreshTexts | FreshKeys):
                complete = column.name in whole
                drawn = (seed, number)
                arrays.append(make_fresh(code, column, numbers=numbers, seed=drawn, complete=complete))
            else:
                arrays.append(self._modelled(code, column, rows, places[column.name]))
        return pa.Table.from_arrays(arrays, schema=table_schema(self.columns))

    @staticmethod
    def _modelled(code: ColumnCode, column: Column, rows: Rows, place: int) -> Values:
        if isinstance(code, Levels):
            return code.decode(rows.codes[:, place], column)
        if isinstance(code, Modes):
            return code.decode(rows.codes[:, place], rows.scalars[:, place], column)
        assert isinstance(code, Place)  # noqa: S101  # the others are not modelled
        axes: list[Values] = [
            modes.decode(rows.codes[:, at], rows.scalars[:, at], _axis(column)).cast(pa.string())
            for at, modes in enumerate((code.latitude, code.longitude), place)
        ]
        return pc.binary_join_element_wise(*axes, ", ")


def find_encoding(table: pa.Table, columns: Sequence[Column], seed: int) -> TableEncoding:
    """How a table is encoded. `seed` draws the rows that the modes of numbers are found from."""
    table = plain_table(table)
    codes = [_find_code(_present(table.column(column.name).combine_chunks()), column, seed) for column in columns]
    return TableEncoding(columns=tuple(columns), codes=tuple(codes))


def _find_code(values: Values, column: Column, seed: int) -> ColumnCode:
    kind = column.kind
    if kind in {"id", "text"}:
        return learn_fresh(column, values)
    if kind == "geo":
        latitude, longitude = (find_modes(axis, _axis(column), seed) for axis in _axes(values))
        return Place(latitude=latitude, longitude=longitude)
    if kind == "categorical":
        levels = find_levels(values)
        if levels is not None:
            return levels
    if kind in {"numeric", "integer"} and pc.count_distinct(values.drop_null()).as_py() <= FEW:
        levels = find_levels(values, nearest=True)
        if levels is not None:
            return levels
    if kind == "categorical" and pa.types.is_string(values.type):
        return learn_fresh(column, values)  # none of its categories has the rows to be shown
    return find_modes(values, column, seed)


def _heads_of(code: ColumnCode) -> tuple[Head, ...]:
    match code:
        case Levels() | Modes():
            return (code,)
        case Place():
            return (code.latitude, code.longitude)
        case _:
            return ()


def _parts(values: Values, code: ColumnCode, column: Column) -> list[tuple[Values, Head, Column]]:
    """The values that each head of a column encodes."""
    if isinstance(code, Place):
        axes = _axes(values)
        return list(zip(axes, (code.latitude, code.longitude), [_axis(column)] * 2, strict=True))
    return [(_present(values), head, column) for head in _heads_of(code)]


def _axes(values: Values) -> list[Values]:
    found: Values = pc.extract_regex(values, _PLACE)
    return [pc.if_else(pc.is_null(found), None, found.field(axis)).cast(pa.float64()) for axis in _AXES]


def _axis(column: Column) -> Column:
    return Column(name=column.name, kind="numeric", type="double")


def _present(values: Values) -> Values:
    """The values, with null for numbers that are not finite."""
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))
