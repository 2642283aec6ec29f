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
from sklearn.neighbors import NearestNeighbors

from workers.dataset_report.bins import LEAST_SHARED
from workers.dataset_report.curves import histogram
from workers.dataset_report.figures import Closeness, Membership
from workers.dataset_report.matrices import Points, distance_matrices
from workers.dataset_report.ranking import auc, chance_error
from workers.dataset_report.tables import Feature

MOST_QUERIES: Final = 5000
MOST_REFERENCES: Final = 10_000
LEAST_ROWS: Final = 20
"""Of a table, below which distances say nothing."""
_TIE: Final = 1e-5
"""Distances that differ by less are one: they are of 32-bit numbers."""


def measure_distances(
    features: Sequence[Feature], *, synthetic: pa.Table, train: pa.Table, holdout: pa.Table, seed: int
) -> tuple[Closeness, Membership] | None:
    """Both figures; None where a table has fewer than `LEAST_ROWS` rows, or no column is modelled."""
    if not features or min(synthetic.num_rows, train.num_rows, holdout.num_rows) < LEAST_ROWS:
        return None
    draws = np.random.default_rng(seed)
    drawn = [
        table.take(draws.permutation(table.num_rows)[:most])
        for table, most in ((synthetic, MOST_REFERENCES), (train, MOST_REFERENCES), (holdout, MOST_REFERENCES))
    ]
    made, members, others = distance_matrices(features, drawn)
    closeness = _closeness(made[:MOST_QUERIES], members, others)
    size = min(len(members), len(others), MOST_QUERIES)
    return closeness, _membership(made, members[:size], others[:size])


def _closeness(made: Points, members: Points, others: Points) -> Closeness:
    """Is a row's closest record a member? Were members and others no different, their numbers alone would decide.

    The share of rows closest to a member is then `chance`, and its variance that of drawing each reference's kind
    apart, where a reference counts for all the rows that it is the closest of. Both are brought to the scale of as many
    members as others by the ratio of the odds.
    """
    to_members, closest_member = _nearest(members, made)
    to_others, closest_other = _nearest(others, made)
    chance = len(members) / (len(members) + len(others))
    tied = np.abs(to_members - to_others) < _TIE
    share = float(np.where(tied, chance, to_members < to_others).mean())
    closest = np.where(to_members < to_others, closest_member, len(members) + closest_other)
    weights = np.bincount(closest[~tied], minlength=len(members) + len(others)) / len(made)
    size = min(len(members), len(others))
    near, far = _nearest(members[:size], made)[0], _nearest(others[:size], made)[0]
    return Closeness(
        share=share * (1 - chance) / (share * (1 - chance) + (1 - share) * chance),
        error=float(np.sqrt((weights**2).sum() / (chance * (1 - chance))) / 4),
        median_training=float(np.median(near)),
        median_holdout=float(np.median(far)),
        low_training=float(np.percentile(near, 5)),
        low_holdout=float(np.percentile(far, 5)),
        rows=len(made),
        training_rows=len(members),
        holdout_rows=len(others),
        curve=histogram([far, near], LEAST_SHARED),
    )


def _membership(made: Points, members: Points, others: Points) -> Membership:
    distances = np.concatenate([_nearest(made, members)[0], _nearest(made, others)[0]])
    # Equal up to rounding is equal: an attacker cannot lean on the last bit.
    distances = np.round(distances / _TIE)
    member = np.arange(len(distances)) < len(members)
    return Membership(
        auc=auc(member, -distances),
        error=chance_error(len(members), len(others)),
        rows=len(members),
    )


def _nearest(points: Points, queries: Points) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Of each query the distance to the closest point, and which that is."""
    index = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(points)
    _, places = index.kneighbors(queries)
    exact = np.linalg.norm(points[places[:, 0]].astype(np.float64) - queries, axis=1)  # brute force rounds near 0
    return exact, places[:, 0]
