"""Histograms of numbers for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from workers.dataset_report.figures import Curve

STEPS: Final = 32


def histogram(tables: Sequence[NDArray[np.float64]], beyond: int, weights: NDArray[np.float64] | None = None) -> Curve:
    """One or two tables' numbers (the source's first) in `STEPS` bins of equal width.

    `weights` are those of the first table's rows, where they differ.

    The range is the first table's without its outermost hundredths, and leaves at least `beyond` of its values on
    either side where it has so many; what lies outside counts for the first or the last bin. NaN is left out.
    """
    known = [~np.isnan(values) for values in tables]
    there = [values[chosen] for values, chosen in zip(tables, known, strict=True)]
    weighing = [None] * len(tables) if weights is None else [weights[known[0]], *[None] * (len(tables) - 1)]
    low, high = _range(np.sort(there[0]) if len(there[0]) else np.sort(there[-1]), beyond)
    edges = np.linspace(low, high, STEPS + 1)
    counts = [
        np.histogram(values.clip(low, high), edges, weights=own)[0] for values, own in zip(there, weighing, strict=True)
    ]
    shares = [tuple(round(float(share), 5) for share in each / (each.sum() or 1)) for each in counts]
    return Curve(low=low, high=high, original=shares[0] if len(shares) > 1 else (), synthetic=shares[-1])


def _range(ordered: NDArray[np.float64], beyond: int) -> tuple[float, float]:
    if not len(ordered):
        return 0.0, 1.0
    skip = min(max(beyond, len(ordered) // 100), (len(ordered) - 1) // 2)
    low, high = float(ordered[skip]), float(ordered[-1 - skip])
    if low < high:
        return low, high
    width = abs(low) * 0.05 or 0.5
    return low - width, low + width
