"""Makes the report of a dataset from local Parquet files. Imports duckdb, scikit-learn and no engine of models.

Memory is bounded whatever the size of the files: distributions, distances and models are computed from a sample of
`SAMPLE` rows that the seed draws; counts of equal rows, rare values and copied texts look at every row, on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa

from workers.dataset_report.bins import LEAST_SHARED, Binned, bin_feature
from workers.dataset_report.copies import copied_values, identical_rows, repeated_share, small_groups
from workers.dataset_report.curves import histogram
from workers.dataset_report.distances import measure_distances
from workers.dataset_report.fidelity import agree, compare_pairs, summarise
from workers.dataset_report.figures import (
    Asked,
    ColumnFigures,
    Comparison,
    PairFigures,
    Privacy,
    Report,
    TextFigures,
    Utility,
)
from workers.dataset_report.linked import number_subjects, shape_of
from workers.dataset_report.linked_files import LinkedFiles, one_row_each, read_linked, sample_rows
from workers.dataset_report.remarks import remarks_on
from workers.dataset_report.tables import MODELLED, SUBJECT, Feature, Tables, features_of
from workers.dataset_report.texts import describe_texts
from workers.dataset_report.told_apart import tell_apart
from workers.dataset_report.utility import NoTargetError, choose_target, measure_utility
from workers.dataset_report.values import Codes
from workers.dataset_report.weighing import AS_IT_IS, Weighing, weigh

SAMPLE: Final = 50_000
"""Rows of each table that are drawn, at most."""
TEXTS: Final = 10_000
"""Texts of each column that are drawn: they may be long."""
Files = Path | Sequence[Path]
AS_THE_SOURCE: Final = Asked()


class EmptyDatasetError(ValueError):
    """There is no row to report on."""


class _Asking(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a report."""

    asked: Asked
    linked: LinkedFiles | None
    target: str | None
    seed: int
    name: str
    sample: int
    nothing_alike: bool
    """Whether the source has no row as `asked.where` has it."""


class _Samples(msgspec.Struct, frozen=True, kw_only=True):
    """Rows in memory; of a linked table with `SUBJECT`, whole sequences in their order."""

    synthetic: pa.Table
    train: pa.Table | None
    holdout: pa.Table | None

    @property
    def original(self) -> pa.Table | None:
        """Training and held-out rows together: both are of the source."""
        there = [table for table in (self.train, self.holdout) if table is not None]
        return pa.concat_tables(there) if there else None

    def subjects(self) -> tuple[Codes, ...] | None:
        """Whose the rows of the source and of the dataset are, by number; None where each stands for itself."""
        if SUBJECT not in self.synthetic.column_names:
            return None
        there = [table for table in (self.original, self.synthetic) if table is not None]
        return tuple(number_subjects(table.column(SUBJECT)) for table in there)


def make_report(
    synthetic: Files,
    train: Files | None = None,
    holdout: Files | None = None,
    *,
    columns: Mapping[str, str],
    target: str | None = None,
    seed: int,
    name: str,
    asked: Asked = AS_THE_SOURCE,
    linked: LinkedFiles | None = None,
    sample: int = SAMPLE,
) -> Report:
    """The report of a dataset; the same files and arguments give the same report.

    Args:
        synthetic: Parquet files of the dataset.
        train: Those of the rows that its model was fitted to. None describes the dataset alone.
        holdout: Those of rows of the same origin that the model has not seen.
        columns: The kind of each column of the files (models/tabular/columns.py), in the order of the report.
        target: The column that a model learns to predict, for utility; one is looked for where it is None.
        seed: Draws samples and seeds models.
        name: Of the dataset, for the page.
        asked: In what it was asked to differ from its source. The rows of the source are weighted accordingly; those
            that are not as `where` has it are left out.
        linked: How rows belong to subjects; None where each stands for itself.
        sample: Rows of each table that are drawn into memory, at most; of a linked one, subjects with about so many.

    Raises:
        EmptyDatasetError: the dataset, or the training table, has no rows.
        ValueError: a column that is in one of the tables only, a kind that there is not, a holdout without a train
            table, a target that there is not. It says which.
    """
    if holdout is not None and train is None:
        raise ValueError("held-out rows are compared with training rows: give `train` as well")
    if target is not None and target not in columns:
        raise ValueError(f"the target {target!r} is no column; the columns are {', '.join(columns)}")
    foreign_key = None if linked is None else linked.foreign_key
    if foreign_key is not None and foreign_key not in columns:
        raise ValueError(f"the foreign key {foreign_key!r} is no column; the columns are {', '.join(columns)}")
    features = features_of({name: kind for name, kind in columns.items() if name != foreign_key})
    made = _files(synthetic)
    fitted = None if train is None else _files(train)
    with Tables(features, fitted or made, key=foreign_key) as tables:
        tables.add("synthetic", made)
        if fitted is not None:
            tables.add("train", fitted, asked.where)
        if holdout is not None:
            tables.add("holdout", _files(holdout), asked.where)
        if asked.where and tables.rows.get("train") == 0:
            tables.rows = {"synthetic": tables.rows["synthetic"]}
        for table in ("synthetic", "train"):
            if tables.rows.get(table) == 0:
                raise EmptyDatasetError(f"the {table} table of {name!r} has no rows: there is nothing to report on")
        nothing_alike = fitted is not None and "train" not in tables.rows
        asking = _Asking(
            asked=asked, linked=linked, target=target, seed=seed, name=name, sample=sample, nothing_alike=nothing_alike
        )
        return _report(tables, asking)


def _files(given: Files) -> list[Path]:
    return [given] if isinstance(given, Path) else list(given)


def _report(tables: Tables, asking: _Asking) -> Report:
    seed = asking.seed
    modelled = [feature for feature in tables.features if feature.kind in MODELLED]
    drawn = {
        name: sample_rows(tables, name, modelled, asking.sample, seed, asking.linked)
        for name in ("synthetic", "train", "holdout")
        if tables.rows.get(name)
    }
    samples = _Samples(synthetic=drawn["synthetic"], train=drawn.get("train"), holdout=drawn.get("holdout"))
    original = samples.original
    compared = [samples.synthetic] if original is None else [original, samples.synthetic]
    weighing = AS_IT_IS if original is None else weigh(modelled, asking.asked, original)
    subjects = samples.subjects()
    binned = [bin_feature(feature, compared, weighing, subjects) for feature in modelled]
    pairs = compare_pairs(binned, seed)
    linked = None
    if asking.linked is not None:
        linked = read_linked(tables, asking.linked, drawn, binned, asking.sample, seed)
    fidelity = None
    if original is not None and binned:
        told = tell_apart(modelled, original, samples.synthetic, seed, weighing, subjects)
        fidelity = summarise(binned, pairs, told, seed, linked)
    utility, no_utility = _utility(modelled, samples, pairs, asking.target, seed)
    report = Report(
        name=asking.name,
        rows=tables.rows["synthetic"],
        sampled_rows=samples.synthetic.num_rows,
        seed=seed,
        training_rows=tables.rows.get("train"),
        holdout_rows=tables.rows.get("holdout"),
        comparison=_comparison(asking, weighing) if asking.asked else None,
        repeated=repeated_share(tables, "synthetic"),
        columns=_columns(tables, binned, compared),
        pairs=pairs,
        fidelity=fidelity,
        utility=utility,
        no_utility=no_utility,
        privacy=None if samples.train is None else _privacy(tables, modelled, samples, seed),
        linked=linked,
        texts=_texts(tables, seed),
        remarks=(),
    )
    return msgspec.structs.replace(report, remarks=remarks_on(report))


def _comparison(asking: _Asking, weighing: Weighing) -> Comparison:
    return Comparison(
        asked=asking.asked,
        effective_rows=None if weighing.effective_rows is None else round(weighing.effective_rows, 1),
        unreached=weighing.unreached,
        nothing_alike=asking.nothing_alike,
    )


def _columns(tables: Tables, binned: Sequence[Binned], compared: Sequence[pa.Table]) -> tuple[ColumnFigures, ...]:
    by_place = {column.feature.place: column for column in binned}
    return tuple(_column(tables, feature, by_place.get(feature.place), compared) for feature in tables.features)


def _column(tables: Tables, feature: Feature, binned: Binned | None, compared: Sequence[pa.Table]) -> ColumnFigures:
    distinct, missing = tables.spread("synthetic", feature)
    sources = [name for name in ("train", "holdout") if name in tables.rows]
    gone = sum(tables.spread(name, feature)[1] for name in sources)
    figures = ColumnFigures(
        name=feature.name,
        kind=feature.kind,
        distinct=distinct,
        missing=missing / tables.rows["synthetic"],
        missing_original=gone / sum(tables.rows[name] for name in sources) if sources else None,
    )
    if binned is None:
        return figures
    values = [table.column(feature.field) for table in compared]
    if binned.weights is not None:
        missing_rows = binned.codes[0] == len(binned.labels) - 1
        of_all = float(binned.weights[missing_rows].sum() / binned.weights.sum())
        figures = msgspec.structs.replace(figures, missing_original=of_all)
    figures = msgspec.structs.replace(figures, shape=shape_of(binned))
    if feature.kind != "category":
        curve = histogram([column.to_numpy() for column in values], LEAST_SHARED, binned.weights)
        figures = msgspec.structs.replace(figures, curve=curve)
    if len(values) == 1:
        return figures
    agreed = agree((binned,))
    return msgspec.structs.replace(figures, accuracy=agreed.accuracy, accuracy_expected=agreed.expected)


def _utility(
    features: Sequence[Feature], samples: _Samples, pairs: Sequence[PairFigures], target: str | None, seed: int
) -> tuple[Utility | None, str | None]:
    """The figures, or why there are none."""
    if samples.train is None:
        return None, "there is no table to compare it with"
    if samples.holdout is None:
        return None, "there are no held-out rows to try a model on"
    try:
        chosen = choose_target(features, samples.train, samples.holdout, pairs, target)
    except NoTargetError as error:
        return None, str(error)
    measured = measure_utility(
        features, chosen, synthetic=samples.synthetic, train=samples.train, holdout=samples.holdout, seed=seed
    )
    return measured, None


def _privacy(tables: Tables, features: Sequence[Feature], samples: _Samples, seed: int) -> Privacy:
    holdout = "holdout" if samples.holdout is not None else None
    identical = identical_rows(tables, "synthetic", "train")
    measured = None
    if samples.train is not None and samples.holdout is not None:
        synthetic, train, others = (
            table if samples.subjects() is None else one_row_each(table, seed)  # rows of one subject are alike
            for table in (samples.synthetic, samples.train, samples.holdout)
        )
        measured = measure_distances(features, synthetic=synthetic, train=train, holdout=others, seed=seed)
    return Privacy(
        identical=identical / tables.rows["synthetic"],
        identical_rows=identical,
        identical_holdout=None if holdout is None else identical_rows(tables, holdout, "train") / tables.rows[holdout],
        closeness=None if measured is None else measured[0],
        membership=None if measured is None else measured[1],
        small_groups=small_groups(tables, "synthetic", "train", holdout),
        copied=copied_values(tables, "synthetic", ["train", *([holdout] if holdout else [])]),
    )


def _texts(tables: Tables, seed: int) -> tuple[TextFigures, ...]:
    found = []
    for feature in tables.features:
        if feature.kind == "text":
            values = tables.sample("synthetic", (feature,), TEXTS, seed).column(feature.field).to_pylist()
            found.append(describe_texts(feature.name, values, seed))
    return tuple(found)
