"""Whether the rows of a dataset lie closer to the rows that its model was fitted to than to others of the same origin.

Distance to the closest record, against a holdout: Platzer and Reutterer, "Holdout-Based Empirical Assessment of
Mixed-Type Synthetic Data", 2021, https://doi.org/10.3389/fdata.2021.679939. The attack by distance: Chen et al.,
"GAN-Leaks", 2020, https://arxiv.org/abs/1909.03935, with no access to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from workers.dataset_report.bins import LEAST_SHARED
from workers.dataset_report.curves import histogram
from workers.dataset_report.figures import Closeness, Membership
from workers.dataset_report.matrices import distance_matrices
from workers.dataset_report.tables import Feature
from workers.dataset_report.told_apart import chance_error

MOST_QUERIES: Final = 5000
MOST_REFERENCES: Final = 10_000
LEAST_ROWS: Final = 20
"""Of a table, below which distances say nothing."""
_TIE: Final = 1e-5
"""Distances that differ by less are one: they are of 32-bit numbers."""

Points = NDArray[np.float32]


def measure_distances(
    features: Sequence[Feature], *, synthetic: pa.Table, train: pa.Table, holdout: pa.Table, seed: int
) -> tuple[Closeness, Membership] | None:
    """Both figures; None where a table has fewer than `LEAST_ROWS` rows, or no column is modelled."""
    if not features or min(synthetic.num_rows, train.num_rows, holdout.num_rows) < LEAST_ROWS:
        return None
    draws = np.random.default_rng(seed)
    size = min(train.num_rows, holdout.num_rows, MOST_REFERENCES)
    drawn = [
        table.take(draws.permutation(table.num_rows)[:most])
        for table, most in ((synthetic, MOST_REFERENCES), (train, size), (holdout, size))
    ]
    made, members, others = distance_matrices(features, drawn)
    closeness = _closeness(made[:MOST_QUERIES], members, others)
    return closeness, _membership(made, members[:MOST_QUERIES], others[:MOST_QUERIES])


def _closeness(made: Points, members: Points, others: Points) -> Closeness:
    """Is a row's closest record a member? Were members and others no different, it would be a throw of a coin.

    The error is that of throwing a coin for each reference, which counts for all the rows that it is the closest of.
    """
    to_members, closest_member = _nearest(members, made)
    to_others, closest_other = _nearest(others, made)
    tied = np.abs(to_members - to_others) < _TIE
    closer = np.where(tied, 0.5, to_members < to_others)
    closest = np.where(to_members < to_others, closest_member, len(members) + closest_other)
    weights = np.bincount(closest[~tied], minlength=2 * len(members)) / len(made)
    bounds = histogram([to_others, to_members], LEAST_SHARED)
    return Closeness(
        share=float(closer.mean()),
        error=float(np.sqrt((weights**2).sum()) / 2),
        median_training=float(np.median(to_members)),
        median_holdout=float(np.median(to_others)),
        low_training=float(np.percentile(to_members, 5)),
        low_holdout=float(np.percentile(to_others, 5)),
        rows=len(made),
        references=len(members),
        curve=bounds,
    )


def _membership(made: Points, members: Points, others: Points) -> Membership:
    distances = np.concatenate([_nearest(made, members)[0], _nearest(made, others)[0]])
    # Equal up to rounding is equal: an attacker cannot lean on the last bit.
    distances = np.round(distances / _TIE)
    truth = np.repeat([1, 0], [len(members), len(others)])
    return Membership(
        auc=float(roc_auc_score(truth, -distances)),
        error=chance_error(len(members), len(others)),
        rows=len(members),
    )


def _nearest(points: Points, queries: Points) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Of each query the distance to the closest point, and which that is."""
    index = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(points)
    distances, places = index.kneighbors(queries)
    exact = np.linalg.norm(points[places[:, 0]].astype(np.float64) - queries, axis=1)  # brute force rounds near 0
    return exact, places[:, 0]
