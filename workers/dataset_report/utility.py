"""What a model learns from a dataset: train on synthetic, test on real, beside train on real.

Esteban, Hyland and Raetsch, "Real-valued (Medical) Time Series Generation with Recurrent Conditional GANs", 2017,
https://arxiv.org/abs/1706.02633.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import r2_score

from workers.dataset_report.figures import PairFigures, Score, Utility
from workers.dataset_report.matrices import Matrix, fill_unknown, tree_matrices
from workers.dataset_report.ranking import auc
from workers.dataset_report.tables import Feature
from workers.dataset_report.values import count_values, place_values

MOST_TRAINING: Final = 10_000
MOST_TEST: Final = 5000
LEAST_TRAINING: Final = 50
LEAST_TEST: Final = 20
FITS: Final = 3
"""Of each table, on different draws of its rows."""
TREES: Final = 60
MOST_CLASSES: Final = 10
LEAST_OF_CLASS: Final = 5
"""Held-out rows, and training rows, that a class must have."""
DRAWS: Final = 100
"""Of the held-out rows, for the interval of the ratio."""
_TEACHES: Final = 0.02
"""Real rows that reach less above guessing teach nothing that a ratio could be taken of."""


class Target(msgspec.Struct, frozen=True):
    """What is to be predicted."""

    feature: Feature
    why: str
    classes: tuple[str, ...]
    """Empty for a number."""


class NoTargetError(ValueError):
    """Utility cannot be measured; says why."""


def choose_target(
    features: Sequence[Feature], train: pa.Table, holdout: pa.Table, pairs: Sequence[PairFigures], given: str | None
) -> Target:
    """The target that is given, else the one that depends most on the other columns: of few classes, else a number.

    Raises:
        NoTargetError: there is none that a model could be tried on.
    """
    if len({feature.column for feature in features}) < 2:
        raise NoTargetError("a model needs two columns that it can learn from, or more")
    if train.num_rows < LEAST_TRAINING or holdout.num_rows < LEAST_TEST:
        raise NoTargetError(
            f"a model needs {LEAST_TRAINING} training rows and {LEAST_TEST} held-out rows; there are {train.num_rows} "
            f"and {holdout.num_rows}"
        )
    if given is not None:
        named = [feature for feature in features if feature.name == given]
        if not named:
            raise NoTargetError(f"the target {given!r} is no column that a model can learn")
        found = _as_target(named[0], train, holdout, "as the job says")
        if found is None:
            raise NoTargetError(
                f"the target {given!r} is neither a number nor of 2 to {MOST_CLASSES} classes with {LEAST_OF_CLASS} "
                "training rows and held-out rows each"
            )
        return found
    depends: dict[str, float] = {}
    for pair in pairs:
        for name in (pair.first, pair.second):
            depends[name] = max(depends.get(name, 0.0), pair.association_original or 0.0)
    why = "found: of its kind, the column that depends most on another"
    ordered = sorted(features, key=lambda feature: (feature.kind != "category", -depends.get(feature.name, 0.0)))
    for feature in ordered:
        if (found := _as_target(feature, train, holdout, why)) is not None:
            return found
    raise NoTargetError("no column is a number, or of few classes with enough rows each")


def _as_target(feature: Feature, train: pa.Table, holdout: pa.Table, why: str) -> Target | None:
    seen, unseen = (pc.drop_null(table.column(feature.field)) for table in (train, holdout))
    if feature.kind == "category":
        counts, others = count_values([seen]), count_values([unseen])
        classes = sorted(value for value, rows in counts.items() if rows >= LEAST_OF_CLASS)
        fits = 2 <= len(classes) <= MOST_CLASSES and all(others.get(value, 0) >= LEAST_OF_CLASS for value in classes)
        return Target(feature, why, tuple(classes)) if fits else None
    varies = pc.count_distinct(seen).as_py() > 2 and pc.count_distinct(unseen).as_py() > 2
    return Target(feature, why, ()) if varies and len(unseen) >= LEAST_TEST else None


def measure_utility(
    features: Sequence[Feature], target: Target, *, synthetic: pa.Table, train: pa.Table, holdout: pa.Table, seed: int
) -> Utility:
    """Fit models of boosted trees to as many synthetic as training rows, and try them on the held-out rows."""
    draws = np.random.default_rng(seed)
    others = [feature for feature in features if feature.column != target.feature.column]
    tables = [_with_target(table, target) for table in (synthetic, train, holdout)]
    tables[2] = tables[2].take(draws.permutation(tables[2].num_rows)[:MOST_TEST])
    rows = tree_matrices(others, tables)
    truths = [_answers(table, target) for table in tables]
    size = min(tables[0].num_rows, tables[1].num_rows, MOST_TRAINING) * 9 // 10  # so that draws differ
    test_rows, test_truth = rows[2], truths[2]
    categories = [feature.kind == "category" for feature in others]
    guesses = [
        [
            _fit_and_guess(table[chosen], truth[chosen], test_rows, categories, target, seed + fit)
            for fit in range(FITS)
            for chosen in [draws.permutation(len(table))[:size]]
        ]
        for table, truth in zip(rows[:2], truths[:2], strict=True)
    ]
    baseline = 0.5 if target.classes else 0.0
    scores = [[_score(guess, test_truth, target) for guess in fits] for fits in guesses]
    means = [np.mean(fits, axis=0) for fits in guesses]
    ratio = _ratio([_score(mean, test_truth, target) for mean in means], baseline)
    low, high = (None, None) if ratio is None else _interval(means, test_truth, target, baseline, draws)
    return Utility(
        target=target.feature.name,
        why=target.why,
        measure="AUC" if target.classes else "R2",
        baseline=baseline,
        synthetic=_over(scores[0]),
        real=_over(scores[1]),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        training_rows=size,
        test_rows=len(test_truth),
    )


def _with_target(table: pa.Table, target: Target) -> pa.Table:
    """The rows whose target is known; of classes, those that a model is asked about."""
    column = table.column(target.feature.field)
    if target.classes:
        return table.filter(pc.is_in(column, value_set=pa.array(target.classes, pa.string())))
    return table.filter(pc.is_valid(column))


def _answers(table: pa.Table, target: Target) -> Matrix:
    column = table.column(target.feature.field)
    if target.classes:
        return place_values(column, target.classes).astype(np.float64)
    answers: Matrix = column.to_numpy()
    return answers


def _fit_and_guess(
    rows: Matrix, truth: Matrix, test: Matrix, categories: list[bool], target: Target, seed: int
) -> Matrix:
    """Of each test row: the shares of the classes (rows, classes), or the number (rows, 1)."""
    test = test.copy()
    fill_unknown(rows, test)
    settings = {
        "max_iter": TREES,
        "categorical_features": categories,
        "early_stopping": False,
        "random_state": seed,
    }
    if not target.classes:
        if not len(truth):
            return np.zeros((len(test), 1))
        guess: Matrix = HistGradientBoostingRegressor(**settings).fit(rows, truth).predict(test)
        return guess[:, None]
    shares = np.zeros((len(test), len(target.classes)))
    known = np.unique(truth).astype(np.intp)
    if len(known) < 2:  # one class alone teaches to say nothing else
        shares[:, known] = 1.0
        return shares
    shares[:, known] = HistGradientBoostingClassifier(**settings).fit(rows, truth).predict_proba(test)
    return shares


def _score(guess: Matrix, truth: Matrix, target: Target) -> float:
    """R2, not below 0; or AUC, the mean over the classes, of each against the others."""
    if not target.classes:
        return max(0.0, float(r2_score(truth, guess[:, 0])))
    if len(target.classes) == 2:
        return auc(truth == 1, guess[:, 1])
    return float(np.mean([auc(truth == place, guess[:, place]) for place in range(len(target.classes))]))


def _ratio(scores: Sequence[float], baseline: float) -> float | None:
    """Of what synthetic rows teach to what real rows teach."""
    synthetic, real = scores
    if real - baseline < _TEACHES:
        return None
    return max(0.0, (synthetic - baseline) / (real - baseline))


def _interval(
    guesses: Sequence[Matrix], truth: Matrix, target: Target, baseline: float, draws: np.random.Generator
) -> tuple[float | None, float | None]:
    """The ratio in 95 of 100 draws of the test rows; both tables' models are tried on the same ones."""
    ratios = []
    for _ in range(DRAWS):
        chosen = _draw(truth, target, draws)
        ratio = _ratio([_score(guess[chosen], truth[chosen], target) for guess in guesses], baseline)
        if ratio is not None:
            ratios.append(ratio)
    if not ratios:
        return None, None
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def _draw(truth: Matrix, target: Target, draws: np.random.Generator) -> NDArray[np.intp]:
    """As many rows, with repetition; of each class as many as there are, so that none is absent."""
    if not target.classes:
        return draws.integers(0, len(truth), len(truth))
    places = [np.flatnonzero(truth == place) for place in range(len(target.classes))]
    return np.concatenate([draws.choice(rows, len(rows)) for rows in places])


def _over(scores: Sequence[float]) -> Score:
    return Score(mean=float(np.mean(scores)), low=min(scores), high=max(scores))
