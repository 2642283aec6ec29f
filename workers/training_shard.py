"""One execution of a training job: its data fetched, its model trained, its files stored, its record made.

It begins only once it owns the shard, so what it keeps is never that of an execution which nobody granted. Whatever it
writes has its own id in the key.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Literal, TypeAlias

import psutil
from msgspec import UNSET

from models.training.settings import TableOptions, family_options
from models.training_run import (
    Base,
    Example,
    TableData,
    TextData,
    TrainedFiles,
    TrainingBackend,
    TrainingData,
    TrainingRequest,
)
from workers.checkpoints import StoredCheckpoints, earlier_executions
from workers.contracts import Counts, FitWork, ShardTask, TrainWork
from workers.keys import source_tables_prefix
from workers.records import Record, encode_record
from workers.store import ObjectStore
from workers.trained_models import CONTENT_TYPES, ModelFile, TrainedModel, execution_folder
from workers.training_data import fetch_images, fetch_rows
from workers.training_place import StoredTraining
from workers.training_progress import TrainingProgress
from workers.training_tables import fetch_table, split_table

PARQUET = "application/vnd.apache.parquet"
FETCH_END_SECONDS = 10.0
"""How long a download that is to end may take for its last file."""
Phase: TypeAlias = Literal["loading", "reading", "generating", "writing"]
Write = Callable[[str, bytes, str], Awaitable[None]]
"""Stores bytes under a key with a content type, and tries again while the store is away."""


class TrainingShard:
    """One execution's training.

    Args:
        task: The shard, of a job with `work.train`.
        work: That.
        execution: Its own id.
        store: Nightmill's own.
        cache_dir: Where the images are unpacked; None for the system's folder for such things.
        granted: Set once this execution owns the shard.
        write: Stores an object.
        enter: Told of each phase.
    """

    def __init__(
        self,
        task: ShardTask,
        work: TrainWork,
        execution: str,
        store: ObjectStore,
        *,
        cache_dir: Path | None,
        granted: asyncio.Event,
        write: Write,
        enter: Callable[[Phase], None],
    ) -> None:
        self.counts = Counts()
        self._task = task
        self._work = work
        self._execution = execution
        self._store = store
        self._cache_dir = cache_dir or Path(tempfile.gettempdir())
        self._home = self._cache_dir / "training"
        self._granted = granted
        self._write = write
        self._enter = enter
        self._place: StoredTraining | None = None
        self._source: dict[str, bytes] = {}

    @property
    def progress(self) -> TrainingProgress | None:
        """How far it is; None before its first step."""
        return None if self._place is None else self._place.progress

    async def run(self, backend: TrainingBackend) -> bytes:
        """Train, and return the one line of the part.

        Raises:
            ModelError: the data cannot be used, or the training failed.
            StoreError: the store failed.
        """
        await self._granted.wait()
        with scratch(self._home, self._execution) as folder:
            images = folder / (PurePath(self._work.name).name or "images")
            data, digest = await self._fetch(images)
            await self._keep_source()
            self._enter("generating")
            checkpoints = StoredCheckpoints(
                self._store,
                self._task.job,
                self._execution,
                earlier=earlier_executions(self._task.earlier),
                data=digest,
            )
            events = folder / "events"
            place = StoredTraining(self._store, self._task.job, self._execution, checkpoints, events)
            self._place = place
            trained = await backend.train(self._request(data, events), place)
            await asyncio.to_thread(place.finish)
        self._enter("writing")
        record = self._record(trained, await self._files(trained))
        self.counts = Counts(ok=1)
        return encode_record(record) + b"\n"

    async def _fetch(self, folder: Path) -> tuple[TrainingData | TextData | TableData, str]:
        stop = threading.Event()
        fetching = asyncio.ensure_future(asyncio.to_thread(self._data, folder, stop))
        try:
            return await asyncio.shield(fetching)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([fetching], timeout=FETCH_END_SECONDS)
            if fetching.done() and not fetching.cancelled():
                fetching.exception()  # that it was stopped is known
            raise

    def _data(self, folder: Path, stop: threading.Event) -> tuple[TrainingData | TextData | TableData, str]:
        """What is trained on, and its digest; images are brought to a folder."""
        work = self._work
        if work.fit is not None:
            return self._table(work.fit, stop)
        if work.tune is not None and work.tune.rows:
            rows, digest = fetch_rows(work.tune, self._store, stop, work.name)
            examples = [Example(messages[:-1], messages[-1].content) for messages in rows]
            return TextData(examples=examples, name=work.name, license=work.license), digest
        digest = fetch_images(work, self._store, folder, stop)
        data = TrainingData(
            folder=None if work.uri is None else folder,
            dataset=work.dataset,
            name=work.name,
            height=work.height,
            width=work.width,
            grey=work.grey,
            license=work.license,
        )
        return data, digest

    def _table(self, fit: FitWork, stop: threading.Event) -> tuple[TableData, str]:
        """The rows that a model is fitted to; those that it never sees are kept beside them, for the report."""
        work, settings = self._work, self._work.parsed_settings()
        found = fetch_table(fit, self._store, stop, work.name)
        options = family_options(settings.family, settings.options)
        share = options.held_out if isinstance(options, TableOptions) else 0.0
        split = split_table(found, fit.foreign_key, share, settings.seed)
        self._source = split.files
        data = TableData(
            table=split.learned,
            columns=found.columns,
            name=work.name,
            license=work.license,
            held_out=split.holdout.num_rows,
            foreign_key=fit.foreign_key,
            order_by=fit.order_by,
            parent=split.parent,
        )
        return data, f"{found.digest}:{share:g}"

    async def _keep_source(self) -> None:
        for name, content in self._source.items():
            await self._write(source_tables_prefix(self._task.job) + name, content, PARQUET)
        self._source = {}

    def _request(self, data: TrainingData | TextData | TableData, events: Path) -> TrainingRequest:
        tune = self._work.tune
        return TrainingRequest(
            model=self._task.work.model,
            settings=self._work.parsed_settings(),
            data=data,
            base=None if tune is None else Base(model=tune.base, cache_dir=self._cache_dir),
            event_folder=events,
        )

    async def _files(self, trained: TrainedFiles) -> tuple[ModelFile, ...]:
        folder = execution_folder(self._task.work.model, self._task.job, self._execution)
        files = []
        for name, content in trained.files.items():
            key = folder + name
            await self._write(key, content, CONTENT_TYPES[PurePath(name).suffix])
            digest = hashlib.sha256(content).hexdigest()
            files.append(ModelFile(name=name, key=key, bytes=len(content), sha256=digest))
        return tuple(files)

    def _record(self, trained: TrainedFiles, files: tuple[ModelFile, ...]) -> Record:
        model = TrainedModel(
            name=self._task.work.model,
            version=self._task.job,
            family=trained.family,
            width=trained.width,
            height=trained.height,
            channels=trained.channels,
            classes=tuple(trained.classes),
            trained_at=time.time(),
            source=trained.source,
            license=trained.license,
            images=trained.images,
            step=trained.step,
            finished=trained.finished,
            losses=dict(trained.losses),
            seconds=trained.seconds,
            files=files,
            rows=trained.rows,
            base=trained.base,
            base_revision=trained.base_revision,
            metrics=dict(trained.metrics),
            columns=tuple(trained.columns),
            linked=trained.linked,
        )
        return Record(
            index=self._task.first,
            status="ok",
            model=model.id,
            seed=self._task.work.seed,
            trained=model,
            training=UNSET if self.progress is None else self.progress,
        )


@contextmanager
def scratch(home: Path, execution: str) -> Iterator[Path]:
    """A folder for one execution; those of processes that were killed are removed on the way."""
    home.mkdir(parents=True, exist_ok=True)
    for left in home.iterdir():
        owner = left.name.partition("-")[0]
        if owner.isdecimal() and int(owner) != os.getpid() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)  # another process may be at it, too
    folder = home / f"{os.getpid()}-{execution}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a thread that hangs may still write to it
