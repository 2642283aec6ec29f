"""The images of a job as a folder: files by item, their records, contact sheets and a gallery."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from orchestrator.cli.item_files import RECORDS, fetched, lines
from orchestrator.cli.output import CommandError
from orchestrator.cli.saving import save_file
from orchestrator.client import Client
from orchestrator.gallery import Gallery, shown_item
from orchestrator.views import JobView


def save_images(client: Client, job: JobView, folder: Path) -> Path:
    """Write a job's images, records, contact sheets and gallery into `folder`; returns the gallery's first page.

    An image that is there already, and whole, is not fetched again.
    """
    try:
        save_file(folder / RECORDS, client.content(job.id, "jsonl"))
        gallery = Gallery(folder, job.name, sum(1 for _ in lines(folder)))
        for record, files in fetched(partial(client.image, job.id), folder, "images"):
            gallery.add(shown_item(record, files))
        return gallery.finish()
    except OSError as error:
        raise CommandError(f"{error.filename or folder} could not be written: {error.strerror or error}") from error
