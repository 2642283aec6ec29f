"""Where a training leaves its checkpoints, losses, samples and event files, and how far it is.

Called from the training's thread. A store that fails costs a checkpoint or a sheet of samples, never the training: the
next one follows, and what a kill then costs is the steps since the last that was kept.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson

from models.training_run import SavedState, TrainingNews
from workers.checkpoints import StoredCheckpoints
from workers.keys import events_prefix, training_folder
from workers.store import ObjectStore, StoreError
from workers.training_progress import TrainingProgress

logger = logging.getLogger(__name__)
HISTORY_SECONDS = 5.0
"""How often the losses are written anew while nothing else is."""
MAX_LINES = 20_000
"""Lines of losses that are kept; beyond that every second one of the older half is dropped."""
_NO_PROGRESS = TrainingProgress(step=0, steps=0)


class StoredTraining:
    """A `TrainingPlace` in the object store.

    Args:
        store: Nightmill's own.
        job: The job.
        execution: Whose training it is.
        checkpoints: Where its state is kept.
        events: The folder of its event files.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        store: ObjectStore,
        job: str,
        execution: str,
        checkpoints: StoredCheckpoints,
        events: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.progress: TrainingProgress | None = None
        self._store = store
        self._folder = training_folder(job, execution)
        self._event_prefix = events_prefix(job)
        self._execution = execution
        self._checkpoints = checkpoints
        self._events = events
        self._clock = clock
        self._lines: list[dict[str, Any]] = []  # JSON
        self._written_at = -math.inf
        self._unwritten = False

    def latest(self) -> SavedState | None:
        """See `TrainingPlace`; the losses up to there come along."""
        found = self._checkpoints.latest()
        if found is not None:
            self._lines = self._earlier_lines(found)
            self._change(step=found.step, checkpoint=found.step, resumed_at=found.step)
            logger.info("training goes on from the checkpoint of step %d", found.step)
        return found

    def save(self, saved: SavedState) -> None:
        """See `TrainingPlace`. A store that fails is told of in the log, and the training goes on."""
        state = {**orjson.loads(saved.state), "lines": self._lines}
        try:
            self._checkpoints.save(
                SavedState(step=saved.step, seconds=saved.seconds, tensors=saved.tensors, state=orjson.dumps(state))
            )
            self._change(checkpoint=saved.step)
        except StoreError as error:
            logger.warning("the checkpoint of step %d is not kept: %s", saved.step, error)
        self._write_history()
        self._write_events()

    def tell(self, news: TrainingNews) -> None:
        """See `TrainingPlace`."""
        self._change(
            step=news.step,
            steps=news.steps,
            images_per_second=round(news.images_per_second, 1),
            seconds_left=None if news.seconds_left is None else round(news.seconds_left, 1),
        )
        if news.told:
            self._change(losses=dict(news.losses))
            self._lines.append(
                {
                    "step": news.step,
                    "losses": dict(news.losses),
                    "seconds": round(news.seconds, 3),
                    "images_per_second": round(news.images_per_second, 1),
                }
            )
            self._thin()
            self._unwritten = True
        if news.samples is not None:
            self._put_samples(news.step, news.samples)
        if self._unwritten and self._clock() - self._written_at >= HISTORY_SECONDS:
            self._write_history()

    def finish(self) -> None:
        """Write what is not written yet; called once the training has ended, its event file with it."""
        self._write_history()
        self._write_events()

    def _earlier_lines(self, found: SavedState) -> list[dict[str, Any]]:  # JSON
        lines = orjson.loads(found.state).get("lines", [])
        return [line for line in lines if line["step"] <= found.step]

    def _thin(self) -> None:
        if len(self._lines) > MAX_LINES:
            half = MAX_LINES // 2
            self._lines = self._lines[:half:2] + self._lines[half:]

    def _put_samples(self, step: int, png: bytes) -> None:
        key = f"{self._folder}samples-{step:09}.png"
        if self._put(key, png, "image/png"):
            self._change(samples=key)

    def _write_history(self) -> None:
        self._written_at = self._clock()
        key = f"{self._folder}losses.jsonl"
        if self._put(key, b"".join(orjson.dumps(line) + b"\n" for line in self._lines), "application/jsonl"):
            self._unwritten = False
            self._change(history=key)

    def _write_events(self) -> None:
        for path in sorted(self._events.glob("events.out.tfevents.*")):
            # The files of a folder are one run, in the order of their names: these begin with a time.
            started = path.name.removeprefix("events.out.tfevents.").partition(".")[0]
            key = f"{self._event_prefix}events.out.tfevents.{started}.{self._execution}"
            if self._put(key, path.read_bytes(), "application/octet-stream"):
                self._change(events=key)

    def _put(self, key: str, content: bytes, content_type: str) -> bool:
        try:
            self._store.put(key, content, content_type=content_type)
        except StoreError as error:
            logger.warning("%s is not written: %s", key, error)
            return False
        return True

    def _change(self, **fields: object) -> None:
        self.progress = msgspec.structs.replace(self.progress or _NO_PROGRESS, **fields)
