"""The sounds of a job as a folder: files by item, their records, and pages with their texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from orchestrator.cli.item_files import RECORDS, fetched, lines
from orchestrator.cli.output import CommandError
from orchestrator.cli.saving import save_file
from orchestrator.client import Client
from orchestrator.sound_pages import heard_item, sound_pages
from orchestrator.views import JobView


def save_sounds(client: Client, job: JobView, folder: Path) -> Path:
    """Write a job's sounds, records and pages into `folder`; returns the first page.

    A sound that is there already, and whole, is not fetched again.
    """
    try:
        save_file(folder / RECORDS, client.content(job.id, "jsonl"))
        pages = sound_pages(folder, job.name, sum(1 for _ in lines(folder)))
        for record, files in fetched(partial(client.audio, job.id), folder, "audio"):
            pages.add(heard_item(record, files))
        return pages.finish()
    except OSError as error:
        raise CommandError(f"{error.filename or folder} could not be written: {error.strerror or error}") from error
