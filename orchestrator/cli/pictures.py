"""The images of a job as a folder: files by item, their records, contact sheets and a gallery."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from orchestrator.cli.output import CommandError
from orchestrator.cli.saving import save_file
from orchestrator.client import Client
from orchestrator.gallery import Gallery, shown_item
from orchestrator.views import JobView

RECORDS = "records.jsonl"
IMAGES = "images"
THREADS = 8
AHEAD = 64
"""Items whose images are fetched before those of the first of them are there."""


def save_images(client: Client, job: JobView, folder: Path) -> Path:
    """Write a job's images, records, contact sheets and gallery into `folder`; returns the gallery's first page.

    An image that is there already, and whole, is not fetched again.
    """
    try:
        records = save_file(folder / RECORDS, client.content(job.id, "jsonl"))
        (folder / IMAGES).mkdir(exist_ok=True)
        gallery = Gallery(folder, job.name, sum(1 for _ in _lines(records)))
        for record, files in _fetched(client, job.id, folder, records):
            gallery.add(shown_item(record, files))
        return gallery.finish()
    except OSError as error:
        raise CommandError(f"{error.filename or folder} could not be written: {error.strerror or error}") from error


def _fetched(client: Client, job_id: str, folder: Path, records: Path) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Each record with the paths of its images, once they are there; some items are under way at any moment."""
    with ThreadPoolExecutor(THREADS) as pool:
        lines = _lines(records)
        waiting: deque[tuple[dict[str, Any], list[Future[str]]]] = deque()  # records: any JSON

        def begin(count: int) -> None:
            for line in islice(lines, count):
                record = orjson.loads(line)
                fetching = [pool.submit(_fetch, client, job_id, folder, image) for image in record.get("images", ())]
                waiting.append((record, fetching))

        begin(AHEAD)
        try:
            while waiting:
                record, fetching = waiting.popleft()
                yield record, [each.result() for each in fetching]
                begin(1)
        finally:
            for _, rest in waiting:
                for each in rest:
                    each.cancel()


def _fetch(client: Client, job_id: str, folder: Path, image: dict[str, Any]) -> str:  # of a record: any JSON
    """One image into its file; its path from the folder on."""
    # The name is the service's word: what is no plain name would leave the folder.
    name = Path(image["key"]).name
    path = folder / IMAGES / name
    if not (path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == image["sha256"]):
        data = client.image(job_id, name)
        if hashlib.sha256(data).hexdigest() != image["sha256"]:
            raise CommandError(f"{name} arrived damaged; run the command again")
        save_file(path, [data])
    return f"{IMAGES}/{name}"


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from (line for line in file if line.strip())
