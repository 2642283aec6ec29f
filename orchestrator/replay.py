"""A job that makes one image of another job again: same row, seed, settings, batch shape, and words in its file."""

from __future__ import annotations

import base64

import msgspec
from sqlalchemy import select

from models.images import ImageSettings
from models.spec import ItemError
from orchestrator import database
from orchestrator.dispatch import UpstreamParts
from orchestrator.image_spec import METADATA, ReplayOf
from orchestrator.job_files import FilesRecord, UnknownFileError, read_record
from orchestrator.jobs import ConflictError, Jobs
from orchestrator.results import shards_from
from orchestrator.spec import JobSpec, Source
from orchestrator.tables import Job
from orchestrator.unrun import item_rows
from workers.contracts import Row, Work
from workers.sources import SourceError
from workers.store import ObjectStore, StoreError
from workers.upstream import MadeFile, read_upstream

_works = msgspec.json.Decoder(Work)


def replay_spec(store: ObjectStore, jobs: Jobs, job_id: str, index: int, image: int) -> JobSpec:
    """The job that makes image `image` of item `index` of a job again.

    Raises:
        UnknownJobError: there is no such job.
        UnknownFileError: it has no such image.
        ConflictError: it is no image job, or what the item was made from is gone.
    """
    spec = jobs.spec(job_id)
    if spec.kind != "image":
        raise ConflictError(f"job {job_id} is of kind {spec.kind}; only images can be replayed")
    record = read_record(store, jobs, job_id, index)
    if record is None:
        raise UnknownFileError(f"job {job_id} has no record of an item {index}", "index")
    if not record.images:
        why = record.error.get("message", "")
        raise UnknownFileError(f"item {index} has no image: it is {record.status}{f': {why}' if why else ''}", "index")
    if image >= len(record.images):
        raise UnknownFileError(f"item {index} has {len(record.images)} images; count them from 0", "image")
    made = record.images[image]
    return spec.model_copy(
        update={
            "model": _model(jobs, job_id),
            "name": f"{spec.name} (replay of item {index})"[:200],
            "image": _settings(record) or spec.image,
            "source": Source(items=[_row(store, jobs, job_id, index)]),
            "upstream": None,
            "keep": (),
            "n": 1,
            "priority": "urgent",
            "deadline": None,
            "metadata": {METADATA: f"{job_id}/{index}/{image}"},
            "replay": ReplayOf(
                job=job_id, index=index, image=image, seed=made.seed, batch=made.batch, place=made.place
            ),
        }
    )


def _model(jobs: Jobs, job_id: str) -> str:
    """The model that a job's items were made with: of one that was trained, the version."""
    with database.reading(jobs.engine) as connection:
        text = connection.execute(select(Job.work).where(Job.id == job_id)).scalar() or ""
    return _works.decode(text).model


def _settings(record: FilesRecord) -> ImageSettings | None:
    """What the images of an item were made with: the engine may choose otherwise by now."""
    return ImageSettings.model_validate(record.settings) if record.steps else None


def _row(store: ObjectStore, jobs: Jobs, job_id: str, index: int) -> Row:
    """The row that an item was made from, grid values and what earlier nodes of a flow made included."""
    with database.reading(jobs.engine) as connection:
        job = connection.execute(select(Job.work, Job.flow).where(Job.id == job_id)).one()
        shard = connection.execute(shards_from(job_id, index, index + 1)).first()
        work = _works.decode(job.work or "")
        parts = UpstreamParts(connection, job.flow, work.upstream).of(index, 1)
    if shard is None:
        raise UnknownFileError(f"job {job_id} has no item {index}", "index")
    try:
        rows = item_rows(shard.source, work, store, first=shard.first, count=shard.items, skip=shard.skip)
        row: Row = list(rows)[index - shard.first]
        made = read_upstream(parts, index, 1, store).get(index, {})
        if isinstance(made, ItemError):
            raise ConflictError(f"item {index} cannot be made again: {made.message}")
        return {**row, **{node: _in_a_row(value, store) for node, value in made.items()}}
    except (StoreError, SourceError, IndexError) as error:
        raise ConflictError(f"what item {index} was made from can no longer be read: {error}") from error


def _in_a_row(value: object, store: ObjectStore) -> object:
    """What a node made, as a row can hold it: a picture in base64."""
    return base64.b64encode(store.get(value.key)).decode() if isinstance(value, MadeFile) else value
