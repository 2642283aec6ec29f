"""A dataset as a folder: its results as ever, and `dataset/`, which `datasets.load_dataset` reads."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from orchestrator.cli.output import CommandError
from orchestrator.dataset_card import card
from orchestrator.dataset_files import write_dataset
from orchestrator.dataset_splits import Splits
from orchestrator.views import DatasetView, JobView

FOLDER = "dataset"


def save_dataset(job: JobView, dataset: DatasetView, results: Path) -> Path:
    """Write the dataset beside its results, whole or not at all; returns its folder.

    Args:
        job: The job.
        dataset: What its plan says.
        results: Its records, as JSON lines.
    """
    folder = results.parent / FOLDER
    fresh = results.parent / f".{FOLDER}-{secrets.token_hex(4)}"

    def lines() -> Iterator[bytes]:
        with results.open("rb") as file:
            yield from file

    try:
        fresh.mkdir()
        figures = write_dataset(lines, fresh, dataset.output, Splits(dataset.split, dataset.seed), dataset.split_by)
        (fresh / "README.md").write_text(card(job, dataset, figures), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        fresh.replace(folder)
    except OSError as error:
        raise CommandError(f"{folder} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder
