"""Tables of mixed columns as matrices of numbers: for trees, and for distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.dataset_report.tables import Feature
from workers.dataset_report.values import count_values, place_values

MOST_CATEGORIES: Final = 200
"""Of a column, that trees tell apart; they take 255."""
MOST_POSITIONS: Final = 40
"""Categories of a column that distances tell apart; the others count as one."""

Matrix: TypeAlias = NDArray[np.float64]
Points: TypeAlias = NDArray[np.float32]


def tree_matrices(features: Sequence[Feature], tables: Sequence[pa.Table]) -> list[Matrix]:
    """Tables of (rows, features): numbers as they are, categories by their frequency in all tables, NaN for none."""
    columns = [_tree_columns(feature, tables) for feature in features]
    return [
        np.column_stack([column[place] for column in columns]) if columns else np.empty((table.num_rows, 0))
        for place, table in enumerate(tables)
    ]


def fill_unknown(rows: Matrix, *others: Matrix) -> None:
    """Set to 0, in place, the columns of which no value of `rows` is known: trees cannot be fitted to them."""
    unknown = np.isnan(rows).all(axis=0)
    for table in (rows, *others):
        table[:, unknown] = 0.0


def _tree_columns(feature: Feature, tables: Sequence[pa.Table]) -> list[Matrix]:
    values = [table.column(feature.field) for table in tables]
    if feature.kind != "category":
        return [column.to_numpy() for column in values]
    known = list(count_values(values))[:MOST_CATEGORIES]
    columns = []
    for column in values:
        codes = place_values(column, known).astype(np.float64)
        codes[codes > len(known)] = np.nan
        columns.append(codes)
    return columns


def distance_matrices(features: Sequence[Feature], tables: Sequence[pa.Table]) -> list[Points]:
    """Tables of (rows, dimensions), in which the square of the Euclidean distance adds up a difference per column.

    That of numbers is the share of all rows that lie between them, squared, so that no scale or outlier rules; that of
    two categories is 1, of a value and a missing one at least 1 (compare Gower, "A General Coefficient of Similarity
    and Some of Its Properties", 1971, https://doi.org/10.2307/2528823).
    """
    columns = [_distance_columns(feature, tables) for feature in features]
    return [
        np.hstack([column[place] for column in columns]) if columns else np.zeros((table.num_rows, 1), np.float32)
        for place, table in enumerate(tables)
    ]


def _distance_columns(feature: Feature, tables: Sequence[pa.Table]) -> list[Points]:
    values = [table.column(feature.field) for table in tables]
    if feature.kind == "category":
        known = list(count_values(values))[:MOST_POSITIONS]
        corners = np.eye(len(known) + 2, dtype=np.float32) / np.float32(np.sqrt(2))
        return [corners[place_values(column, known)] for column in values]
    numbers = [column.to_numpy() for column in values]
    there = np.sort(np.concatenate([column[~np.isnan(column)] for column in numbers]))
    columns = []
    for column in numbers:
        missing = np.isnan(column)
        # Half-way between the first and the last of the same value, so that equal values have one place.
        place = np.searchsorted(there, column, side="left") + np.searchsorted(there, column, side="right")
        place = np.where(missing, 0.5, place / max(1, 2 * len(there)))
        columns.append(np.column_stack([place, missing]).astype(np.float32))
    return columns
