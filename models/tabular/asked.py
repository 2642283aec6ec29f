"""A request for rows in a network's terms: the codes that each row shall have, and those that none may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import JsonValue

from models.tabular.columns import Column, Values
from models.tabular.encoding import ColumnCode, Place, Rows, TableEncoding
from models.tabular.engine import TableRequest
from models.tabular.heads import Codes, Levels, Modes
from models.tabular.requests import check_request, invalid, value_array

WINDOW: Final = 0.01
"""A row whose number is so near to one that is asked for, as a share of the column's range, is given it."""
_SHOWN: Final = 20


@dataclass(frozen=True, eq=False)
class Asked:
    """What rows shall be like."""

    rows: int
    codes: dict[int, Codes] = field(default_factory=dict)
    """By a head's place, the code of each row."""
    numbers: dict[int, float] = field(default_factory=dict)
    """By a head's place, the plain number of all rows."""
    barred: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """By a head's place, codes that no row may have."""
    set: dict[str, Values] = field(default_factory=dict)
    """By name, columns that are not drawn."""

    def wanted(self, encoding: TableEncoding, which: NDArray[np.int64]) -> dict[int, Codes]:
        """By a head's place, the codes of the rows of these numbers; of a number, the mode that it is likeliest in."""
        codes = {place: codes[which] for place, codes in self.codes.items()}
        for place, number in self.numbers.items():
            head = encoding.heads[place]
            assert isinstance(head, Modes)  # noqa: S101  # only they have numbers
            codes[place] = np.full(len(which), head.likeliest(number), dtype=np.int64)
        return codes

    def fulfilled(self, encoding: TableEncoding, rows: Rows, which: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each row is as the one of this number (of `which`) shall be."""
        good = np.ones(len(rows), dtype=np.bool_)
        for place, codes in self.codes.items():
            good &= rows.codes[:, place] == codes[which]
        for place, number in self.numbers.items():
            head = encoding.heads[place]
            assert isinstance(head, Modes)  # noqa: S101  # only they have numbers
            off = np.abs(head.numbers(rows.codes[:, place], rows.scalars[:, place]) - number)
            good &= off <= WINDOW * (head.high - head.low)
        return good


def understand(request: TableRequest, encoding: TableEncoding) -> Asked:
    """What a request asks of a model's rows.

    Raises:
        ModelError: kind MODEL, code `table_request_invalid`.
    """
    check_request(request, encoding.columns)
    asked = Asked(request.rows)
    asked.barred.update(_barred(request, encoding))
    places = encoding.head_places()
    for column, code in zip(encoding.columns, encoding.codes, strict=True):
        if column.name in request.where:
            _condition(asked, request.where[column.name], column, code, places.get(column.name, 0))
    draws = np.random.default_rng(request.seed)
    for column, code in zip(encoding.columns, encoding.codes, strict=True):
        if column.name not in request.rebalance:
            continue
        if not isinstance(code, Levels):
            raise invalid(f"column {column.name!r} has no value that several rows share, so it cannot be re-balanced")
        place = places[column.name]
        shares = _shares(code, column.name, request.rebalance[column.name], asked.barred.get(place, ()))
        asked.codes[place] = _balanced(shares, request.rows, draws)
    return asked


def _barred(request: TableRequest, encoding: TableEncoding) -> dict[int, tuple[int, ...]]:
    """Rare categories, and missing values where none shall be."""
    barred: dict[int, tuple[int, ...]] = {
        place: (head.rare_code,) for place, head in enumerate(encoding.heads) if head.rare_code is not None
    }
    places = encoding.head_places()
    for column, code in zip(encoding.columns, encoding.codes, strict=True):
        if column.name in request.impute and column.name in places:
            for place in range(places[column.name], places[column.name] + (2 if isinstance(code, Place) else 1)):
                missing = encoding.heads[place].missing_code
                if missing is not None:
                    barred[place] = (*barred.get(place, ()), missing)
    return barred


def _condition(asked: Asked, value: JsonValue, column: Column, code: ColumnCode, place: int) -> None:
    """Add that each row has this value."""
    values = value_array(column, value, asked.rows)
    if isinstance(code, Place):
        raise invalid(f"column {column.name!r} holds places; no condition can be set on it")
    if isinstance(code, Levels) and value is not None:
        level = _level(code, column.name, _text(value_array(column, value, 1)))
        asked.codes[place] = np.full(asked.rows, level, dtype=np.int64)
    elif isinstance(code, Modes) and value is not None:
        asked.numbers[place] = float(code.scale.numbers(value_array(column, value, 1), column)[0])
        asked.set[column.name] = values
    elif isinstance(code, Levels | Modes) and code.missing_code is not None:
        asked.codes[place] = np.full(asked.rows, code.missing_code, dtype=np.int64)
    else:
        asked.set[column.name] = values


def _level(head: Levels, name: str, text: str) -> int:
    if text not in head.values:
        more = " …" if len(head.values) > _SHOWN else ""
        raise invalid(f"column {name!r} is never {text!r}; it may be {', '.join(head.values[:_SHOWN])}{more}")
    return head.values.index(text)


def _shares(head: Levels, name: str, given: Mapping[str, float], barred: tuple[int, ...]) -> NDArray[np.float64]:
    """The share of each code: as given, and of the others in the source's proportions."""
    shares = np.array(head.counts, dtype=np.float64)
    shares[list(barred)] = 0.0
    chosen = {_level(head, name, text): share for text, share in given.items()}
    shares[list(chosen)] = 0.0
    rest = max(0.0, 1.0 - sum(chosen.values()))
    if shares.sum():
        shares *= rest / shares.sum()
    for code, share in chosen.items():
        shares[code] = share
    if not shares.sum():
        raise invalid(f"the shares of column {name!r} leave no value that a row could have")
    shares /= shares.sum()
    return shares


def _balanced(shares: NDArray[np.float64], rows: int, draws: np.random.Generator) -> Codes:
    """Codes of so many rows with these shares, to the row, in random order."""
    exact = shares * rows
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: rows - counts.sum()]] += 1
    return draws.permutation(np.repeat(np.arange(len(shares)), counts))


def _text(values: Values) -> str:
    text: str = values.cast(pa.string())[0].as_py()
    return text
