"""Whether the rows of each subject belong together, and to their parent, as they do in the source.

As mostlyai-qa has it (https://github.com/mostly-ai/mostlyai-qa): a column is coherent if its values in two rows that
follow each other are spread together as in the source. Where there is a parent, its columns are looked at with the
rows'. Everything here is of tables in memory: rows in the order of their sequences, whole subjects.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.dataset_report.bins import LEAST_SHARED, Binned, bin_feature
from workers.dataset_report.curves import histogram
from workers.dataset_report.fidelity import agree, compare_chosen
from workers.dataset_report.figures import ColumnFigures, LinkedFigures, Shape
from workers.dataset_report.tables import Feature
from workers.dataset_report.values import Codes, Texts

ROWS: Final = "rows per subject"
_LENGTH: Final = Feature(name=ROWS, kind="number", column=ROWS, place=0)
MOST_PAIRS: Final = 1000
"""Of a column of the parent's and one of the rows'; drawn by seed where there are more."""


class LinkedTable(msgspec.Struct, frozen=True, kw_only=True):
    """Whole subjects of a table."""

    keys: Texts
    """Of each row its foreign key, in the order of the rows."""
    lengths: dict[str, int]
    """By key, how many rows a subject has; also none, where there is a parent."""
    parent_keys: Texts | None = None
    parent: pa.Table | None = None
    """The subjects' rows of the parent: its modelled features by field, in the order of `parent_keys`."""


def number_subjects(keys: Texts) -> Codes:
    """For each row the number of its subject, from 0, in the order in which they come; those without a key are one."""
    numbers: Codes = keys.combine_chunks().dictionary_encode("encode").indices.to_numpy().astype(np.intp)
    return numbers


def following_rows(subjects: Codes) -> tuple[Codes, Codes]:
    """The places of all rows that another of the same subject follows, and of those that follow them.

    Rows of one subject are in the order of their sequence; those of others may stand between them.
    """
    order = np.argsort(subjects, kind="stable")
    same = subjects[order[:-1]] == subjects[order[1:]]
    return order[:-1][same], order[1:][same]


def compare_linked(
    tables: Sequence[LinkedTable], binned: Sequence[Binned], parents: Sequence[Feature], foreign_key: str, seed: int
) -> LinkedFigures:
    """How subjects and their rows compare.

    Args:
        tables: The source and the dataset; or the dataset alone.
        binned: The rows' columns, of the same tables.
        parents: The parent's modelled features; empty where there is none.
        foreign_key: Its name.
        seed: Draws pairs of columns, where there are too many.
    """
    subjects = tuple(number_subjects(table.keys) for table in tables)
    steps = [following_rows(numbers) for numbers in subjects]
    coherence = compare_chosen([_next_rows(column, steps, subjects) for column in binned])
    bins = [_bin_parents(feature, tables, subjects) for feature in parents]
    pairs = list(itertools.product(bins, binned))
    if len(pairs) > MOST_PAIRS:
        chosen = np.random.default_rng(seed).choice(len(pairs), MOST_PAIRS, replace=False)
        pairs = [pairs[place] for place in sorted(chosen.tolist())]
    lengths = [np.array(list(table.lengths.values()), dtype=np.float64) for table in tables]
    return LinkedFigures(
        foreign_key=foreign_key,
        subjects=len(lengths[-1]),
        subjects_original=len(lengths[0]) if len(lengths) > 1 else None,
        orphans=None,
        integrity=None,
        mean_rows=_mean(lengths[-1]),
        mean_rows_original=_mean(lengths[0]) if len(lengths) > 1 else None,
        rows_per_subject=_lengths(lengths),
        coherence=coherence,
        with_parent=compare_chosen([(_weighing_as(column, parent), column) for parent, column in pairs]),
        shapes={column.feature.name: shape_of(column) for column in bins},
    )


def shape_of(column: Binned) -> Shape:
    """How a column's values are spread over its bins."""
    shares = [tuple(round(float(share), 5) for share in column.shares(table)) for table in range(len(column.codes))]
    return Shape(labels=column.labels, original=shares[0] if len(shares) > 1 else (), synthetic=shares[-1])


def _mean(lengths: NDArray[np.float64]) -> float:
    return float(lengths.mean()) if len(lengths) else 0.0


def _lengths(lengths: Sequence[NDArray[np.float64]]) -> ColumnFigures:
    column = bin_feature(_LENGTH, [pa.table({_LENGTH.field: pa.array(each)}) for each in lengths])
    figures = ColumnFigures(
        name=ROWS,
        kind="number",
        distinct=len(np.unique(lengths[-1])),
        missing=0.0,
        shape=shape_of(column),
        curve=histogram(lengths, LEAST_SHARED),
    )
    if len(lengths) == 1:
        return figures
    agreed = agree((column,))
    return msgspec.structs.replace(figures, accuracy=agreed.accuracy, accuracy_expected=agreed.expected)


def _next_rows(
    column: Binned, steps: Sequence[tuple[Codes, Codes]], subjects: Sequence[Codes]
) -> tuple[Binned, Binned]:
    """A column's values in rows that another follows, and in those that follow; a pair weighs what both do."""
    weights = None if column.weights is None else column.weights[steps[0][0]] * column.weights[steps[0][1]]
    if weights is not None and weights.any():
        weights = weights * weights.sum() / (weights**2).sum()
    whose = tuple(numbers[first] for numbers, (first, _) in zip(subjects, steps, strict=True))
    later = msgspec.structs.replace(column.feature, name=f"{column.feature.name}, next row")
    first, second = (
        msgspec.structs.replace(
            column,
            feature=feature,
            codes=tuple(codes[step[side]] for codes, step in zip(column.codes, steps, strict=True)),
            weights=weights,
            subjects=whose,
        )
        for side, feature in ((0, column.feature), (1, later))
    )
    return first, second


def _bin_parents(feature: Feature, tables: Sequence[LinkedTable], subjects: Sequence[Codes]) -> Binned:
    """A column of the parent's, of each row of the dataset; that of a row without a parent is missing."""
    column = bin_feature(feature, [table.parent for table in tables if table.parent is not None])
    codes = []
    for table, own in zip(tables, column.codes, strict=True):
        assert table.parent_keys is not None  # noqa: S101 - there are features of it
        places = pc.index_in(table.keys, value_set=table.parent_keys.combine_chunks()).to_numpy(zero_copy_only=False)
        known = np.where(np.isnan(places), len(own), places).astype(np.intp)
        codes.append(np.append(own, len(column.labels) - 1)[known])
    return msgspec.structs.replace(column, codes=tuple(codes), subjects=tuple(subjects))


def _weighing_as(column: Binned, parent: Binned) -> Binned:
    """A column of the parent's with what the rows of another weigh: those of a pair are told by its first."""
    return msgspec.structs.replace(parent, weights=column.weights)
