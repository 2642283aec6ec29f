"""A file of a job's item by its name. What no record of the job names cannot be read, whatever lies in the store."""

from __future__ import annotations

import re
from typing import Any, Literal, TypeAlias

import msgspec

from models.images import StepName
from orchestrator import results
from orchestrator.jobs import Jobs
from workers.records import StoredAudio, StoredImage
from workers.store import ObjectStore

FileKind: TypeAlias = Literal["image", "audio"]
_NAME = re.compile(r"(0|[1-9]\d{0,17})(?:-\d{1,3})?\.[a-z]{3,4}")
_A = {"image": "an image", "audio": "a sound"}


class UnknownFileError(Exception):
    """A job has no such file; `param` names what was wrong."""

    def __init__(self, message: str, param: str = "name", *, kind: FileKind = "image") -> None:
        super().__init__(message)
        self.param = param
        self.code = f"{kind}_not_found"


class FilesRecord(msgspec.Struct, frozen=True):
    """As much of a record as it takes to find its files."""

    index: int
    status: str
    images: tuple[StoredImage, ...] = ()
    audio: tuple[StoredAudio, ...] = ()
    steps: tuple[StepName, ...] = ()
    """What was done; empty in a record that was written before records said what their images were made with."""
    settings: dict[str, Any] = {}  # of image or audio, as JSON
    error: dict[str, str] = {}


_records = msgspec.json.Decoder(FilesRecord)


def find_file(store: ObjectStore, jobs: Jobs, job_id: str, kind: FileKind, name: str) -> StoredImage | StoredAudio:
    """The image, or the sound, whose key ends with `name`.

    Raises:
        UnknownJobError: there is no such job.
        UnknownFileError: no record of it names such a file, or none does yet.
        StoreError: the store cannot be reached.
    """
    found = _NAME.fullmatch(name)
    record = read_record(store, jobs, job_id, int(found[1])) if found is not None else None
    if record is not None:
        for file in record.images if kind == "image" else record.audio:
            if file.key.rpartition("/")[2] == name:
                return file
    raise UnknownFileError(f"no record of job {job_id} names {_A[kind]} {name!r}", kind=kind)


def read_record(store: ObjectStore, jobs: Jobs, job_id: str, index: int) -> FilesRecord | None:
    """The record of an item; None where it has none yet, or the job has no such item."""
    page = results.read(store, jobs, job_id, after=index - 1 if index else None, limit=1)
    if not page.records:
        return None
    record = _records.decode(page.records[0])
    return record if record.index == index else None
