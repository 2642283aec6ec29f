"""Columns in bins, so that tables of mixed columns can be compared by shares.

As mostlyai-qa has them, so that accuracies can be set side by side (https://github.com/mostly-ai/mostlyai-qa): ten bins
of about as many original values each, or the ten most frequent categories, and one for what is missing. A category that
few original rows share is never named.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.dataset_report.tables import Feature
from workers.dataset_report.values import Codes, Texts, count_values, place_values
from workers.dataset_report.weighing import AS_IT_IS, Weighing, Weights

BINS: Final = 10
LEAST_SHARED: Final = 5
"""A category is named in a report if so many original rows share it; an extreme is shown if so many lie beyond it."""
OTHER: Final = "(other)"
MISSING: Final = "(missing)"
_MOST_TRIES: Final = 1000
_DAY: Final = 86_400.0
_FIRST: Final = dt.datetime.min.replace(tzinfo=dt.UTC).timestamp()
_LAST: Final = dt.datetime(9999, 12, 31, tzinfo=dt.UTC).timestamp()
"""Times that have a date here; a file may have others."""


class Binned(msgspec.Struct, frozen=True, kw_only=True):
    """A column of several tables in the same bins."""

    feature: Feature
    labels: tuple[str, ...]
    codes: tuple[Codes, ...]
    """Of each table, by row: places in `labels`."""
    weights: Weights | None = None
    """Of the first table's rows, the same for all of its columns; None where each counts as one."""
    complete: bool = False
    """Whether only those of the first table's rows count in which a value is there."""
    subjects: tuple[Codes, ...] | None = None
    """Of each table's rows, whose they are, by number from 0; None where each stands for itself."""

    def shares(self, table: int) -> NDArray[np.float64]:
        """The share of a table's rows in each bin."""
        counts = count((self,), table)
        return counts / (counts.sum() or 1.0)


def count(columns: Sequence[Binned], table: int) -> NDArray[np.float64]:
    """Rows of a table by the bins of some columns together, flat; what they weigh, where they weigh differently."""
    joint, weights = _joint(columns, table)
    return np.bincount(joint, weights=weights, minlength=_size(columns)).astype(np.float64)


def spread_of_shares(columns: Sequence[Binned]) -> NDArray[np.float64]:
    """The variance of the first table's share of each bin of some columns together, as its subjects differ.

    Rows of one subject are alike, so that they say less than as many of different ones: the variance is that of a ratio
    of sums over subjects (Cochran, "Sampling Techniques", 1977, section 9A).
    """
    joint, weights = _joint(columns, 0)
    size = _size(columns)
    assert columns[0].subjects is not None  # noqa: S101 - or there is no such variance
    subjects = columns[0].subjects[0]
    there = slice(None) if weights is None else weights > 0
    cells, places = np.unique(subjects[there] * size + joint[there], return_inverse=True)
    weighing = np.ones(len(places)) if weights is None else weights[there]
    of_cell = np.bincount(places, weights=weighing)
    whose, which = np.divmod(cells, size)
    of_subject = np.bincount(whose, weights=of_cell)
    whole = of_cell.sum()
    shares = np.bincount(which, weights=of_cell, minlength=size) / whole
    squares = np.bincount(which, weights=of_cell**2, minlength=size)
    crossed = np.bincount(which, weights=of_cell * of_subject[whose], minlength=size)
    spread = squares - 2 * shares * crossed + shares**2 * (of_subject**2).sum()
    variances: NDArray[np.float64] = np.maximum(spread, 0.0) / whole**2
    return variances


def _size(columns: Sequence[Binned]) -> int:
    return math.prod(len(column.labels) for column in columns)


def _joint(columns: Sequence[Binned], table: int) -> tuple[Codes, Weights | None]:
    """Of each row of a table, its bin of some columns together, and what it weighs."""
    joint: Codes = columns[0].codes[table]
    for column in columns[1:]:
        joint = joint * len(column.labels) + column.codes[table]
    if table:
        return joint, None
    weights = columns[0].weights
    if gaps := [column for column in columns if column.complete]:
        there = np.logical_and.reduce([column.codes[table] != len(column.labels) - 1 for column in gaps])
        weights = there.astype(np.float64) if weights is None else np.where(there, weights, 0.0)
    return joint, weights


def bin_feature(
    feature: Feature,
    tables: Sequence[pa.Table],
    weighing: Weighing = AS_IT_IS,
    subjects: tuple[Codes, ...] | None = None,
) -> Binned:
    """A feature of several tables in bins that the first of them sets.

    Args:
        feature: Which.
        tables: The source and the dataset; or the dataset alone.
        weighing: What the source's rows weigh.
        subjects: Of each table's rows, whose they are; None where each stands for itself.
    """
    values = [table.column(feature.field) for table in tables]
    if feature.kind == "category":
        binned = _bin_categories(feature, values, weighing.weights)
    else:
        binned = _bin_numbers(feature, [column.to_numpy() for column in values])
    return msgspec.structs.replace(
        binned, weights=weighing.weights, complete=feature.field in weighing.complete, subjects=subjects
    )


def _bin_categories(feature: Feature, tables: Sequence[Texts], weights: Weights | None) -> Binned:
    counts = count_values(tables[:1])
    weight: dict[str, float] = dict(counts)
    if weights is not None:  # what is frequent in what is compared, though it may be rare in the source
        places = place_values(tables[0], list(counts))
        weight = dict(zip(counts, np.bincount(places, weights=weights, minlength=len(counts)), strict=False))
    frequent = sorted(counts, key=lambda value: (-weight[value], value))[:BINS]
    least = LEAST_SHARED if len(tables) > 1 else 1  # nobody's rows stand behind a dataset that has no source
    named = sorted(value for value in frequent if counts[value] >= least)
    labels = (*named, OTHER, MISSING)
    return Binned(feature=feature, labels=labels, codes=tuple(place_values(table, named) for table in tables))


def _bin_numbers(feature: Feature, tables: Sequence[NDArray[np.float64]]) -> Binned:
    inner = number_edges(tables[0])
    write = write_moment if feature.kind == "moment" else write_number
    labels = [write(edge, inner) for edge in inner]
    labels = [f"below {labels[0]}", *(f"from {label}" for label in labels)] if labels else ["(any)"]
    codes = []
    for table in tables:
        places = np.searchsorted(inner, table, side="right")
        places[np.isnan(table)] = len(labels)
        codes.append(places.astype(np.intp))
    return Binned(feature=feature, labels=(*labels, MISSING), codes=tuple(codes))


def number_edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where one bin ends and the next begins, at most `BINS` - 1 values, rising; neither the least nor the greatest."""
    there = np.sort(values[~np.isnan(values)])
    if not len(there):
        return np.empty(0)
    distinct = np.unique(there)
    if len(distinct) <= BINS:
        return distinct[1:]
    found = distinct[:1]
    for tries in range(BINS + 1, _MOST_TRIES):  # values that come often take several quantiles: ask for more of them
        found = np.unique(there[np.linspace(0, len(there) - 1, tries).astype(np.intp)])
        if len(found) > BINS:
            break
    return found[1:-1][: BINS - 1]


def write_number(value: float, beside: NDArray[np.float64]) -> str:
    """A number with as many digits as tell it from the others, and at least three."""
    for digits in range(3, 16):
        if len({f"{other:.{digits}g}" for other in beside}) == len(beside):
            break
    return f"{float(f'{value:.{digits}g}'):,.10g}"


def write_moment(seconds: float, beside: NDArray[np.float64]) -> str:
    """A time as a day, or with hours and minutes where the others lie within days of it."""
    seconds = min(max(seconds, _FIRST), _LAST)
    moment = dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(seconds=round(seconds))
    days = len({other // _DAY for other in beside}) == len(beside)
    return moment.strftime("%Y-%m-%d" if days else "%Y-%m-%d %H:%M")
