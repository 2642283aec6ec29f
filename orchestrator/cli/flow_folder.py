"""The results of a flow as a folder: its records, a folder for each node, and a page that shows items whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from orchestrator.cli.output import CommandError
from orchestrator.cli.saving import save_file, save_job
from orchestrator.client import Client, ResultFormat
from orchestrator.flow_pages import flow_pages, shown_item
from orchestrator.views import JobView

RECORDS = "records.jsonl"


def save_flow(client: Client, job: JobView, folder: Path, form: ResultFormat) -> Path:
    """Write a flow's records and, in a folder of its own, each node's results; returns the page to open first."""
    try:
        records = save_file(folder / RECORDS, client.content(job.id, "jsonl"))
        for node in job.nodes:
            save_job(client, client.job(node.job), folder / node.name, form)
        pages = flow_pages(folder, job.name, sum(1 for _ in _records(records)))
        for record in _records(records):
            pages.add(shown_item(record))
        return pages.finish()
    except OSError as error:
        raise CommandError(f"{error.filename or folder} could not be written: {error.strerror or error}") from error


def _records(path: Path) -> Iterator[dict[str, Any]]:  # any JSON
    with path.open("rb") as file:
        yield from (orjson.loads(line) for line in file)
