"""Results from the service into files or onto the standard output."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterable
from pathlib import Path

from orchestrator.cli.output import CommandError
from orchestrator.client import Client, ResultFormat
from orchestrator.views import JobView
from workers.training_progress import TrainingProgress


def save_job(client: Client, job: JobView, folder: Path, form: ResultFormat | None) -> Path:
    """Write all results of a job into `folder`; returns the file to open first.

    Without a format a table is written as Parquet, and whatever else as JSON lines.
    """
    if job.findings is not None:
        from orchestrator.cli.tables import save_report  # noqa: PLC0415 - only where there is one

        save_report(client, job, folder)
    if job.rows is not None:
        from orchestrator.cli.tables import save_table  # noqa: PLC0415 - as above

        return save_table(client, job, folder, form or "parquet")
    form = form or "jsonl"
    if job.nodes:
        from orchestrator.cli.flow_folder import save_flow  # noqa: PLC0415 - Jinja only where there is a page

        return save_flow(client, job, folder, form)
    if job.training is not None:
        save_training(client, job.id, job.training, folder)
    if job.images is not None:
        from orchestrator.cli.pictures import save_images  # noqa: PLC0415 - Pillow only where there are images

        page = save_images(client, job, folder)
    elif job.sounds is not None:
        from orchestrator.cli.sounds import save_sounds  # noqa: PLC0415 - a page's template only where there is one

        page = save_sounds(client, job, folder)
    elif job.dataset is not None:
        from orchestrator.cli.dataset_folder import save_dataset  # noqa: PLC0415 - pyarrow only where it is needed

        page = save_dataset(job, job.dataset, save_results(client, job.id, folder, "jsonl"))
    else:
        return save_results(client, job.id, folder, form)
    if form != "jsonl":
        save_results(client, job.id, folder, form)
    return page


def save_training(client: Client, job_id: str, training: TrainingProgress, folder: Path) -> None:
    """Write what there is to look at of a training: its newest samples and its losses so far."""
    try:
        if training.samples is not None:
            save_file(folder / "samples.png", [client.samples(job_id)])
        if training.history is not None:
            save_file(folder / "losses.jsonl", [client.losses(job_id)])
    except OSError as error:
        raise CommandError(f"{folder} could not be written: {error.strerror or error}") from error


def save_results(client: Client, job_id: str, folder: Path, form: ResultFormat) -> Path:
    """Write all results into `folder`, whole or not at all; returns the file's path."""
    path = folder / f"results.{form}"
    try:
        return save_file(path, client.content(job_id, form))
    except OSError as error:
        raise CommandError(f"{path} could not be written: {error.strerror or error}") from error


def save_file(path: Path, blocks: Iterable[bytes]) -> Path:
    """Write a file, whole or not at all, with the folder that it needs.

    Raises:
        OSError: it cannot be written.
    """
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("xb") as file:
            for block in blocks:
                file.write(block)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return path


def stream_results(client: Client, job_id: str, form: ResultFormat) -> None:
    """Write all results to the standard output."""
    if form == "parquet" and sys.stdout.isatty():
        raise CommandError("Parquet is nothing for a terminal; give --out DIR, or send it into a file")
    for block in client.content(job_id, form):
        sys.stdout.buffer.write(block)
