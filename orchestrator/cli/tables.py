"""A dataset as files: its rows, the records of its blocks, and the report."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cli.item_files import RECORDS
from orchestrator.cli.output import CommandError
from orchestrator.cli.saving import save_file
from orchestrator.client import Client, ResultFormat
from orchestrator.views import JobView

REPORT = "report"


def save_table(client: Client, job: JobView, folder: Path, form: ResultFormat) -> Path:
    """Write the rows of a job into one file of `folder`, with its records and its report; returns the file's path."""
    path = folder / f"table.{form}"
    try:
        save_file(folder / RECORDS, client.records(job.id))
        save_file(path, client.content(job.id, form))
    except OSError as error:
        raise CommandError(f"{path} could not be written: {error.strerror or error}") from error
    return path


def save_report(client: Client, job: JobView, folder: Path) -> Path | None:
    """Write the report of a job, also of one that is held back, into `folder`; its page, None where there is none."""
    if job.findings is None or job.findings.report is None:
        return None
    page = folder / f"{REPORT}.html"
    try:
        save_file(folder / f"{REPORT}.json", [client.report(job.id, "json")])
        return save_file(page, [client.report(job.id, "html")])
    except OSError as error:
        raise CommandError(f"{page} could not be written: {error.strerror or error}") from error
