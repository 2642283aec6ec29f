"""Models that were trained, as jobs find them: which versions there are, and how a job's end makes one.

That a job trained a model is known to SQL for as long as the job is, and to the store for as long as the model is. Both
are asked which versions there are: a listing may not show yet what was just made, and an old job is removed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from sqlalchemy import Engine, Select, select

from models.catalog import nearest_names
from models.errors import UnknownModelError
from models.image_catalog import IMAGE_MODELS
from models.training.settings import TABLE_FAMILIES
from models.training_run import TRAINED_NAME, VERSION
from orchestrator import database
from orchestrator.lifecycle import JobStatus
from orchestrator.tables import Job, Shard
from workers.keys import checkpoints_prefix
from workers.store import MissingObjectError, ObjectStore, delete_prefix
from workers.trained_models import COMMIT, TrainedModel, listed_versions, publish, read_model, version_folder

logger = logging.getLogger(__name__)


class _Record(msgspec.Struct, frozen=True):
    """As much of a record as it takes to know the model that its job has trained."""

    trained: TrainedModel | None = None


class TrainedModels:
    """All models that were trained here."""

    def __init__(self, engine: Engine, store: ObjectStore) -> None:
        self._engine = engine
        self._store = store

    def find(self, asked: str) -> TrainedModel:
        """The model `NAME@VERSION`, or the newest version of `NAME`: one that makes images by itself.

        Raises:
            UnknownModelError: there is none, or it is an adapter, or one of tables.
            StoreError: the store cannot be reached.
        """
        found = self._look_up(asked)
        if found is not None and found.base is not None:
            where = "adapter" if found.is_text else "image.loras"
            raise UnknownModelError(f"{asked!r} is an adapter of {found.base!r}; name it under {where}", "wrong_kind")
        if found is not None and found.is_table:
            raise UnknownModelError(f"{asked!r} makes tables; set kind: tabular", "wrong_kind")
        if found is not None:
            return found
        near, trained = self._others(asked, IMAGE_MODELS)
        raise UnknownModelError(
            f"there is no image model {asked!r}{near}{trained}. A model is one of "
            f"{', '.join(sorted(IMAGE_MODELS))}, one that a job of kind train has made, a local folder "
            "(/path, ./path) or a hub id (org/name)"
        )

    def find_table(self, asked: str) -> TrainedModel:
        """The model of tables `NAME@VERSION`, or the newest version of `NAME`.

        Raises:
            UnknownModelError: there is none, or it makes something else.
            StoreError: the store cannot be reached.
        """
        found = self._look_up(asked)
        if found is not None and not found.is_table:
            raise UnknownModelError(f"{asked!r} makes no tables; it was trained on other data", "wrong_kind")
        if found is not None:
            return found
        near, trained = self._others(asked, ())
        raise UnknownModelError(
            f"there is no model of tables {asked!r}{near}{trained}. Fit one first: kind: train, with data.file and a "
            f"family such as {min(TABLE_FAMILIES)}"
        )

    def find_adapter(self, asked: str) -> TrainedModel:
        """The adapter `NAME@VERSION`, or the newest version of `NAME`.

        Raises:
            UnknownModelError: there is none, or it is a model.
            StoreError: the store cannot be reached.
        """
        found = self._look_up(asked)
        if found is not None and found.base is None:
            raise UnknownModelError(f"{asked!r} is a model, not an adapter", "wrong_kind")
        if found is not None:
            return found
        near, trained = self._others(asked, ())
        raise UnknownModelError(f"there is no adapter {asked!r}{near}{trained}", "unknown_adapter")

    def _look_up(self, asked: str) -> TrainedModel | None:
        name, _, version = asked.partition("@")
        known = TRAINED_NAME.fullmatch(name) is not None
        if version and known and VERSION.fullmatch(version) is not None:
            found = read_model(self._store, name, version)
            if found is not None:
                return found
        versions = self.versions(name) if known else []
        for newest in () if version else versions:
            # One that SQL knows may have been deleted by hand.
            if (found := read_model(self._store, name, newest)) is not None:
                return found
        if versions:
            raise UnknownModelError(
                f"the model {name!r} has no version {version!r}; its newest is {name}@{versions[0]}", "unknown_version"
            )
        return None

    def _others(self, asked: str, brought_along: Iterable[str]) -> tuple[str, str]:
        """The ends of a message about a name that is not there: names that are near it, or else what was trained."""
        names = {listed for listed, _ in listed_versions(self._store)}
        near = nearest_names(asked.partition("@")[0], (*brought_along, *sorted(names)))
        return near, f"; trained here are {', '.join(sorted(names)[:12])}" if names and not near else ""

    def versions(self, name: str) -> Sequence[str]:
        """The versions of a name, the newest first."""
        with database.reading(self._engine) as connection:
            known = set(connection.scalars(jobs_that_trained(name)))
        return sorted(known | {version for _, version in listed_versions(self._store, name)}, reverse=True)

    def newest(self, limit: int = 1000) -> Iterator[TrainedModel]:
        """The newest version of each name, by name; at most so many."""
        versions: dict[str, str] = {}
        for name, version in listed_versions(self._store):
            versions[name] = max(version, versions.get(name, ""))
        with database.reading(self._engine) as connection:
            for row in connection.execute(jobs_that_trained()):
                versions[row.model] = max(row.id, versions.get(row.model, ""))
        for name in sorted(versions)[:limit]:
            found = read_model(self._store, name, versions[name])
            if found is not None:
                yield found


def jobs_that_trained(name: str | None = None) -> Select[str, str]:
    """Jobs that have trained a model of a name, or of any."""
    statement = select(Job.id, Job.model).where(Job.kind == "train", Job.status == JobStatus.COMPLETED.value)
    return statement if name is None else statement.where(Job.model == name)


def publish_model(engine: Engine, store: ObjectStore, job_id: str) -> None:
    """Make the model that a training job's winning part names one that jobs can name.

    Raises:
        StoreError: the store failed.
    """
    model = _winning(engine, store, job_id)
    if model is not None:
        publish(store, model)
        logger.info("job %s has trained %s", job_id, model.id)


def sweep_training(engine: Engine, store: ObjectStore, job_id: str, generation: int) -> int:
    """Delete what an ended training has left that nobody will ask for; returns how many objects.

    Of a completed one these are checkpoints, and files of executions that lost; of a cancelled one, files of any. Both
    are never run again. A failed one keeps all: a retry goes on from its checkpoints.

    Raises:
        StoreError: the store failed.
    """
    with database.reading(engine) as connection:
        row = connection.execute(
            select(Job.model, Job.status).where(Job.id == job_id, Job.generation == generation)
        ).first()
    if row is None or row.status not in {JobStatus.COMPLETED.value, JobStatus.CANCELLED.value}:
        return 0
    kept: set[str] = set()
    model = _winning(engine, store, job_id)
    if model is None and row.status == JobStatus.COMPLETED.value:
        return 0
    if model is not None:
        kept = {version_folder(row.model, job_id) + COMMIT, *(file.key for file in model.files)}
    deleted = delete_prefix(store, checkpoints_prefix(job_id))
    for key in list(store.list(version_folder(row.model, job_id))):
        if key not in kept:
            store.delete(key)
            deleted += 1
    return deleted


def _winning(engine: Engine, store: ObjectStore, job_id: str) -> TrainedModel | None:
    statement = select(Shard.part_key).where(Shard.job_id == job_id, Shard.number == 0, Shard.part_ok == 1)
    with database.reading(engine) as connection:
        key = connection.scalar(statement)
    if key is None:
        return None
    try:
        return msgspec.json.decode(store.get(key), type=_Record).trained
    except MissingObjectError:
        return None
