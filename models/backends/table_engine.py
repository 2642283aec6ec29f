"""Fitting of models of tables, as the training back-end calls it."""

from __future__ import annotations

import threading

from models.backends.training import Signs
from models.tabular.families import open_trainer
from models.training_run import TrainedFiles, TrainingPlace, TrainingRequest


def train_files(request: TrainingRequest, place: TrainingPlace, *, stop: threading.Event, signs: Signs) -> TrainedFiles:
    """Fit a model to a table, and return its files. In the calling thread, which `signs` watches.

    Raises:
        ModelError: kind MODEL, as `TrainingBackend.train`.
        TrainingStoppedError: `stop` was set before the end.
    """
    return open_trainer(request.settings.family).train(request, place, stop=stop, signs=signs)
