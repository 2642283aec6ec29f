"""Values of a column that lie on a line (numbers, days, moments) as plain numbers, and back in the column's type.

Whole values (integers, days, moments) are counted in steps from an offset, so that nothing is lost where a moment in
nanoseconds has more digits than a float64 holds, and what is made falls on the source's grid: whole days where it has
days, multiples of 50 where it has those. Fractions keep as many decimals as the source shows.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.tabular.columns import Column, Values

MOST_DECIMALS: Final = 9
"""Fractions with more decimals than these are not rounded."""
LARGEST: Final = 2**61
"""Beyond it whole numbers are taken as they are, and lose their last digits."""
ROUND_STEPS: Final = 2**40
"""Offsets are multiples of so many steps, but for what is left of a step."""
ROUND_SHARE: Final = 0.98
"""The share of different numbers that must have so few decimals for all to be made with so few."""


class Scale(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How plain numbers become values of a column."""

    whole: bool
    """Values are `offset + step * number`, in the units of the column's type."""
    offset: int = 0
    step: int = 1
    decimals: int | None = None
    """Of fractions; None where they are not rounded."""

    def numbers(self, values: Values, column: Column) -> NDArray[np.float64]:
        """Plain numbers; NaN where a value is missing or not finite."""
        if self.whole:
            counts = (_counts(values, column).fill_null(0).to_numpy() - self.offset) / self.step
        else:
            counts = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).copy()
        numbers: NDArray[np.float64] = counts.astype(np.float64)
        numbers[is_missing(values) | ~np.isfinite(numbers)] = np.nan
        return numbers

    def values(self, numbers: NDArray[np.float64], column: Column) -> Values:
        """Values of the column's type; missing where a number is NaN."""
        missing = np.isnan(numbers)
        if not self.whole:
            rounded = numbers if self.decimals is None else np.round(numbers, self.decimals)
            return pa.array(rounded, mask=missing).cast(column.arrow_type)
        steps = np.rint(np.where(missing, 0.0, numbers)).astype(np.int64)
        counts: Values = pa.array(self.offset + self.step * steps, mask=missing)
        if column.format is not None:
            return pc.strftime(counts.cast(pa.timestamp("s")), column.format)
        if pa.types.is_date32(column.arrow_type):
            return counts.cast(pa.int32()).cast(pa.date32())
        return counts.cast(column.arrow_type)


def find_scale(values: Values, column: Column) -> Scale:
    """The scale of a column's values, which are of its type."""
    if is_whole(column):
        counts = pc.unique(_counts(values, column).drop_null()).to_numpy()
        if not len(counts):
            return Scale(whole=True)
        lowest = int(counts.min())
        if max(-lowest, int(counts.max())) > LARGEST:
            return Scale(whole=False, decimals=0)
        step = int(np.gcd.reduce(counts - lowest)) or 1
        # Rounded far down, as the lowest value is somebody's; exact in a float64 for all that.
        coarse = step * min(ROUND_STEPS, LARGEST // step)
        return Scale(whole=True, offset=lowest - (lowest - lowest % step) % coarse, step=step)
    numbers = pc.unique(values.drop_null()).cast(pa.float64(), safe=False).to_numpy()
    return Scale(whole=False, decimals=_decimals(numbers[np.isfinite(numbers)], column))


def is_missing(values: Values) -> NDArray[np.bool_]:
    """Which values are missing."""
    found: Values = pc.is_null(values, nan_is_null=True)
    missing: NDArray[np.bool_] = found.to_numpy(zero_copy_only=False)
    return missing


def is_whole(column: Column) -> bool:
    """Whether a column's values can be counted: moments, days, and integers that an int64 holds."""
    kind = column.arrow_type
    return (
        column.format is not None
        or pa.types.is_temporal(kind)
        or (pa.types.is_integer(kind) and not pa.types.is_uint64(kind))
    )


def _counts(values: Values, column: Column) -> Values:
    if column.format is not None:
        return pc.strptime(values, column.format, "s").cast(pa.int64())
    if pa.types.is_date32(values.type):
        return values.cast(pa.int32()).cast(pa.int64())
    return values.cast(pa.int64())


def _decimals(numbers: NDArray[np.float64], column: Column) -> int | None:
    tolerance = 1e-6 if pa.types.is_float32(column.arrow_type) else 1e-12
    for decimals in range(MOST_DECIMALS + 1):
        round_ones = np.isclose(numbers, np.round(numbers, decimals), rtol=tolerance, atol=0.0)
        if np.mean(round_ones) >= ROUND_SHARE:
            return decimals
    return None
