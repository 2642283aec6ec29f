"""What a report holds: plain figures, written as JSON. Shares, accuracies and AUCs are from 0 to 1."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

SCHEMA_VERSION: Final = 1
Level = Literal["good", "fair", "weak"]
FeatureKind = Literal["category", "number", "moment", "text", "key"]
"""What a report takes a column for: `moment` is a date or time in seconds since 1970, `key` an id."""


class Figures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all of these have in common."""


class Remark(Figures, frozen=True, kw_only=True):
    """A sentence about the dataset, in plain words."""

    level: Level
    subject: str
    text: str


class Shape(Figures, frozen=True, kw_only=True):
    """How a column's values are spread: the share of rows in each bin. Shares of a table sum to 1, missing ones in."""

    labels: tuple[str, ...]
    original: tuple[float, ...] = ()
    """Empty where there is no source."""
    synthetic: tuple[float, ...]


class Curve(Figures, frozen=True, kw_only=True):
    """A histogram of numbers: shares of the values that are there, in bins of equal width from `low` to `high`.

    The range leaves out the outermost hundredth at either end, so that nobody's extreme value shows.
    """

    low: float
    high: float
    original: tuple[float, ...] = ()
    synthetic: tuple[float, ...]


class ColumnFigures(Figures, frozen=True, kw_only=True):
    """A column of the dataset, beside that of its source where there is one."""

    name: str
    kind: FeatureKind
    distinct: int
    """Different values in all rows."""
    missing: float
    """Share of all rows."""
    missing_original: float | None = None
    accuracy: float | None = None
    """1 minus half the L1 distance between the shares of `shape`; None for text and ids."""
    accuracy_expected: float | None = None
    """What a fresh sample of the source of the same size would reach: sampling noise keeps it below 1."""
    shape: Shape | None = None
    curve: Curve | None = None


class PairFigures(Figures, frozen=True, kw_only=True):
    """Two columns together."""

    first: str
    second: str
    accuracy: float | None = None
    accuracy_expected: float | None = None
    association: float
    """Cramer's V of the binned columns, corrected for bias: 0 where they are independent."""
    association_original: float | None = None
    table: tuple[tuple[float, ...], ...] | None = None
    """Shares by bin of the first and of the second column, for the pairs that the page shows."""
    table_original: tuple[tuple[float, ...], ...] | None = None


class Fidelity(Figures, frozen=True, kw_only=True):
    """How like its source a dataset is."""

    accuracy: float
    """The mean of those below that there are."""
    accuracy_expected: float
    """What a fresh sample of the source of the same size would reach."""
    univariate: float
    bivariate: float | None
    trivariate: float | None
    univariate_expected: float
    bivariate_expected: float | None
    trivariate_expected: float | None
    rows_per_subject: float | None = None
    rows_per_subject_expected: float | None = None
    """Of a linked table: how many rows a subject has."""
    coherence: float | None = None
    coherence_expected: float | None = None
    """Of a linked table: the mean over the columns, of a row's value with that of the next row of its subject."""
    with_parent: float | None = None
    with_parent_expected: float | None = None
    """Of a linked table: the mean over pairs of one of its columns and one of its parent's."""
    association_error: float | None
    """Mean absolute difference of the pairs' associations."""
    told_apart: float | None
    """AUC of a classifier that tells its rows from the source's, on rows that it has not seen: 0.5 is chance."""
    told_apart_error: float | None
    """Standard error of that."""
    told_apart_by: str | None = None
    """The column that the classifier leans on most, where it does better than chance."""


class Score(Figures, frozen=True, kw_only=True):
    """A figure over several fits."""

    mean: float
    low: float
    high: float
    """The lowest and the highest of the fits."""


class Utility(Figures, frozen=True, kw_only=True):
    """What a model learns from the dataset, tried on real rows that it has not seen, beside one that learns from real.

    Train on synthetic, test on real: Esteban, Hyland and Raetsch, 2017, https://arxiv.org/abs/1706.02633.
    """

    target: str
    why: str
    """Why this target."""
    measure: Literal["AUC", "R2"]
    baseline: float
    """What guessing reaches."""
    synthetic: Score
    real: Score
    ratio: float | None
    """(synthetic - baseline) / (real - baseline), of the fits' mean guesses, not below 0; None where the real rows
    teach nothing either."""
    ratio_low: float | None
    ratio_high: float | None
    """Of 95 in 100 draws of the held-out rows."""
    training_rows: int
    """Of either table: as many synthetic as real."""
    test_rows: int


class Closeness(Figures, frozen=True, kw_only=True):
    """Distances of the dataset's rows to the closest training row and to the closest held-out row."""

    share: float
    """Share of rows closer to a training row, as if there were as many held-out rows; 0.5 is chance."""
    error: float
    """Standard error of the share, were training and held-out rows no different."""
    median_training: float
    median_holdout: float
    low_training: float
    low_holdout: float
    """The 5th percentiles. These and the curve are of as many training as held-out rows."""
    rows: int
    """Of the dataset, that were measured."""
    training_rows: int
    holdout_rows: int
    """To which they were."""
    curve: Curve
    """`original`: distances to held-out rows. `synthetic`: distances to training rows."""


class Membership(Figures, frozen=True, kw_only=True):
    """How well somebody who has the dataset tells who was in the training rows: by the distance to its closest row."""

    auc: float
    error: float
    """Standard error of an AUC of 0.5 with so many rows."""
    rows: int
    """Training rows, and held-out rows, that were guessed."""


class Copied(Figures, frozen=True, kw_only=True):
    """Values of a column of free text or of ids that stand in the source."""

    column: str
    values: int
    """That the dataset has, missing ones left out."""
    copied: int
    share: float


class SmallGroups(Figures, frozen=True, kw_only=True):
    """Values, or pairs of values, of categorical columns that fewer than `least` rows of the training table share."""

    least: int
    values: int
    values_shown: int
    """How many of them the dataset has."""
    pairs: int
    pairs_shown: int
    pairs_shown_holdout: int | None
    """How many of the pairs the held-out rows have: what real rows of the same origin show by chance."""
    pair_columns: int
    """Pairs of columns that were looked at."""
    rows: int
    """Rows of the dataset that hold such a value."""
    columns: tuple[str, ...]
    """In which such values show."""


class Privacy(Figures, frozen=True, kw_only=True):
    """Whether the dataset gives its source's rows away. Text and ids are compared apart, in `copied`."""

    identical: float
    """Share of rows that equal a training row in every modelled column. Every row is looked at."""
    identical_rows: int
    identical_holdout: float | None
    """Share of held-out rows that equal a training row: what real rows of the same origin have by chance."""
    closeness: Closeness | None
    membership: Membership | None
    small_groups: SmallGroups | None
    copied: tuple[Copied, ...]


class Phrase(Figures, frozen=True, kw_only=True):
    """Lengths: quantiles over rows."""

    least: float
    median: float
    high: float
    """The 95th percentile."""
    most: float


class TextFigures(Figures, frozen=True, kw_only=True):
    """A column of free text."""

    column: str
    rows: int
    """That were looked at."""
    empty: float
    characters: Phrase
    words: Phrase
    """Words, and each Chinese or Japanese character as one."""
    lengths: Curve
    """Of characters."""
    distinct: tuple[float, ...]
    """Of runs of 1, 2 and 3 words, the share that is different (distinct-n: Li et al., 2016,
    https://arxiv.org/abs/1510.03055); it falls as more rows are looked at."""
    distinct_rows: int
    repeated: float
    """Share of texts that stand more than once."""
    similarity: float | None
    """Mean cosine similarity of a text to the nearest other one, by runs of 3 to 5 characters; 1 is the same text."""
    near: float | None
    """Share of texts with another at a similarity of `NEAR` or more."""
    openings: float
    """Share of texts that begin with the most frequent three words."""


class Unreached(Figures, frozen=True, kw_only=True):
    """A share that the rows of the source cannot be weighted to: too few of them, or none, have the value."""

    column: str
    value: str
    asked: float
    reached: float


class Asked(Figures, frozen=True, kw_only=True):
    """In what a dataset was asked to differ from its source."""

    where: dict[str, Any] = {}  # a cell is any JSON
    """The value that a column has in every row."""
    rebalance: dict[str, dict[str, float]] = {}
    """By column of categories, the shares of some of its values, of 1; the others keep their proportions."""
    impute: tuple[str, ...] = ()
    """Columns in which no value is missing."""

    def __bool__(self) -> bool:
        """Whether anything was."""
        return bool(self.where or self.rebalance or self.impute)


class Comparison(Figures, frozen=True, kw_only=True):
    """What of the source a dataset is compared with that was asked to differ from it."""

    asked: Asked
    effective_rows: float | None
    """Of a re-balanced dataset: so many rows of equal weight would say as much as the weighted ones of the source."""
    unreached: tuple[Unreached, ...]
    """Where the comparison is not with what was asked for."""
    nothing_alike: bool = False
    """Whether the source has no row as `where` asks: the dataset is then described alone."""


class LinkedFigures(Figures, frozen=True, kw_only=True):
    """How the rows of a linked table belong to subjects: those with one foreign key are one subject's sequence."""

    foreign_key: str
    subjects: int
    """In all of the dataset's rows; where there is a parent, its rows, also those that nothing belongs to."""
    subjects_original: int | None
    orphans: int | None
    """Rows of the dataset whose key is none of its parent's; None where there is no parent."""
    integrity: float | None
    """Share of rows whose key is one of its parent's: anything but 1 is a defect."""
    mean_rows: float
    """Of a subject."""
    mean_rows_original: float | None
    rows_per_subject: ColumnFigures
    """How many rows a subject has, as if it were a column of the subjects."""
    coherence: tuple[PairFigures, ...]
    """Of each column: its value in a row (`first`), and in the next row of the sequence (`second`)."""
    with_parent: tuple[PairFigures, ...]
    """A column of the parent's (`first`), and one of the rows (`second`)."""
    shapes: dict[str, Shape]
    """Of the parent's columns, for the bins of `with_parent`."""


class Report(Figures, frozen=True, kw_only=True):
    """Everything about a dataset."""

    schema_version: int = SCHEMA_VERSION
    name: str
    rows: int
    sampled_rows: int
    """Rows that distributions, distances and models were computed from; drawn by `seed`."""
    seed: int
    training_rows: int | None
    holdout_rows: int | None
    comparison: Comparison | None = None
    """Where the dataset was asked to differ from its source."""
    repeated: float
    """Share of all rows that equal an earlier row of the dataset in every column but ids."""
    columns: tuple[ColumnFigures, ...]
    pairs: tuple[PairFigures, ...]
    fidelity: Fidelity | None
    utility: Utility | None
    no_utility: str | None
    """Why utility was not measured."""
    privacy: Privacy | None
    linked: LinkedFigures | None = None
    texts: tuple[TextFigures, ...]
    remarks: tuple[Remark, ...]

    def json(self) -> bytes:
        """As JSON, with a newline at the end."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    def html(self, held: tuple[str, ...] = ()) -> bytes:
        """As one page of HTML that needs nothing else: styles and figures are inside, no script is.

        Args:
            held: What holds the dataset back (`gate.check_gate`), to stand at the top.
        """
        from workers.dataset_report.page import page_of  # noqa: PLC0415 - whoever reads figures needs no template

        return page_of(self, held)
