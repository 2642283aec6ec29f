"""How like its source a dataset is, column by column, pair by pair, and as a whole.

Accuracy is 1 minus half the L1 distance between binned distributions: Platzer and Reutterer, "Holdout-Based Empirical
Assessment of Mixed-Type Synthetic Data", 2021, https://doi.org/10.3389/fdata.2021.679939. Associations are Cramer's V
with Bergsma's correction, "A bias-correction for Cramer's V and Tschuprow's T", 2013,
https://doi.org/10.1016/j.jkss.2012.10.002.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from workers.dataset_report.bins import Binned, count, spread_of_shares
from workers.dataset_report.figures import Fidelity, LinkedFigures, PairFigures
from workers.dataset_report.told_apart import Told

MOST_PAIRS: Final = 2000
MOST_TRIPLES: Final = 500
"""Drawn by seed where there are more; their mean is the figure."""
SHOWN_PAIRS: Final = 6
"""The page shows the tables of so many pairs."""

Counts = NDArray[np.float64]
ORIGINAL, SYNTHETIC = 0, 1
"""Tables of the binned columns: the source, training and held-out rows together; and the dataset."""


class Agreement(msgspec.Struct, frozen=True):
    """How well two distributions agree, and how well two samples of one would."""

    accuracy: float
    expected: float


def agreement(original: Counts, synthetic: Counts) -> Agreement:
    """Of counts by bin; neither table is empty, or they agree in nothing.

    The expected one takes the difference of two estimates of a share as normal (mean absolute value: sigma times the
    root of 2 / pi).
    """
    rows, drawn = original.sum(), synthetic.sum()
    if not rows or not drawn:
        return Agreement(0.0, 0.0)
    shares, others = original / rows, synthetic / drawn
    spread = shares * (1 - shares) * (1 / rows + 1 / drawn)
    return Agreement(1 - float(np.abs(shares - others).sum()) / 2, _expected(spread))


def agree(columns: Sequence[Binned]) -> Agreement:
    """How well the source and the dataset agree in some columns together; rows of one subject hang together."""
    counts = [count(columns, table) for table in (ORIGINAL, SYNTHETIC)]
    agreed = agreement(*counts)
    subjects = columns[0].subjects
    if subjects is None or not counts[ORIGINAL].sum():
        return agreed
    there, made = (len(np.unique(of_table)) for of_table in subjects)
    return Agreement(agreed.accuracy, _expected(spread_of_shares(columns) * (1 + there / max(1, made))))


def _expected(spread: Counts) -> float:
    """The accuracy that the variances of the differences of shares leave: of a normal one's mean absolute value."""
    return 1 - float(np.sqrt(spread * 2 / np.pi).sum()) / 2


def association(counts: Counts) -> float:
    """Cramer's V of a table of counts, corrected for bias; 0 where a side has one value only."""
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    rows = counts.sum()
    if min(counts.shape) < 2 or rows < 2:
        return 0.0
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / rows
    phi = float(((counts - expected) ** 2 / expected).sum() / rows)
    height, width = counts.shape
    phi = max(0.0, phi - (height - 1) * (width - 1) / (rows - 1))
    height, width = (side - (side - 1) ** 2 / (rows - 1) for side in counts.shape)
    least = min(height, width) - 1
    return min(1.0, float(np.sqrt(phi / least))) if least > 0 else 0.0


def compare_pairs(binned: Sequence[Binned], seed: int) -> tuple[PairFigures, ...]:
    """Pairs of columns (each, or `MOST_PAIRS` drawn by seed), in the columns' order."""
    pairs = _combinations(len(binned), 2, MOST_PAIRS, seed)
    return compare_chosen([(binned[first], binned[second]) for first, second in pairs])


def compare_chosen(pairs: Sequence[tuple[Binned, Binned]]) -> tuple[PairFigures, ...]:
    """These pairs of columns.

    With one table there is only the association in the dataset. The tables of counts are kept of pairs that are worth
    showing: those that belong together most in the source, and those that the dataset has worst.
    """
    figures = [_compare_pair(first, second) for first, second in pairs]
    shown = set(_worth_showing(figures))
    return tuple(
        _with_tables(figure, first, second) if place in shown else figure
        for place, (figure, (first, second)) in enumerate(zip(figures, pairs, strict=True))
    )


def _compare_pair(first: Binned, second: Binned) -> PairFigures:
    shape = (len(first.labels), len(second.labels))
    counts = [count((first, second), table) for table in range(len(first.codes))]
    figures = PairFigures(
        first=first.feature.name,
        second=second.feature.name,
        association=association(counts[-1].reshape(shape)),
    )
    if len(counts) == 1:
        return figures
    agreed = agree((first, second))
    return msgspec.structs.replace(
        figures,
        accuracy=agreed.accuracy,
        accuracy_expected=agreed.expected,
        association_original=association(counts[ORIGINAL].reshape(shape)),
    )


def _worth_showing(figures: Sequence[PairFigures]) -> list[int]:
    places = range(len(figures))
    strength = [one.association if one.association_original is None else one.association_original for one in figures]
    strongest = sorted(places, key=lambda place: -strength[place])
    if not figures or figures[0].accuracy is None:
        return strongest[:SHOWN_PAIRS]
    lost = [(one.accuracy or 0.0) - (one.accuracy_expected or 0.0) for one in figures]
    worst = sorted(places, key=lambda place: lost[place])
    chosen = dict.fromkeys(strongest[: SHOWN_PAIRS // 2])
    return list(dict.fromkeys([*chosen, *worst]))[:SHOWN_PAIRS]


def _with_tables(figure: PairFigures, first: Binned, second: Binned) -> PairFigures:
    shape = (len(first.labels), len(second.labels))
    counts = [count((first, second), table) for table in range(len(first.codes))]
    tables = [
        tuple(tuple(round(float(share), 5) for share in row) for row in (each / (each.sum() or 1.0)).reshape(shape))
        for each in counts
    ]
    if len(tables) == 1:
        return msgspec.structs.replace(figure, table=tables[0])
    return msgspec.structs.replace(figure, table=tables[SYNTHETIC], table_original=tables[ORIGINAL])


def summarise(
    binned: Sequence[Binned],
    pairs: Sequence[PairFigures],
    told: Told | None,
    seed: int,
    linked: LinkedFigures | None = None,
) -> Fidelity:
    """The figures of the whole table.

    Args:
        binned: Columns of the source and the dataset; at least one.
        pairs: Of those columns.
        told: What a classifier found that tells their rows apart, if it was asked.
        seed: Draws the triples.
        linked: How the rows of a subject belong together, which counts as much as columns, pairs and triples each.
    """
    single = [agree((column,)) for column in binned]
    double = _agreements(pairs)
    triples = [[binned[place] for place in places] for places in _combinations(len(binned), 3, MOST_TRIPLES, seed)]
    triple = [agree(columns) for columns in triples]
    kinds = [_mean(kind) for kind in (single, double, triple)]
    of_subjects = [] if linked is None else [_mean(kind) for kind in _of_subjects(linked)]
    there = [one for one in (*kinds, *of_subjects) if one is not None]
    one, two, three = kinds
    length, next_row, parent = of_subjects or (None, None, None)
    assert one is not None  # noqa: S101 - there is a column
    whole = _mean(there)
    assert whole is not None  # noqa: S101 - `one` is among them
    return Fidelity(
        accuracy=whole.accuracy,
        accuracy_expected=whole.expected,
        univariate=one.accuracy,
        univariate_expected=one.expected,
        bivariate=None if two is None else two.accuracy,
        bivariate_expected=None if two is None else two.expected,
        trivariate=None if three is None else three.accuracy,
        trivariate_expected=None if three is None else three.expected,
        rows_per_subject=None if length is None else length.accuracy,
        rows_per_subject_expected=None if length is None else length.expected,
        coherence=None if next_row is None else next_row.accuracy,
        coherence_expected=None if next_row is None else next_row.expected,
        with_parent=None if parent is None else parent.accuracy,
        with_parent_expected=None if parent is None else parent.expected,
        association_error=_association_error(pairs),
        told_apart=None if told is None else told.auc,
        told_apart_error=None if told is None else told.error,
        told_apart_by=None if told is None else told.by,
    )


def _agreements(pairs: Sequence[PairFigures]) -> list[Agreement]:
    return [Agreement(one.accuracy or 0.0, one.accuracy_expected or 0.0) for one in pairs]


def _of_subjects(linked: LinkedFigures) -> list[list[Agreement]]:
    """Rows per subject, each row with the next, and rows with their parents."""
    length = linked.rows_per_subject
    return [
        [Agreement(length.accuracy or 0.0, length.accuracy_expected or 0.0)],
        _agreements(linked.coherence),
        _agreements(linked.with_parent),
    ]


def _association_error(pairs: Sequence[PairFigures]) -> float | None:
    apart = [abs(one.association - (one.association_original or 0.0)) for one in pairs]
    return float(np.mean(apart)) if apart else None


def _mean(figures: Sequence[Agreement]) -> Agreement | None:
    if not figures:
        return None
    return Agreement(
        float(np.mean([one.accuracy for one in figures])), float(np.mean([one.expected for one in figures]))
    )


def _combinations(count: int, size: int, most: int, seed: int) -> list[tuple[int, ...]]:
    """All ways to choose `size` of so many places, or `most` of the ways drawn by seed; each rising, in order."""
    if math.comb(count, size) <= most:
        return list(itertools.combinations(range(count), size))
    draws = np.random.default_rng(seed)
    chosen: set[tuple[int, ...]] = set()
    while len(chosen) < most:
        chosen.add(tuple(sorted(int(place) for place in draws.choice(count, size, replace=False))))
    return sorted(chosen)
