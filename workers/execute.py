"""Run one shard: read its rows, render, generate, and leave one immutable part. Plain asyncio: no Celery, no Ray.

What is common to all kinds of jobs is here: the right to the shard, reading, the part, what is kept when all this is
interrupted. How requests become records is `text_items`, `dataset_items`, `image_items` and
`audio_items`; how a model is trained, `training_shard`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, cast

import msgspec

from models.backend import AudioBackend, Backend, ImageBackend
from models.spec import ModelInfo, Usage
from models.text_classifiers import TextClassifiers
from models.training_run import TrainingBackend
from workers.acceptance.rounds import answer
from workers.adapters import find_adapters
from workers.audio_items import AudioItems
from workers.audio_shard import AudioShard
from workers.chat_items import ChatItems
from workers.contracts import Counts, Failure, Part, ShardTask, Timings, TrainWork
from workers.conversations import converse
from workers.dataset_items import DatasetItems
from workers.engines import AnyBackend
from workers.image_items import ImageItems
from workers.image_shard import ImageShard, OpenCredentials
from workers.keys import audio_folder, images_folder, part_key, partial_key, table_folder
from workers.records import BrokenPartError, check_figures, describe_part, earlier_records, linked_rows, read_part
from workers.rejections import judged, read_rejections
from workers.screening import Screen
from workers.sources import read_rows
from workers.store import ChangedObjectError, MissingObjectError, ObjectStore, StoreError
from workers.table_items import TableItems
from workers.text_items import TextItems
from workers.training_progress import TrainingProgress
from workers.training_shard import TrainingShard
from workers.upstream import Upstream, read_upstream

if TYPE_CHECKING:
    from models.tabular.engine import TabularBackend
    from workers.table_shard import TableShard

logger = logging.getLogger(__name__)
STORE_SECONDS = 90.0
"""How long an execution tries to read its rows, and to write its part, while the store is away. Most are back within
a minute; to ask again costs next to nothing, to fail costs a try of the shard, or all that it generated."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
"""Bounds of the pause between two tries, which doubles: exponential backoff with full jitter, as for shards."""
SALVAGE_SECONDS = 10.0
"""How long an interrupted execution tries to keep what it has: whoever interrupted it waits."""
Phase = Literal["loading", "reading", "generating", "writing"]
Answer = TypeVar("Answer")
AnyItems: TypeAlias = TextItems | ImageItems | AudioItems | DatasetItems | TableItems


class Progress(msgspec.Struct, frozen=True):
    """How far an execution is."""

    phase: Phase = "loading"
    counts: Counts = Counts()
    usage: Usage = Usage()
    timings: Timings = Timings()
    training: TrainingProgress | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an execution ended: with a part, with a failure, or because it was told to stop.

    One that failed or was stopped may have left a part of the items that had ended.
    """

    progress: Progress
    part: Part | None = None
    failure: Failure | None = None
    stopped: str | None = None


class Execution:
    """One run of one attempt at a shard.

    It generates at once, but writes its part only after `granted` is set: by then the orchestrator has said that this
    execution owns the shard.

    Args:
        task: The shard.
        execution: Its own id.
        store: Where rows are read and the part is left.
        clock: Seconds that only grow.
        sleep: Waits for so many seconds.
        between: A random number between two; it spreads the pauses of workers whose store went away together.
        screen: Looks at images for those jobs that ask for it.
        credentials: Opens what images are signed with, where they are.
        cache_dir: Where a training unpacks its images, and adapters are kept.
        classifiers: Look at texts for those jobs that ask for it.
    """

    def __init__(
        self,
        task: ShardTask,
        execution: str,
        store: ObjectStore,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        between: Callable[[float, float], float] = random.uniform,
        screen: Screen | None = None,
        credentials: OpenCredentials | None = None,
        cache_dir: Path | None = None,
        classifiers: TextClassifiers | None = None,
    ) -> None:
        self.task = task
        self.key = part_key(task.job, task.shard, task.token, execution)
        self.partial_key = partial_key(task.job, task.shard, task.token, execution)
        self.granted = asyncio.Event()
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._between = between
        self._screen = screen
        self._credentials = credentials
        self._execution = execution
        self._cache_dir = cache_dir
        self._classifiers = classifiers
        self._phase: Phase = "loading"
        self._entered = clock()
        self._seconds: dict[Phase, float] = {}
        self._items: AnyItems | None = None
        self._training: TrainingShard | None = None

    def progress(self) -> Progress:
        """How far it is now."""
        seconds = dict(self._seconds)
        seconds[self._phase] = seconds.get(self._phase, 0.0) + self._clock() - self._entered
        return Progress(
            phase=self._phase,
            counts=self._counts,
            usage=Usage() if self._items is None else self._items.usage,
            timings=Timings(
                load=seconds.get("loading", 0.0),
                read=seconds.get("reading", 0.0),
                generate=seconds.get("generating", 0.0),
                write=seconds.get("writing", 0.0),
            ),
            training=None if self._training is None else self._training.progress,
        )

    @property
    def _counts(self) -> Counts:
        if self._training is not None:
            return self._training.counts
        return Counts() if self._items is None else self._items.counts

    async def run(self, backend: AnyBackend, info: ModelInfo) -> Part:
        """Do the shard, and return the part that it left.

        Raises:
            StoreError: the store failed.
            ModelError: the engine failed.
            CredentialsError: images are to be signed, and cannot be.
        """
        self._enter("reading")
        adopted = await self._patiently(self._earlier_part, "its earlier parts are looked for")
        if adopted is not None:
            return adopted
        if self.task.work.pass_over is not None or self.task.work.report is not None:
            return await self._judge()
        if self.task.work.train is not None:
            return await self._train(self.task.work.train, cast("TrainingBackend", backend))
        items = self._items = await self._patiently(lambda: self._read(info), "its rows are read")
        self._enter("generating")
        if isinstance(items, ImageItems):
            await self._images(items).run(cast("ImageBackend", backend))
        elif isinstance(items, AudioItems):
            await self._audio(items).run(cast("AudioBackend", backend))
        elif isinstance(items, TableItems):
            await self._table(items).run(cast("TabularBackend", backend))
        elif isinstance(items, DatasetItems):
            await converse(cast("Backend", backend), items.requests, items.settle)
        else:
            await answer(items, cast("Backend", backend))
        self._enter("writing")
        data = items.join()
        await self.granted.wait()
        await self._write(self.key, data, "application/jsonl")
        return self._described(self.key, data, items.counts, items.usage)

    async def salvage(self) -> Part | None:
        """Write the records of the items that had ended before this was interrupted; None where that cannot be.

        What is lost here is only work: whoever runs the shard next answers the same items again.
        """
        if self._items is None or not self._items.counts.done or not self.granted.is_set():
            return None
        if self.task.redo is not None:
            return None  # what would be carried over next is judged by the part that this one carries over
        data, counts, usage = self._items.join_ended()
        try:
            async with asyncio.timeout(SALVAGE_SECONDS):
                await asyncio.to_thread(self._store.put, self.partial_key, data, content_type="application/jsonl")
        except (StoreError, TimeoutError) as error:
            logger.warning("shard %s/%s: what had ended is not kept: %s", self.task.job, self.task.shard, error)
            return None
        return self._described(self.partial_key, data, counts, usage)

    def _described(self, key: str, data: bytes, counts: Counts, usage: Usage) -> Part:
        work = self.task.work
        checks = None if work.accept is None else check_figures(data)
        rows = linked_rows(data) if work.table is not None and work.table.linked else None
        return describe_part(key, data, counts, usage, checks=checks, rows=rows)

    async def _train(self, work: TrainWork, backend: TrainingBackend) -> Part:
        training = self._training = TrainingShard(
            self.task,
            work,
            self._execution,
            self._store,
            cache_dir=self._cache_dir,
            granted=self.granted,
            write=self._write,
            enter=self._enter,
        )
        data = await training.run(backend)
        await self._write(self.key, data, "application/jsonl")
        return describe_part(self.key, data, training.counts, Usage())

    async def _judge(self) -> Part:
        """Judge or describe what another job has made."""
        from workers.dataset_shard import DatasetShard  # noqa: PLC0415 - duckdb and its like only where they are needed

        await self.granted.wait()
        self._enter("generating")
        shard = DatasetShard(
            self.task,
            self._execution,
            self._store,
            cache_dir=self._cache_dir,
            write=self._write,
            ask=self._patiently,
        )
        data = await shard.run()
        self._enter("writing")
        await self._write(self.key, data, "application/jsonl")
        return describe_part(self.key, data, Counts(ok=1), Usage())

    def _table(self, items: TableItems) -> TableShard:
        from workers.table_shard import TableShard  # noqa: PLC0415 - as above

        folder = table_folder(self.task.job, self.task.shard, self.task.token, self._execution)
        return TableShard(
            items, self._store, folder=folder, write=self._write, ask=self._patiently, granted=self.granted
        )

    def _images(self, items: ImageItems) -> ImageShard:
        return ImageShard(
            items,
            self._store,
            folder=images_folder(self.task.job, self.task.shard, self.task.token, self._execution),
            write=self._write,
            ask=self._patiently,
            granted=self.granted,
            screen=self._screen,
            credentials=self._credentials,
            options=self.task.work.parsed_options(),
        )

    def _audio(self, items: AudioItems) -> AudioShard:
        folder = audio_folder(self.task.job, self.task.shard, self.task.token, self._execution)
        return AudioShard(items, folder=folder, write=self._write, granted=self.granted)

    async def _write(self, key: str, data: bytes, content_type: str) -> None:
        await self._patiently(lambda: self._store.put(key, data, content_type=content_type), f"{key} is written")

    async def _patiently(self, ask: Callable[[], Answer], what: str) -> Answer:
        """Ask something of the store, in a thread, again and again while it is away; being told to stop ends that."""
        give_up_at = self._clock() + STORE_SECONDS
        longest = FIRST_PAUSE
        while True:
            try:
                return await asyncio.to_thread(ask)
            except (MissingObjectError, ChangedObjectError):
                raise  # the store is there, and this is its answer
            except StoreError as error:
                pause = self._between(0, longest)
                if self._clock() + pause >= give_up_at:
                    raise
                logger.warning("shard %s/%s: %s again: %s", self.task.job, self.task.shard, what, error)
                await self._sleep(pause)
                longest = min(LONGEST_PAUSE, longest * 2)

    def _enter(self, phase: Phase) -> None:
        now = self._clock()
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._entered
        self._phase, self._entered = phase, now

    def _earlier_part(self) -> Part | None:
        for key in self.task.earlier:
            try:
                data = self._store.get(key)
                return read_part(key, data, first=self.task.first, count=self.task.count)
            except (MissingObjectError, BrokenPartError):
                # The usual case: that execution died before it wrote.
                continue
        return None

    def _upstream(self) -> Upstream:
        task = self.task
        parts = {node: task.upstream.get(node, ()) for node in task.work.upstream}
        return read_upstream(parts, task.first, task.count, self._store)

    def _read(self, info: ModelInfo) -> AnyItems:
        carried = None if self.task.carry_from is None else self._store.get(self.task.carry_from)
        earlier = {} if carried is None else earlier_records(carried)
        rejected = read_rejections(self.task.redo, self._store)
        earlier = judged(earlier, rejected, self.task.redo)
        cache_dir = self._cache_dir or Path(tempfile.gettempdir())
        work = self.task.work
        if work.table is not None:
            return TableItems(self.task, info, read_rows(self.task.source, self._store), earlier, rejected=rejected)
        adapters = find_adapters(work, info, self._store, cache_dir)
        rows, upstream = read_rows(self.task.source, self._store), self._upstream()
        if work.dataset is not None:
            return DatasetItems(self.task, info, rows, earlier, upstream, adapters, self._classifiers)
        if work.requests is not None:
            return ChatItems(self.task, info, rows, earlier, upstream, adapters)
        if work.image is None and work.audio is None:
            return TextItems(self.task, info, rows, earlier, upstream, adapters, self._classifiers)
        kind = ImageItems if work.image is not None else AudioItems
        return kind(self.task, info, rows, earlier, upstream, adapters)
