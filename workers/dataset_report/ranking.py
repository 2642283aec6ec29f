"""The area under the ROC curve: how often a positive row ranks above a negative one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def auc(positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> float:
    """Share of pairs of a positive and a negative row in which the positive one scores higher, ties counted half.

    There is at least one row of either kind. A pair weighs what the weights of its rows come to, multiplied.
    """
    _, places = np.unique(scores, return_inverse=True)
    weighing = np.ones(len(scores)) if weights is None else weights
    wins = np.bincount(places[positive], weights=weighing[positive], minlength=places.max() + 1)
    losses = np.bincount(places[~positive], weights=weighing[~positive], minlength=places.max() + 1)
    below = np.cumsum(losses) - losses / 2
    return float((wins * below).sum() / (wins.sum() * losses.sum()))


def chance_error(first: float, second: float) -> float:
    """Standard error of the AUC of a guess, with so many rows of either kind (that of Mann and Whitney's U)."""
    return float(np.sqrt((first + second + 1) / (12 * first * second)))
