"""A job that makes one image of another job again: same row, same seed, same batch shape, same words in its file."""

from __future__ import annotations

import msgspec
from sqlalchemy import select

from orchestrator import database
from orchestrator.image_spec import METADATA, ReplayOf
from orchestrator.job_images import UnknownImageError, read_record
from orchestrator.jobs import ConflictError, Jobs
from orchestrator.results import shards_from
from orchestrator.spec import JobSpec, Source
from orchestrator.tables import Job
from orchestrator.unrun import item_rows
from workers.contracts import Row, Work
from workers.sources import SourceError
from workers.store import ObjectStore, StoreError

_works = msgspec.json.Decoder(Work)


def replay_spec(store: ObjectStore, jobs: Jobs, job_id: str, index: int, image: int) -> JobSpec:
    """The job that makes image `image` of item `index` of a job again.

    Raises:
        UnknownJobError: there is no such job.
        UnknownImageError: it has no such image.
        ConflictError: it is no image job, or what the item was made from is gone.
    """
    spec = jobs.spec(job_id)
    if spec.kind != "image":
        raise ConflictError(f"job {job_id} is of kind {spec.kind}; only images can be replayed")
    record = read_record(store, jobs, job_id, index)
    if record is None:
        raise UnknownImageError(f"job {job_id} has no record of an item {index}", "index")
    if not record.images:
        why = record.error.get("message", "")
        raise UnknownImageError(f"item {index} has no image: it is {record.status}{f': {why}' if why else ''}", "index")
    if image >= len(record.images):
        raise UnknownImageError(f"item {index} has {len(record.images)} images; count them from 0", "image")
    made = record.images[image]
    work = _work(jobs, job_id)
    loras = spec.image.loras if work.image is None else work.image.parsed_settings().loras
    return spec.model_copy(
        update={
            # Of what was trained, the versions that the job's items were made with.
            "model": work.model,
            "image": spec.image.model_copy(update={"loras": loras}),
            "name": f"{spec.name} (replay of item {index})"[:200],
            "source": Source(items=[_row(store, jobs, job_id, index)]),
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


def _work(jobs: Jobs, job_id: str) -> Work:
    with database.reading(jobs.engine) as connection:
        text = connection.execute(select(Job.work).where(Job.id == job_id)).scalar() or ""
    return _works.decode(text)


def _row(store: ObjectStore, jobs: Jobs, job_id: str, index: int) -> Row:
    """The row that an item was made from, grid values included."""
    with database.reading(jobs.engine) as connection:
        text = connection.execute(select(Job.work).where(Job.id == job_id)).scalar() or ""
        shard = connection.execute(shards_from(job_id, index, index + 1)).first()
    if shard is None:
        raise UnknownImageError(f"job {job_id} has no item {index}", "index")
    work = _works.decode(text)
    try:
        rows = item_rows(shard.source, work, store, first=shard.first, count=shard.items, skip=shard.skip)
        row: Row = list(rows)[index - shard.first]
    except (StoreError, SourceError, IndexError) as error:
        raise ConflictError(f"what item {index} was made from can no longer be read: {error}") from error
    return row
