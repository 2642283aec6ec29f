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
from workers.dataset_report.values import Codes
from workers.dataset_report.weighing import AS_IT_IS, Weighing

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


def tell_apart(
    features: Sequence[Feature],
    original: pa.Table,
    synthetic: pa.Table,
    seed: int,
    weighing: Weighing = AS_IT_IS,
    subjects: tuple[Codes, ...] | None = None,
) -> Told | None:
    """Train on one half of either table, try on the other; None where a table is too small for that.

    Rows of the source in which a value is missing that is not to be missing take no part; the others weigh what
    `weighing` says. Where rows belong to `subjects` (of either table's rows, by number), the halves are of these, or it
    would be told who they are.
    """
    counting = np.ones(original.num_rows) if weighing.weights is None else weighing.weights
    for field in weighing.complete:
        counting = np.where(original.column(field).is_null(nan_is_null=True).to_numpy(), 0.0, counting)
    chosen = np.flatnonzero(counting)
    size = min(len(chosen), synthetic.num_rows, MOST_ROWS)
    if size < LEAST_ROWS or not features:
        return None
    draws = np.random.default_rng(seed)
    chosen = chosen[draws.permutation(len(chosen))[:size]]
    made = draws.permutation(synthetic.num_rows)[:size]
    tables = [original.take(chosen), synthetic.take(made)]
    rows = np.vstack(tree_matrices(features, tables))
    truth = np.repeat([0, 1], size)
    weights = np.concatenate([counting[chosen] / counting[chosen].mean(), np.ones(size)])
    odd = np.arange(2 * size) % 2 == 1
    if subjects is not None:
        odd = np.concatenate([subjects[0][chosen], subjects[1][made]]) % 2 == 1
        if min(np.bincount(2 * truth + odd, minlength=4)) < LEAST_ROWS // 2:
            return None
    learned, tried, answers = rows[odd], rows[~odd], truth[~odd]
    weighty = weights[~odd][answers == 0]
    worth = float(weighty.sum() ** 2 / (weighty**2).sum())
    if worth < LEAST_ROWS / 2:
        return None
    fill_unknown(learned, tried)
    categories = [feature.kind == "category" for feature in features]
    model = HistGradientBoostingClassifier(
        max_iter=TREES, categorical_features=categories, early_stopping=False, random_state=seed
    ).fit(learned, truth[odd], sample_weight=weights[odd])

    def reached() -> float:
        return auc(answers == 1, model.predict_proba(tried)[:, 1], weights[~odd])

    area, error = reached(), chance_error(worth, float((answers == 1).sum()))
    if subjects is not None:  # so many rows say no more than as many subjects
        of_rows = np.concatenate([subjects[0][chosen], subjects[1][made]])[~odd]
        sizes = [len(np.unique(of_rows[answers == side])) for side in (0, 1)]
        error = max(error, chance_error(*sizes))
    if area < 0.5 + _CLEAR * error:
        return Told(area, error, None)
    without: list[float] = []
    for place in range(len(features)):
        kept = tried[:, place].copy()
        tried[:, place] = draws.permutation(kept)
        without.append(reached())
        tried[:, place] = kept
    return Told(area, error, features[int(np.argmin(without))].name)
