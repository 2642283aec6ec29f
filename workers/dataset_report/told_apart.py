"""Whether a classifier tells the rows of a dataset from those of its source.

Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests", 2017, https://arxiv.org/abs/1610.06545.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
from sklearn.ensemble import HistGradientBoostingClassifier

from workers.dataset_report.matrices import fill_unknown, tree_matrices
from workers.dataset_report.ranking import auc, chance_error
from workers.dataset_report.tables import Feature

MOST_ROWS: Final = 5000
"""Of either table."""
LEAST_ROWS: Final = 50
TREES: Final = 60
_CLEAR: Final = 4.0
"""So many standard errors from chance, what gives a dataset away is worth naming."""


class Told(msgspec.Struct, frozen=True):
    """What the classifier reached on rows that it had not seen."""

    auc: float
    error: float
    by: str | None
    """The column without whose values it does worst, where it does better than chance."""


def tell_apart(features: Sequence[Feature], original: pa.Table, synthetic: pa.Table, seed: int) -> Told | None:
    """Train on one half of either table, try on the other; None where a table is too small for that."""
    size = min(original.num_rows, synthetic.num_rows, MOST_ROWS)
    if size < LEAST_ROWS or not features:
        return None
    draws = np.random.default_rng(seed)
    tables = [table.take(draws.permutation(table.num_rows)[:size]) for table in (original, synthetic)]
    rows = np.vstack(tree_matrices(features, tables))
    truth = np.repeat([0, 1], size)
    odd = np.arange(2 * size) % 2 == 1
    learned, tried, answers = rows[odd], rows[~odd], truth[~odd]
    fill_unknown(learned, tried)
    categories = [feature.kind == "category" for feature in features]
    model = HistGradientBoostingClassifier(
        max_iter=TREES, categorical_features=categories, early_stopping=False, random_state=seed
    ).fit(learned, truth[odd])

    def reached() -> float:
        return auc(answers == 1, model.predict_proba(tried)[:, 1])

    area, error = reached(), chance_error(size // 2, size // 2)
    if area < 0.5 + _CLEAR * error:
        return Told(area, error, None)
    without: list[float] = []
    for place in range(len(features)):
        kept = tried[:, place].copy()
        tried[:, place] = draws.permutation(kept)
        without.append(reached())
        tried[:, place] = kept
    return Told(area, error, features[int(np.argmin(without))].name)
