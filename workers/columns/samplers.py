"""Samplers: each value is a function of the job's seed, the row's index, the column's name and the draw's number.

Nothing depends on the shard or on the rows beside it. One uniform number becomes a value by the inverse of the
distribution function (L. Devroye, "Non-Uniform Random Variate Generation", 1986, chapter II.2), which also cuts a
distribution off at its bounds exactly.
"""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect_right
from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from statistics import NormalDist
from typing import TypeAlias, TypeVar

import msgspec
from pydantic import JsonValue

from workers.columns.kinds import ColumnSpec, Dates, Number, Subset
from workers.columns.people import address_of, person_of
from workers.columns.weighted import Scalar, Weighted
from workers.contracts import Row
from workers.prompts import PromptError, missing_text
from workers.template_budget import text_of

_STEPS = 1 << 53
"""Distinct values of a double from 0 to 1."""
Value = TypeVar("Value")


class Place(msgspec.Struct, frozen=True, gc=False):
    """Which value is drawn: of which row, in which of its draws."""

    seed: int
    """The job's."""
    index: int
    """The row's, among all items of the job."""
    draw: int = 1
    """1 for the row as it is first drawn; each time that it is drawn anew one more."""

    def number(self, column: str, what: str = "") -> int:
        """63 bits for a column; `what` tells several of one column apart."""
        return _digest(f"{self.seed}/{self.index}/{self.draw}/{column}/{what}")

    def share(self, column: str) -> float:
        """A number between 0 and 1, neither of the two."""
        return _share(self.number(column))


Sampler: TypeAlias = Callable[[Place, Row], JsonValue]
"""Draws a value; the row holds what stands before it: fields of the source, and columns that it needs."""


def sampler(name: str, spec: ColumnSpec) -> Sampler:
    """What draws the values of a column whose kind asks no model and is no expression."""
    if spec.category is not None:
        return _balanced(name, spec.category) if spec.balanced else _category(name, spec.category)
    if spec.number is not None:
        inverse = _number(spec.number)
        return lambda place, _: inverse(place.share(name))
    if spec.date is not None:
        inverse_date = _date(spec.date)
        return lambda place, _: inverse_date(place.share(name))
    if spec.subset is not None:
        return _subset(name, spec.subset)
    if spec.person is not None:
        person = spec.person
        return lambda place, _: person_of(person, place.number(name))
    if spec.address is not None:
        address = spec.address
        return lambda place, _: address_of(address, place.number(name))
    raise AssertionError(f"{name} is {spec.kind}, which is not drawn")


def _category(name: str, category: Weighted) -> Sampler:
    pick = _picker(category)
    return lambda place, _: pick(place.share(name))


def _picker(category: Weighted) -> Callable[[float], Scalar]:
    """Picks a value by a number between 0 and 1."""
    ends = list(accumulate(category.weights))
    values, total = category.values, ends[-1]
    drawn = [place for place, weight in enumerate(category.weights) if weight]
    last = drawn[-1]
    return lambda share: values[min(last, bisect_right(ends, share * total))]


def _balanced(name: str, category: Weighted) -> Sampler:
    """Each run of rows has the values in an order of its own.

    A row that is drawn anew keeps its value, or shares would no longer be exact: the draw's number says nothing here.
    """
    slots = [
        value
        for value, weight in zip(category.values, category.weights, strict=True)
        for value in [value] * int(weight)
    ]

    @lru_cache(maxsize=8)  # rows of a run come one after the other
    def order(seed: int, run: int) -> list[Scalar]:
        shuffled = list(slots)
        random.Random(_digest(f"{seed}/run {run}/{name}")).shuffle(shuffled)  # noqa: S311 - no secret
        return shuffled

    def draw(place: Place, _: Row) -> JsonValue:
        run, slot = divmod(place.index, len(slots))
        return order(place.seed, run)[slot]

    return draw


def _subset(name: str, subset: Subset) -> Sampler:
    pickers = {value: _picker(values) for value, values in subset.values.items()}

    def draw(place: Place, row: Row) -> JsonValue:
        if subset.of not in row:
            raise PromptError(missing_text(subset.of, row), field=subset.of)
        value = text_of(row[subset.of])
        if value not in pickers:
            known = ", ".join(list(pickers)[:12])
            raise PromptError(f"there are no values for {subset.of} {value!r}; there are for {known}")
        return pickers[value](place.share(name))

    return draw


def _number(number: Number) -> Callable[[float], float]:
    """The inverse of the distribution function, rounded, and within the bounds."""
    low, high, decimals = number.min, number.max, number.decimals
    step = 10.0**-decimals
    if number.distribution == "uniform" and low is not None and high is not None:
        # Each of the numbers that can come out is equally likely, the ends too.
        first, count = low, round((high - low) / step) + 1
        return lambda share: _rounded(first + min(count - 1, int(share * count)) * step, decimals)
    cdf, inverse = _distribution(number)
    below = 0.0 if low is None else cdf(low)
    above = 1.0 if high is None else cdf(high)
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    return lambda share: _rounded(min(most, max(least, inverse(below + share * (above - below)))), decimals)


def _distribution(number: Number) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """The distribution function and its inverse."""
    if number.distribution == "exponential":
        mean = number.mean or 1.0
        return lambda x: -math.expm1(-max(0.0, x) / mean), lambda share: -mean * math.log1p(-_inside(share))
    if number.distribution == "lognormal":
        logarithm = NormalDist(math.log(number.median or 1.0), number.sigma or 1.0)
        return (
            lambda x: logarithm.cdf(math.log(x)) if x > 0 else 0.0,
            lambda share: math.exp(logarithm.inv_cdf(_inside(share))),
        )
    normal = NormalDist(number.mean or 0.0, number.std or 1.0)
    return normal.cdf, lambda share: normal.inv_cdf(_inside(share))


def _inside(share: float) -> float:
    # Bounds far out in a tail have distribution functions of 0 or 1 in doubles.
    return min(1.0 - 2**-53, max(2**-1000, share))


def _rounded(value: float, decimals: int) -> float:
    return round(value, decimals) if decimals else round(value)


def _date(dates: Dates) -> Callable[[float], str]:
    first, last = dates.bounds
    if isinstance(first, datetime) and isinstance(last, datetime):
        begin, seconds = first, int((last - first).total_seconds()) + 1
        return lambda share: (begin + timedelta(seconds=int(share * seconds))).isoformat()
    day, days = first.toordinal(), (last - first).days + 1
    return lambda share: date.fromordinal(day + int(share * days)).isoformat()


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _share(number: int) -> float:
    """A number between 0 and 1 from 63 bits."""
    return ((number >> 10) + 0.5) / _STEPS
