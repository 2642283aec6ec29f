"""The area under the ROC curve: how often a positive row ranks above a negative one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def auc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Share of pairs of a positive and a negative row in which the positive one scores higher, ties counted half.

    There is at least one row of either kind.
    """
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    wins = int(positive.sum())
    return float((ranks[positive].sum() - wins * (wins + 1) / 2) / (wins * (len(scores) - wins)))


def chance_error(first: int, second: int) -> float:
    """Standard error of the AUC of a guess, with so many rows of either kind (that of Mann and Whitney's U)."""
    return float(np.sqrt((first + second + 1) / (12 * first * second)))
