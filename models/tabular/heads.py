"""What a network says of one column: a code out of a few, and for numbers where in that code's mode they lie.

Mode-specific normalisation of numbers: Xu et al., 2019, "Modeling Tabular data using Conditional GAN",
https://arxiv.org/abs/1907.00503, section 4.2. A variational mixture of Gaussians (Bishop, 2006, section 10.2) finds a
column's modes; a number is one of them and a scalar within it. Numbers that come again and again (a zero of most rows)
are modes without width, and a missing value is a mode as well.

Nobody is given away: a category that fewer than `LEAST` rows have is learned, with others like it, as "rare", and never
sampled; numbers beyond the `LEAST`-th lowest and highest become those.
"""

from __future__ import annotations

import warnings
from typing import Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

from models.tabular.columns import Column, Values
from models.tabular.scales import Scale, find_scale, is_missing

LEAST: Final = 5
"""Rows that must share a value before it is shown."""
FEW: Final = 20
"""Different numbers up to so many are categories to the network, whatever the column's kind."""
MOST_VALUES: Final = 1000
"""Categories kept; those of fewer rows are rare."""
MOST_MODES: Final = 10
MOST_POINTS: Final = 5
POINT_SHARE: Final = 0.1
"""The share of rows from which a single number is a mode of its own."""
LEAST_WEIGHT: Final = 0.005
"""A mode of less weight, or of fewer than `LEAST` rows, is left out."""
FITTED_ROWS: Final = 10_000
"""Rows, drawn at random, that modes are found from."""
REACH: Final = 4.0
"""Standard deviations of a mode that the scalar -1 to 1 spans, each way."""

Codes: TypeAlias = NDArray[np.int64]
Scalars: TypeAlias = NDArray[np.float32]


class Levels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="levels"):
    """A column of categories. Codes: the values, then rare ones, then a missing one, where there are such."""

    values: tuple[str, ...]
    """As Arrow writes them as texts, the most frequent first."""
    counts: tuple[int, ...]
    """Rows of each code."""
    rare: bool = False
    missing: bool = False
    nearest: bool = False
    """Whether they are numbers, so that a rare one is taken for the nearest."""

    @property
    def width(self) -> int:
        """Number of codes."""
        return len(self.counts)

    @property
    def missing_code(self) -> int | None:
        """The code of a missing value; None where none is missing."""
        return self.width - 1 if self.missing else None

    @property
    def rare_code(self) -> int | None:
        """The code that is never sampled; None where no value is rare."""
        return len(self.values) if self.rare else None

    def encode(self, values: Values) -> Codes:
        """The code of each value."""
        kept = pa.array(self.values, pa.string()).cast(values.type)
        if self.nearest and len(kept):
            codes = self._nearest(values, kept)
        else:
            found: Values = pc.index_in(values, value_set=kept, skip_nulls=True)
            codes = found.fill_null(len(self.values)).to_numpy().astype(np.int64)
        if self.missing:
            codes[is_missing(values)] = self.width - 1
        return codes

    def decode(self, codes: Codes, column: Column) -> Values:
        """Values of the column's type; a rare code is an error of the caller."""
        assert self.rare_code is None or not (codes == self.rare_code).any()  # noqa: S101  # it would give one away
        places: Values = pa.array(codes, mask=codes >= len(self.values))
        return pa.array(self.values, pa.string()).cast(column.arrow_type).take(places)

    @staticmethod
    def _nearest(values: Values, kept: Values) -> Codes:
        numbers, targets = _floats(values), _floats(kept)
        order = np.argsort(targets)
        between = (targets[order][1:] + targets[order][:-1]) / 2
        nearest: Codes = order[np.searchsorted(between, np.nan_to_num(numbers))].astype(np.int64)
        return nearest


class Modes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="modes"):
    """A column of numbers. Codes: the modes, then single numbers, then a missing one, where one is."""

    scale: Scale
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    weights: tuple[float, ...]
    points: tuple[float, ...]
    low: float
    high: float
    """What is made lies between these."""
    missing: bool = False
    counts: tuple[int, ...] = ()
    """Rows of each code."""

    @property
    def width(self) -> int:
        """Number of codes."""
        return len(self.means) + len(self.points) + self.missing

    @property
    def missing_code(self) -> int | None:
        """The code of a missing value; None where none is missing."""
        return self.width - 1 if self.missing else None

    @property
    def rare_code(self) -> int | None:
        """None: numbers have none."""
        return None

    def encode(self, values: Values, column: Column, draws: np.random.Generator) -> tuple[Codes, Scalars]:
        """The code of each value, drawn from the modes' probabilities, and the scalar in its mode (0 outside one)."""
        numbers = self.scale.numbers(values, column)
        absent = np.isnan(numbers)
        clipped = np.clip(np.where(absent, self.low, numbers), self.low, self.high)
        codes, scalars = np.zeros(len(clipped), np.int64), np.zeros(len(clipped), np.float32)
        if self.means:
            off, likely = self._likely(clipped)
            codes = (likely + draws.gumbel(size=likely.shape)).argmax(1)
            scalars = np.clip(off[np.arange(len(codes)), codes] / REACH, -1, 1).astype(np.float32)
        for number, point in enumerate(self.points, len(self.means)):
            codes[clipped == point] = number
        if self.missing:
            codes[absent] = self.width - 1
        scalars[codes >= len(self.means)] = 0.0
        return codes, scalars

    def likeliest(self, number: float) -> int:
        """The code that a number most likely has."""
        if number in self.points or not self.means:
            return len(self.means) + (self.points.index(number) if number in self.points else 0)
        return int(self._likely(np.array([number]))[1].argmax())

    def _likely(self, numbers: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How many deviations each number is off each mode, and the logarithm of how likely it is there."""
        means, spreads = np.array(self.means), np.array(self.spreads)
        off = (numbers[:, None] - means) / spreads
        too_far = np.where(np.abs(off) > REACH, 1e6, 0.0)
        return off, np.log(self.weights) - np.log(spreads) - off**2 / 2 - too_far

    def decode(self, codes: Codes, scalars: Scalars, column: Column) -> Values:
        """Values of the column's type, on its grid and within its range."""
        return self.scale.values(self.numbers(codes, scalars), column)

    def numbers(self, codes: Codes, scalars: Scalars) -> NDArray[np.float64]:
        """Plain numbers within the column's range; NaN where missing."""
        centres = np.array([*self.means, *self.points, *([np.nan] if self.missing else [])])
        reaches = REACH * np.array([*self.spreads, *[0.0] * (self.width - len(self.means))])
        numbers: NDArray[np.float64] = np.clip(centres[codes] + reaches[codes] * scalars, self.low, self.high)
        return numbers


Head: TypeAlias = Levels | Modes


def find_levels(values: Values, *, nearest: bool = False) -> Levels | None:
    """The categories of a column; None where no value is in `LEAST` rows, and so none can be shown."""
    present = values.drop_null()
    counted = sorted(
        zip(*(part.to_pylist() for part in _counted(present)), strict=True), key=lambda pair: (-pair[1], pair[0])
    )
    kept = [(text, count) for text, count in counted if count >= LEAST][:MOST_VALUES]
    if not kept and len(present):
        return None
    rare = len(present) - sum(count for _, count in kept)
    missing = len(values) - len(present)
    return Levels(
        values=tuple(text for text, _ in kept),
        counts=(
            *(count for _, count in kept),
            *([rare] if rare and not nearest else []),
            *([missing] if missing else []),
        ),
        rare=bool(rare) and not nearest,
        missing=bool(missing),
        nearest=nearest,
    )


def find_modes(values: Values, column: Column, seed: int) -> Modes:
    """The modes of a column of numbers. `seed` draws the rows that they are found from."""
    scale = find_scale(values, column)
    numbers = scale.numbers(values, column)
    present = np.sort(numbers[~np.isnan(numbers)])
    missing = len(present) < len(numbers)
    if not len(present):
        return Modes(
            scale=scale,
            means=(),
            spreads=(),
            weights=(),
            points=(),
            low=0.0,
            high=0.0,
            missing=True,
            counts=(len(values),),
        )
    place = min(LEAST - 1, (len(present) - 1) // 2)
    low, high = float(present[place]), float(present[len(present) - 1 - place])
    clipped = np.clip(present, low, high)
    single, counts = np.unique(clipped, return_counts=True)
    often = np.argsort(-counts, kind="stable")[:MOST_POINTS]
    points = sorted(float(single[at]) for at in often if counts[at] >= max(LEAST, POINT_SHARE * len(present)))
    if not points and low == high:
        points = [low]
    rest = clipped[~np.isin(clipped, points)]
    means, spreads, weights = _mixture(rest, seed) if len(rest) else ((), (), ())
    found = Modes(
        scale=scale,
        means=means,
        spreads=spreads,
        weights=weights,
        points=tuple(points),
        low=low,
        high=high,
        missing=missing,
    )
    codes, _ = found.encode(values, column, np.random.default_rng(seed))
    return msgspec.structs.replace(found, counts=tuple(np.bincount(codes, minlength=found.width).tolist()))


def _mixture(numbers: NDArray[np.float64], seed: int) -> tuple[tuple[float, ...], ...]:
    """Means, standard deviations and weights of the modes that count, in order of their means."""
    draws = np.random.default_rng(seed)
    chosen = numbers if len(numbers) <= FITTED_ROWS else draws.choice(numbers, FITTED_ROWS, replace=False)
    centre, spread = float(chosen.mean()), float(chosen.std()) or 1.0
    mixture = BayesianGaussianMixture(
        n_components=min(MOST_MODES, len(np.unique(chosen))),
        weight_concentration_prior=1e-3,
        max_iter=100,
        random_state=int(draws.integers(2**31)),
    )
    with warnings.catch_warnings():
        # Modes that are nearly found serve as well.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(((chosen - centre) / spread)[:, None])
    least = min(max(LEAST_WEIGHT, LEAST / len(chosen)), mixture.weights_.max())
    order = [at for at in np.argsort(mixture.means_[:, 0]) if mixture.weights_[at] >= least]
    return (
        tuple(float(centre + spread * mixture.means_[at, 0]) for at in order),
        tuple(float(spread * np.sqrt(mixture.covariances_[at, 0, 0])) for at in order),
        tuple(float(mixture.weights_[at]) for at in order),
    )


def _counted(values: Values) -> tuple[Values, Values]:
    """Values as texts, and how many rows have each."""
    counted = pc.value_counts(values)
    return counted.field("values").cast(pa.string()), counted.field("counts")


def _floats(values: Values) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers
