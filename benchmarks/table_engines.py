"""Engines of tables on real tables: how like the source, how useful, and how private what they make is.

Each engine is fitted to four fifths of a table and makes as many rows; the last fifth is held out, the same for all.
`bare` is mostlyai-engine as its own interface runs it (`TabularARGN.fit` and `sample`), on the same split. Figures are
those of a dataset's report (workers/dataset_report); with --qa mostlyai-qa's own stand beside them.

- accuracy: of the columns, pairs and triples, in ten bins; next to it what a fresh sample of the source would reach.
- told apart: AUC of a classifier that tells made rows from real ones.
- utility: what a model learns from made rows, of what it learns from as many real ones; tried on the held-out rows.
- identical: share of rows that equal a training row; next to it the share of held-out rows that do.
- closer: share of rows closer to the training rows than to held-out rows; 0.5 is chance, ± twice its standard error.
- membership: AUC of telling training rows from held-out rows by their distance to the made rows; 0.5 is chance.
- rows/s: of one request of --sampled rows, on a model that is loaded and has made rows before.

Writes results/table_engines.json and .md; what other calls measured of other tables and engines stays in them. Run as
`python -m benchmarks.table_engines [--tables german …] [--engines tabular-argn …] [--minutes 2]`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import RESULTS, keep, machine, rows, said
from benchmarks.real_tables import TABLES, load_table
from models.backends.training import Signs
from models.tabular.columns import Column
from models.tabular.engine import TableRequest
from models.tabular.families import FAMILIES, engine_module, open_table_model, open_trainer
from models.training.settings import Augmentation, FamilyName
from models.training_run import SavedState, TableData, TrainingNews, TrainingRequest
from orchestrator.train_spec import TrainingFields
from workers.dataset_report.figures import Report
from workers.dataset_report.report import make_report
from workers.training_tables import split_rows

BARE: Final = "bare"
HELD_OUT: Final = 0.2
WARM_ROWS: Final = 100
NAME: Final = "table_engines"
Sample = Callable[[int, int], pa.Table]
"""So many rows, by a seed."""


@dataclass(frozen=True)
class Split:
    """A table in two parts."""

    name: str
    columns: tuple[Column, ...]
    train: pa.Table
    holdout: pa.Table


class Nowhere:
    """A `TrainingPlace` that keeps nothing: these trainings are not resumed."""

    def latest(self) -> SavedState | None:
        return None

    def save(self, saved: SavedState) -> None:
        """Nothing is kept."""

    def tell(self, news: TrainingNews) -> None:
        """Nothing is shown."""


def split(name: str, most: int, seed: int) -> Split:
    table, columns = load_table(name, most, seed)
    held = split_rows(table.num_rows, HELD_OUT, seed)
    return Split(name, columns, table.filter(~held), table.filter(held))


def fit_family(family: FamilyName, data: Split, minutes: float, seed: int, folder: Path) -> Sample:
    """A model of one of our families, fitted as a job would."""
    fields = TrainingFields(family=family, budget=f"{max(1, round(minutes * 60))}s")
    signs = Signs()
    signs.begin()
    trained = open_trainer(family).train(
        TrainingRequest(
            model=data.name,
            settings=fields.settings(seed=seed, augment=Augmentation()),
            data=TableData(
                table=data.train,
                columns=data.columns,
                name=f"{data.name}.csv",
                license="unknown",
                held_out=data.holdout.num_rows,
            ),
            event_folder=folder / "events",
        ),
        Nowhere(),
        stop=threading.Event(),
        signs=signs,
    )
    for name, content in trained.files.items():
        (folder / name).write_bytes(content)
    model = open_table_model(folder)
    return lambda count, draw: model.sample(TableRequest(rows=count, seed=draw))


def fit_bare(data: Split, minutes: float, seed: int, folder: Path) -> Sample:
    """mostlyai-engine by its own interface, with the same kinds of columns; it makes no keys and no texts."""
    from mostlyai.engine import TabularARGN  # noqa: PLC0415 - imported where it is measured

    from models.tabular.argn_frames import ENCODINGS  # noqa: PLC0415

    modelled = [column for column in data.columns if column.kind in ENCODINGS]
    frame = data.train.select([column.name for column in modelled]).to_pandas()
    for column in modelled:
        if column.kind == "datetime":
            frame[column.name] = pd.to_datetime(frame[column.name])
    engine = TabularARGN(
        max_training_time=minutes,
        tgt_encoding_types={column.name: ENCODINGS[column.kind] for column in modelled},
        workspace_dir=folder / "workspace",
        random_state=seed,
    )
    engine.fit(frame)

    def sample(count: int, _draw: int) -> pa.Table:
        return pa.Table.from_pandas(engine.sample(n_samples=count), preserve_index=False)

    return sample


def measure(engine: str, data: Split, given: argparse.Namespace) -> dict[str, Any]:
    """Fit, draw, and report on what was drawn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        importlib.import_module("mostlyai.engine")
        if engine != BARE:
            importlib.import_module(engine_module(FAMILY_NAMES[engine]))
        started = time.perf_counter()
        if engine == BARE:
            sample = fit_bare(data, given.minutes, given.seed, folder)
        else:
            sample = fit_family(FAMILY_NAMES[engine], data, given.minutes, given.seed, folder)
        fitting = time.perf_counter() - started
        made = sample(data.train.num_rows, given.seed + 1)
        sample(WARM_ROWS, given.seed + 2)
        started = time.perf_counter()
        sample(given.sampled, given.seed + 3)
        rate = given.sampled / (time.perf_counter() - started)
        kinds = {column.name: column.kind for column in data.columns if column.name in made.column_names}
        tables = (made, data.train.select(list(kinds)), data.holdout.select(list(kinds)))
        files = []
        for part, table in zip(("synthetic", "train", "holdout"), tables, strict=True):
            files.append(folder / f"{part}.parquet")
            pq.write_table(table.select(list(kinds)), files[-1])
        report = make_report(
            *files, columns=kinds, target=TABLES[data.name].target, seed=given.seed, name=f"{data.name}, {engine}"
        )
        if given.pages is not None:
            given.pages.mkdir(parents=True, exist_ok=True)
            (given.pages / f"{data.name}-{engine}.html").write_bytes(report.html())
        figures = {
            **told(report),
            "minutes": given.minutes,
            "fit_seconds": round(fitting, 1),
            "rows_per_second": round(rate),
        }
        return {**figures, **(by_qa(files, kinds, folder) if given.qa else {})}


def told(report: Report) -> dict[str, Any]:
    """What stands in the table."""
    fidelity, utility, privacy = report.fidelity, report.utility, report.privacy
    assert fidelity is not None
    assert privacy is not None
    assert privacy.closeness is not None
    assert privacy.membership is not None
    return {
        "rows": report.rows,
        "accuracy": fidelity.accuracy,
        "accuracy_expected": fidelity.accuracy_expected,
        "univariate": fidelity.univariate,
        "bivariate": fidelity.bivariate,
        "trivariate": fidelity.trivariate,
        "told_apart": fidelity.told_apart,
        "utility": None if utility is None else utility.ratio,
        "utility_interval": None if utility is None else [utility.ratio_low, utility.ratio_high],
        "utility_measure": None if utility is None else f"{utility.measure} of {utility.target}",
        "utility_synthetic": None if utility is None else utility.synthetic.mean,
        "utility_real": None if utility is None else utility.real.mean,
        "identical": privacy.identical,
        "identical_holdout": privacy.identical_holdout,
        "closer": privacy.closeness.share,
        "closer_error": privacy.closeness.error,
        "membership": privacy.membership.auc,
        "membership_error": privacy.membership.error,
        "copied": {one.column: one.copied for one in privacy.copied},
    }


def by_qa(files: Sequence[Path], kinds: Mapping[str, str], folder: Path) -> dict[str, float | None]:
    """What mostlyai-qa says of the same three tables, without keys and texts."""
    from mostlyai import qa  # noqa: PLC0415 - some seconds, and asked for

    modelled = [name for name, kind in kinds.items() if kind not in {"id", "text"}]
    frames = [pd.read_parquet(file, columns=modelled) for file in files]
    _, found = qa.report(
        syn_tgt_data=frames[0], trn_tgt_data=frames[1], hol_tgt_data=frames[2], report_path=folder / "qa.html"
    )
    if found is None:
        return {}
    return {
        "qa_accuracy": found.accuracy.overall,
        "qa_dcr_share": found.distances.dcr_share,
        "qa_identical": found.distances.ims_training,
        "qa_discriminator_auc": found.similarity.discriminator_auc_training_synthetic,
    }


def table(figures: dict[str, Any]) -> str:
    with_qa = any("qa_accuracy" in one for engines in figures["tables"].values() for one in engines["engines"].values())
    head = [
        "table", "engine", "accuracy", "fresh sample", *(["mostlyai-qa"] if with_qa else []), "told apart", "utility",
        "identical", "of held-out", "closer", *(["mostlyai-qa's DCR share"] if with_qa else []), "membership", "fit s",
        "rows/s",
    ]  # fmt: skip
    body = [
        [
            name if place == 0 else "",
            engine,
            _percent(one["accuracy"]),
            _percent(one["accuracy_expected"]),
            *([_percent(one.get("qa_accuracy"))] if with_qa else []),
            f"{one['told_apart']:.2f}",
            _percent(one["utility"]),
            f"{one['identical']:.2%}",
            f"{one['identical_holdout']:.2%}",
            f"{one['closer']:.3f} ± {2 * one['closer_error']:.3f}",
            *([f"{one['qa_dcr_share']:.3f}" if one.get("qa_dcr_share") is not None else "-"] if with_qa else []),
            f"{one['membership']:.3f} ± {2 * one['membership_error']:.3f}",
            f"{one['fit_seconds']:.0f}",
            f"{one['rows_per_second']:,}",
        ]
        for name, engines in figures["tables"].items()
        for place, (engine, one) in enumerate(engines["engines"].items())
    ]
    about = "".join(
        f"- {name}: {one['training_rows']:,} training and {one['holdout_rows']:,} held-out rows, "
        f"{one['columns']} columns; utility by {next(iter(one['engines'].values()))['utility_measure']}\n"
        for name, one in figures["tables"].items()
    )
    budgets = sorted({one["minutes"] for engines in figures["tables"].values() for one in engines["engines"].values()})
    where = f"{figures['machine']['cores']} cores ({figures['machine']['processor']})"
    minutes = " or ".join(f"{one:g}" for one in budgets)
    return (
        f"At most {minutes} minutes a fit; {where}; load {figures['machine']['load_before']:.1f} before. "
        "`bare` is mostlyai-engine by its own interface. What the columns mean: benchmarks/table_engines.py.\n\n"
        f"{rows(head, body)}\n{about}"
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def earlier() -> dict[str, Any]:
    """What earlier calls measured, by table."""
    path = RESULTS / f"{NAME}.json"
    found: dict[str, Any] = json.loads(path.read_text())["tables"] if path.exists() else {}
    return found


FAMILY_NAMES: Final[dict[str, FamilyName]] = {family: family for family in FAMILIES}


def main() -> None:
    warnings.simplefilter("ignore")  # the libraries' own, of small samples
    options = argparse.ArgumentParser()
    engines = [BARE, *FAMILY_NAMES]
    options.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    options.add_argument("--engines", nargs="+", choices=engines, default=engines)
    options.add_argument("--minutes", type=float, default=2.0, help="of a fit, at most")
    options.add_argument("--rows", type=int, default=20_000, help="of a table, at most")
    options.add_argument("--sampled", type=int, default=100_000, help="rows of the request that is timed")
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--qa", action=argparse.BooleanOptionalAction, default=True, help="ask mostlyai-qa as well")
    options.add_argument("--pages", type=Path, help="a folder for the reports' pages")
    options.add_argument("--afresh", action="store_true", help="drop what earlier calls measured")
    given = options.parse_args()
    found = {} if given.afresh else earlier()
    figures: dict[str, Any] = {"machine": machine(), "seed": given.seed, "tables": found}
    for name in given.tables:
        data = split(name, given.rows, given.seed)
        measured = found.get(name, {}).get("engines", {})
        for engine in given.engines:
            with said(f"{name}, {engine}"):
                measured[engine] = measure(engine, data, given)
        found[name] = {
            "training_rows": data.train.num_rows,
            "holdout_rows": data.holdout.num_rows,
            "columns": len(data.columns),
            "kinds": {column.name: column.kind for column in data.columns},
            "engines": {engine: measured[engine] for engine in engines if engine in measured},
        }
        keep(NAME, figures, table(figures))


if __name__ == "__main__":
    main()
