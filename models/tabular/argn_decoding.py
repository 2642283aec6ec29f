"""Codes of TabularARGN as values: what mostlyai-engine does with frames of pandas, done with whole arrays.

Drawing codes takes less time than turning them into values the engine's way, which makes texts of dates and goes
through the bins of a number one by one. Values are the same; those inside of a bin are drawn from the same range, but
in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from models.tabular.argn_engine import (
    ARGN_COLUMN,
    ARGN_PROCESSOR,
    ARGN_TABLE,
    CATEGORICAL_ESCAPE_CHAR,
    CATEGORICAL_NULL_TOKEN,
    CATEGORICAL_UNKNOWN_TOKEN,
    NUMERIC_BINNED_MAX_TOKEN,
    NUMERIC_BINNED_MIN_TOKEN,
    decode_column,
    get_argn_name,
)
from models.tabular.argn_frames import from_moments, from_numbers, from_series
from models.tabular.columns import Column, Values

Codes: TypeAlias = Mapping[str, NDArray[np.int64]]
"""By the engine's name of each part of a column, one code a row."""
Decode: TypeAlias = Callable[[Codes], Values]
SPECIAL: Final = frozenset({CATEGORICAL_NULL_TOKEN, CATEGORICAL_UNKNOWN_TOKEN})
"""Codes that stand for no value of the source."""


def decoder(column: Column, stats: dict[str, Any]) -> Decode:
    """What turns a column's codes into values of its type; `stats` are the engine's of this column."""
    kind = stats["encoding_type"]
    protected = stats.get("min", 0) is None or stats.get("max", 0) is None  # there were too few values to tell of any
    if kind in {"TABULAR_CATEGORICAL", "TABULAR_NUMERIC_DISCRETE"}:
        return partial(_categories, _known_values(column, stats))
    if kind == "TABULAR_NUMERIC_DIGIT" and not protected:
        return partial(_digits, column, stats)
    if kind == "TABULAR_NUMERIC_BINNED":
        return partial(_binned, column, stats)
    if kind == "TABULAR_DATETIME" and not protected:
        return partial(_moments, column, stats)
    return partial(_as_the_engine_does, column, stats)


def part_names(stats: dict[str, Any]) -> dict[str, str]:
    """By the names of the parts of a column (`cat`, `E1`, `year`), the engine's long names of them."""
    return {
        part: get_argn_name(
            argn_processor=stats[ARGN_PROCESSOR],
            argn_table=stats[ARGN_TABLE],
            argn_column=stats[ARGN_COLUMN],
            argn_sub_column=part,
        )
        for part in stats["cardinalities"]
    }


def unescaped(text: str) -> str:
    """A category as the source has it: the engine marks those that look like its own words."""
    return text.removeprefix(CATEGORICAL_ESCAPE_CHAR)


def _known_values(column: Column, stats: dict[str, Any]) -> Values:
    """The value of each code, in order."""
    texts = [None if text in SPECIAL else unescaped(text) for text in stats["codes"]]
    values: Values = pa.array(texts, type=pa.string())
    return values if pa.types.is_string(column.arrow_type) else values.cast(column.arrow_type)


def _categories(values: Values, codes: Codes) -> Values:
    return values.take(pa.array(codes["cat"]))


def _digits(column: Column, stats: dict[str, Any], codes: Codes) -> Values:
    lowest, highest = stats["min_decimal"], stats["max_decimal"]
    numbers: Any = sum(
        (codes[f"E{place}"] + stats["min_digits"][f"E{place}"]) * 10**place for place in range(highest, lowest - 1, -1)
    )
    if "neg" in codes:
        numbers = np.where(codes["neg"] == 1, -numbers, numbers)
    bounds = (stats["min"], stats["max"]) if lowest < 0 else (int(stats["min"]), int(stats["max"]))
    numbers = np.round(np.clip(numbers, *bounds), -lowest)
    return from_numbers(pa.array(numbers, mask=_missing(codes)), column)


def _binned(column: Column, stats: dict[str, Any], codes: Codes) -> Values:
    chosen, bins, special = codes["bin"], np.asarray(stats["bins"], dtype=np.float64), stats["codes"]
    places = np.clip(chosen - len(special), 0, max(0, len(bins) - 2))
    numbers = np.random.uniform(bins[places], bins[np.minimum(places + 1, len(bins) - 1)])  # noqa: NPY002 - as seeded
    scale = 10.0 ** -stats["min_decimal"]
    numbers = np.floor(numbers * scale) / scale
    missing = chosen < len(special)
    for token, value in ((NUMERIC_BINNED_MIN_TOKEN, bins[0]), (NUMERIC_BINNED_MAX_TOKEN, bins[-1])):
        if token in special:
            at = chosen == special[token]
            numbers[at] = value
            missing &= ~at
    if stats["min_decimal"] >= 0:
        numbers = numbers.astype(np.int64)
    return from_numbers(pa.array(numbers, mask=missing), column)


def _moments(column: Column, stats: dict[str, Any], codes: Codes) -> Values:
    low = stats["min_values"]
    years, months, days = (codes[part] + low[part] for part in ("year", "month", "day"))
    month_starts = (years - 1970).astype("M8[Y]").astype("M8[M]") + (months - 1)
    last_days = ((month_starts + 1).astype("M8[D]") - month_starts.astype("M8[D]")).astype(np.int64)
    moments = (month_starts.astype("M8[D]") + (np.minimum(days, last_days) - 1)).astype("M8[us]")
    for part, unit in (("hour", "h"), ("minute", "m"), ("second", "s")):
        if part in codes:
            moments = moments + (codes[part] + low[part]).astype(f"m8[{unit}]")
    if "ms_E2" in codes:
        parts = ((100, "ms_E2"), (10, "ms_E1"), (1, "ms_E0"))
        moments = moments + sum((codes[part] + low[part]) * size for size, part in parts).astype("m8[ms]")
    unit = "us" if stats["has_ms"] else "s" if stats["has_time"] else "D"
    bounds = (pd.Timestamp(stats[name]).to_datetime64().astype(f"M8[{unit}]") for name in ("min", "max"))
    moments = np.clip(moments, *(bound.astype("M8[us]") for bound in bounds))
    return from_moments(pa.array(moments, mask=_missing(codes)).cast(pa.timestamp("ns")), column)


def _as_the_engine_does(column: Column, stats: dict[str, Any], codes: Codes) -> Values:
    return from_series(decode_column(pd.DataFrame(codes).astype("int32"), stats), column)


def _missing(codes: Codes) -> NDArray[np.bool_] | None:
    missing: NDArray[np.bool_] | None = codes["nan"] == 1 if "nan" in codes else None
    return missing
