"""Training between bytes and tensors: checkpoints as two files, samples as PNG, a model as the files of its folder."""

from __future__ import annotations

import io
import json
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save

from models.backends.training import Signs
from models.errors import FailureKind, ModelError
from models.training.captions import captioned_folder
from models.training.cards import write_card
from models.training.checkpoints import Checkpoint
from models.training.data import ImageData, fashion_mnist, image_folder
from models.training.loop import GRID_COLUMNS, Progress, sample_sheet, train
from models.training.saved import load_model, save_trained
from models.training.settings import TEXT_FAMILIES, TrainingSettings
from models.training_run import (
    SavedState,
    TableData,
    TextData,
    TrainedFiles,
    TrainingData,
    TrainingNews,
    TrainingPlace,
    TrainingRequest,
)

SAMPLES = "samples.png"
RATE_STEPS = 50
"""Steps over which the speed is taken."""
LEAST_MINUTES = 1e-6


class TrainingStoppedError(Exception):
    """It was told to stop. Its checkpoint is kept."""


def train_files(request: TrainingRequest, place: TrainingPlace, *, stop: threading.Event, signs: Signs) -> TrainedFiles:
    """Train, and return the model's files. In the calling thread, which `signs` watches.

    Raises:
        ModelError: kind MODEL, as `TrainingBackend.train`.
        TrainingStoppedError: `stop` was set before the end.
    """
    data = read_images(request.data, captions=request.settings.family in TEXT_FAMILIES)
    run = TrainingRun(request.settings, place, stop, signs)
    trained = train(
        data, run.settings_left(), run, watch=run.watch, event_folder=request.event_folder, each_step=run.each_step
    )
    if stop.is_set() and not trained.finished:
        raise TrainingStoppedError
    with tempfile.TemporaryDirectory(prefix="nightmill-model-") as home:
        folder = Path(home) / request.model
        save_trained(folder, trained, request.settings, data)
        write_card(folder, load_model(folder).about, {})
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    files[SAMPLES] = png(sample_sheet(trained.sampler, data.examples(GRID_COLUMNS)))
    return TrainedFiles(
        files=files,
        family=request.settings.family,
        height=trained.space.height,
        width=trained.space.width,
        channels=trained.space.channels,
        classes=trained.space.classes,
        images=len(data),
        source=data.source,
        license=data.license,
        step=trained.step,
        losses=dict(trained.losses),
        seconds=run.seconds,
        finished=trained.finished,
    )


class TrainingRun:
    """One execution of a training: its checkpoints, its time, its news."""

    def __init__(
        self,
        settings: TrainingSettings,
        place: TrainingPlace,
        stop: threading.Event,
        signs: Signs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._place = place
        self._stop = stop
        self._signs = signs
        self._clock = clock
        with self._away():
            self._latest = place.latest()
        self._before = 0.0 if self._latest is None else self._latest.seconds
        self._started = clock()
        self._ends: deque[tuple[float, int]] = deque(maxlen=RATE_STEPS)

    @property
    def seconds(self) -> float:
        """Spent so far, earlier executions included."""
        return self._before + self._clock() - self._started

    def settings_left(self) -> TrainingSettings:
        """The settings, with what earlier executions have left of the time."""
        if self._settings.minutes is None:
            return self._settings
        left = max(LEAST_MINUTES, self._settings.minutes - self._before / 60)
        return self._settings.model_copy(update={"minutes": left})

    def latest(self) -> Checkpoint | None:
        """See `models.training.checkpoints.Checkpoints`."""
        saved = self._latest
        if saved is None:
            return None
        try:
            state = json.loads(saved.state)
            return Checkpoint(saved.step, load(saved.tensors), state)
        except (SafetensorError, json.JSONDecodeError) as error:
            # The store has checked their digests: what is wrong with them was wrong when they were written.
            raise ModelError(
                FailureKind.MODEL, "checkpoint_damaged", f"the checkpoint of step {saved.step} is not one: {error}"
            ) from error

    def save(self, checkpoint: Checkpoint) -> None:
        """See `models.training.checkpoints.Checkpoints`."""
        saved = SavedState(
            step=checkpoint.step,
            seconds=self.seconds,
            tensors=save(dict(checkpoint.tensors)),
            state=json.dumps(dict(checkpoint.state)).encode(),
        )
        with self._away():
            self._place.save(saved)

    def each_step(self, step: int) -> bool:
        """Called before each step; True ends the training there."""
        self._signs.show()
        self._ends.append((self._clock(), step))
        with self._away():
            self._place.tell(self._news(step))
        return self._stop.is_set()

    def watch(self, told: Progress) -> None:
        """Called by the loop now and then."""
        samples = None if told.grid is None else png(told.grid)
        with self._away():
            self._place.tell(self._news(told.step, told, samples))

    def _news(self, step: int, told: Progress | None = None, samples: bytes | None = None) -> TrainingNews:
        (then, first), (now, last) = (self._ends[0], self._ends[-1]) if self._ends else ((0.0, 0), (0.0, 0))
        pace = (now - then) / (last - first) if last > first else None
        spans = [] if pace is None else [pace * (self._settings.steps - step)]
        if self._settings.minutes is not None:
            spans.append(max(0.0, 60 * self._settings.minutes - self.seconds))
        return TrainingNews(
            step=step,
            steps=self._settings.steps,
            losses={} if told is None else dict(told.losses),
            seconds=self.seconds,
            images_per_second=self._settings.batch_size / pace if pace else 0.0,
            seconds_left=min(spans, default=None),
            told=told is not None,
            samples=samples,
        )

    @contextmanager
    def _away(self) -> Iterator[None]:
        self._signs.away = True
        try:
            yield
        finally:
            self._signs.away = False
            self._signs.show()


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels (height by width by 3) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def read_images(asked: TrainingData | TextData | TableData, *, captions: bool = False) -> ImageData:
    """The images of a request, with their captions or in classes.

    Raises:
        ModelError: kind MODEL, they cannot be read.
    """
    if isinstance(asked, TextData | TableData):
        raise AssertionError("a training on images was given rows")  # noqa: TRY004  # no caller's fault
    if asked.folder is None:
        return fashion_mnist()
    read = captioned_folder if captions else image_folder
    try:
        return read(asked.folder, size=(asked.height, asked.width), grey=asked.grey, license=asked.license)
    except ModelError as error:
        # Where it was unpacked here says nothing to its owner.
        message = error.message.replace(f"{asked.folder}/", "").replace(str(asked.folder), asked.name)
        raise ModelError(error.kind, error.code, message) from error
