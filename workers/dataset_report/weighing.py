"""The rows of a source weighted so that they are as a dataset was asked to be.

Raking: each column in turn is brought to its shares until all have them, which leaves the rows as they are otherwise,
as far as that is possible. Deming and Stephan, "On a Least Squares Adjustment of a Sampled Frequency Table When the
Expected Marginal Totals are Known", 1940, https://doi.org/10.1214/aoms/1177731829. What weighted rows are worth: Kish,
"Survey Sampling", 1965.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.dataset_report.figures import Asked, Unreached
from workers.dataset_report.tables import MODELLED, Feature
from workers.dataset_report.values import Codes, count_values, place_values

Weights = NDArray[np.float64]
ROUNDS: Final = 200
_NEAR: Final = 1e-6
_FAR: Final = 0.005
"""A share that is missed by more is said to be out of reach."""


class Weighing(msgspec.Struct, frozen=True, kw_only=True):
    """What rows of a source weigh."""

    weights: Weights | None
    """Of each row, in all as many as the rows are worth (`effective_rows`); None where all weigh the same."""
    complete: frozenset[str] = frozenset()
    """Features of which the rows count whose value is there."""
    unreached: tuple[Unreached, ...] = ()

    @property
    def effective_rows(self) -> float | None:
        """As many rows of equal weight would say as much; None where all weigh the same."""
        return None if self.weights is None else float(self.weights.sum())


AS_IT_IS: Final = Weighing(weights=None)


class _Share(msgspec.Struct, frozen=True):
    """A column that is brought to its shares."""

    column: str
    values: tuple[str, ...]
    """As the job writes them."""
    codes: Codes
    """Of each row: places in `values`, or the number of values for any other."""
    targets: Weights
    """Of each code."""


def weigh(features: Sequence[Feature], asked: Asked, table: pa.Table) -> Weighing:
    """What each row of a source weighs, so that it has what was asked of a dataset.

    Args:
        features: The modelled ones, by which the table's columns are called.
        asked: Of the dataset. `where` is not looked at: rows that are otherwise are left out before.
        table: The source, or a sample of it.

    Raises:
        ValueError: a column to be re-balanced, or never to be missing, is no column, or is of no kind for it.
    """
    by_column: dict[str, list[Feature]] = {}
    for feature in features:
        by_column.setdefault(feature.column, []).append(feature)
    for name in asked.rebalance:
        if name not in by_column or by_column[name][0].kind != "category":
            raise ValueError(f"{name!r} is to be re-balanced, but is no column of categories")
    complete = frozenset(
        feature.field for name in asked.impute for feature in by_column.get(name, ()) if feature.kind in MODELLED
    )
    if not asked.rebalance:
        return Weighing(weights=None, complete=complete)
    weights = np.ones(table.num_rows)
    shares = []
    for name, wanted in asked.rebalance.items():
        [feature] = by_column[name]
        column = table.column(feature.field)
        if feature.field in complete:
            weights[column.is_null().to_numpy()] = 0.0
        shares.append(_share(name, wanted, column))
    weights = _rake(weights, shares)
    if not weights.sum():  # nothing of what was asked for is there
        weights = np.ones(table.num_rows)
    unreached = tuple(_unreached(weights, shares))
    return Weighing(weights=weights * weights.sum() / (weights**2).sum(), complete=complete, unreached=unreached)


def _share(name: str, wanted: Mapping[str, float], column: pa.ChunkedArray[pa.StringScalar]) -> _Share:
    known = count_values([column])
    places = place_values(column, [_as_known(value, known) for value in wanted])
    rest = max(0.0, 1.0 - sum(wanted.values()))
    return _Share(name, tuple(wanted), np.minimum(places, len(wanted)), np.array([*wanted.values(), rest]))


def _as_known(value: str, known: Mapping[str, int]) -> str:
    """A value as the source's texts have it: 2 may stand there as 2.0."""
    if value in known or (number := _number(value)) is None:
        return value
    return next((text for text in known if _number(text) == number), value)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _rake(weights: Weights, shares: Sequence[_Share]) -> Weights:
    for _ in range(ROUNDS):
        furthest = 0.0
        for share in shares:
            there = np.bincount(share.codes, weights=weights, minlength=len(share.targets))
            targets = np.where(there > 0, share.targets, 0.0)
            if not targets.sum():
                continue  # none of its values is there: it cannot be brought to anything
            targets *= there.sum() / targets.sum()
            factors = np.divide(targets, there, out=np.zeros_like(there), where=there > 0)
            furthest = max(furthest, float(np.abs(targets - there).max() / there.sum()))
            weights = weights * factors[share.codes]
        if furthest < _NEAR:
            break
    return weights


def _unreached(weights: Weights, shares: Sequence[_Share]) -> list[Unreached]:
    found = []
    for share in shares:
        there = np.bincount(share.codes, weights=weights, minlength=len(share.targets)) / weights.sum()
        found += [
            Unreached(column=share.column, value=value, asked=float(target), reached=float(reached))
            for value, target, reached in zip(share.values, share.targets, there, strict=False)
            if abs(target - reached) > _FAR
        ]
    return found
