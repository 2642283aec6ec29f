"""The back-end that trains models, in a thread of this process. torch is imported by `load` or `train`."""

from __future__ import annotations

import asyncio
import threading
import time

from models.backends.sequences import import_engine
from models.errors import FailureKind, ModelError
from models.spec import ModelInfo
from models.training_run import TRAINING_ENGINE, TableData, TrainedFiles, TrainingPlace, TrainingRequest

ENGINE_MODULE = "models.backends.training_engine"
TUNING_MODULE = "models.backends.tuning_engine"
"""Of adapters, for which a base model has to be imported, too."""
TABLES_MODULE = "models.backends.table_engine"
END_SECONDS = 20.0
"""How long a training that is to end may take for its step and its checkpoint."""
LEAST_WORK = 0.01
"""Seconds of the processor between two looks by which a thread is seen to compute."""


class ThreadTrainingBackend:
    """One training at a time."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._signs: Signs | None = None

    async def load(self) -> ModelInfo:
        """Import the engine."""
        started = time.monotonic()
        try:
            await asyncio.to_thread(import_engine, ENGINE_MODULE)
        except ImportError as error:
            raise ModelError(FailureKind.MODEL, "engine_not_installed", f"models cannot be trained: {error}") from error
        return ModelInfo(
            model=TRAINING_ENGINE,
            revision="none",
            engine=TRAINING_ENGINE,
            context_length=0,
            reproducible="seeded",
            shards_in_flight=1,
            load_seconds=time.monotonic() - started,
        )

    async def train(self, request: TrainingRequest, place: TrainingPlace) -> TrainedFiles:
        """See `TrainingBackend`."""
        stop = self._stop = threading.Event()
        signs = self._signs = Signs()

        def run() -> TrainedFiles:
            signs.begin()
            engine = import_engine(_module(request))
            trained: TrainedFiles = engine.train_files(request, place, stop=stop, signs=signs)
            return trained

        training = asyncio.get_running_loop().run_in_executor(None, run)
        try:
            return await asyncio.shield(training)
        except asyncio.CancelledError:
            stop.set()
            # Its checkpoint is worth a moment. What it raises, or whether it ends at all, changes nothing any more.
            await asyncio.wait([training], timeout=END_SECONDS)
            if training.done() and not training.cancelled():
                training.exception()
            raise
        finally:
            self._signs = None

    def quiet_seconds(self) -> float:
        """See `TrainingBackend`."""
        signs = self._signs
        return 0.0 if signs is None else signs.quiet_seconds()

    async def close(self) -> None:
        """End the training after its step."""
        self._stop.set()


def _module(request: TrainingRequest) -> str:
    if isinstance(request.data, TableData):
        return TABLES_MODULE
    return ENGINE_MODULE if request.base is None else TUNING_MODULE


class Signs:
    """What tells a slow step from one that hangs: the thread's steps, and the processor time that it uses.

    While it waits for somebody else (the object store, which has time limits of its own) it is `away`, and not judged.
    """

    def __init__(self) -> None:
        self._clock: int | None = None
        self._used = 0.0
        self._seen_at = time.monotonic()
        self.away = False

    def begin(self) -> None:
        """Called in the thread that will train."""
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self.show()

    def show(self) -> None:
        """A sign of life."""
        self._seen_at = time.monotonic()

    def quiet_seconds(self) -> float:
        """Since the last sign."""
        used = 0.0 if self._clock is None else time.clock_gettime(self._clock)
        if self.away or self._clock is None or used - self._used >= LEAST_WORK:
            self._used = used
            self.show()
        return time.monotonic() - self._seen_at
