"""The report on what a job has made: its rows and its source's brought to this machine, and described."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import FailureKind, ModelError
from models.training_run import split_version
from workers.contracts import ReportWork, source_tables_prefix
from workers.dataset_engine import PartOf
from workers.dataset_report.figures import Report
from workers.dataset_report.gate import Gate, check_gate
from workers.dataset_report.page import page_of
from workers.dataset_report.report import EmptyDatasetError, make_report
from workers.store import MissingObjectError, ObjectStore
from workers.table_blocks import Fetch, fetch_blocks
from workers.trained_models import read_model
from workers.training_tables import HOLDOUT_FILE, TRAIN_FILE


@dataclass(frozen=True, slots=True)
class Described:
    """A report as it is stored."""

    html: bytes
    json: bytes
    figures: dict[str, float]
    held: tuple[str, ...]


async def describe(
    work: ReportWork, parts: Sequence[PartOf], folder: Path, fetch: Fetch, store: ObjectStore
) -> Described:
    """Describe what a job has made.

    Raises:
        ModelError: there is nothing to describe.
        StoreError: the store failed.
    """
    files = [path async for _, path, _ in fetch_blocks(parts, folder, fetch)]
    version = split_version(work.model)
    model = None if version is None else await asyncio.to_thread(read_model, store, *version)
    if model is None or version is None:
        raise ModelError(FailureKind.MODEL, "model_missing", f"the model {work.model} is not in the store any more")
    train, holdout = await _source(version[1], folder, fetch)

    def make() -> Described:
        report = make_report(
            files,
            train,
            holdout,
            columns={column.name: column.kind for column in model.columns},
            target=work.target,
            seed=work.seed,
            name=work.name,
        )
        held = check_gate(report, Gate.model_validate(work.gate))
        return Described(html=page_of(report, held), json=report.json(), figures=_telling(report), held=held)

    try:
        return await asyncio.to_thread(make)
    except (EmptyDatasetError, ValueError) as error:
        raise ModelError(FailureKind.MODEL, "no_report", str(error)) from error


async def _source(job: str, folder: Path, fetch: Fetch) -> tuple[Path | None, Path | None]:
    """The rows that a model was fitted to, and those held out; None where they are gone with the job that fitted it."""
    found: list[Path | None] = []
    for name in (TRAIN_FILE, HOLDOUT_FILE):
        path = folder / name
        try:
            await fetch(f"{source_tables_prefix(job)}{name}", path)
            found.append(path)
        except MissingObjectError:
            found.append(None)
    return found[0], found[1] if found[0] is not None else None


def _telling(report: Report) -> dict[str, float]:
    """The figures that are shown of a job."""
    figures: dict[str, float] = {}
    if report.fidelity is not None:
        figures["accuracy"] = report.fidelity.accuracy
        figures["accuracy_expected"] = report.fidelity.accuracy_expected
    if report.utility is not None and report.utility.ratio is not None:
        figures["utility"] = report.utility.ratio
    if report.privacy is not None:
        figures["identical"] = report.privacy.identical
        if report.privacy.closeness is not None:
            figures["closer_to_training"] = report.privacy.closeness.share
    return {name: round(value, 4) for name, value in figures.items()}
