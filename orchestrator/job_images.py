"""An image of a job by its name. What no record of the job names cannot be read, whatever lies in the store."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from models.images import StepName
from orchestrator import results
from orchestrator.jobs import Jobs
from workers.records import StoredImage
from workers.store import ObjectStore

_NAME = re.compile(r"(0|[1-9]\d{0,17})(?:-\d{1,3})?\.[a-z]{3,4}")


class UnknownImageError(Exception):
    """A job has no such image; `param` names what was wrong."""

    def __init__(self, message: str, param: str = "name") -> None:
        super().__init__(message)
        self.param = param


class ImageRecord(msgspec.Struct, frozen=True):
    """As much of a record as it takes to find its images."""

    index: int
    status: str
    images: tuple[StoredImage, ...] = ()
    steps: tuple[StepName, ...] = ()
    """What was done; empty in a record that was written before records said what their images were made with."""
    settings: dict[str, Any] = {}  # models.images.ImageSettings as JSON
    error: dict[str, str] = {}


_records = msgspec.json.Decoder(ImageRecord)


def find_image(store: ObjectStore, jobs: Jobs, job_id: str, name: str) -> StoredImage:
    """The image whose key ends with `name`.

    Raises:
        UnknownJobError: there is no such job.
        UnknownImageError: no record of it names such an image, or none does yet.
        StoreError: the store cannot be reached.
    """
    found = _NAME.fullmatch(name)
    record = read_record(store, jobs, job_id, int(found[1])) if found is not None else None
    for image in () if record is None else record.images:
        if image.key.rpartition("/")[2] == name:
            return image
    raise UnknownImageError(f"no record of job {job_id} names an image {name!r}")


def read_record(store: ObjectStore, jobs: Jobs, job_id: str, index: int) -> ImageRecord | None:
    """The record of an item; None where it has none yet, or the job has no such item."""
    page = results.read(store, jobs, job_id, after=index - 1 if index else None, limit=1)
    if not page.records:
        return None
    record = _records.decode(page.records[0])
    return record if record.index == index else None
