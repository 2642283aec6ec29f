"""Training of adapters between rows or images and the files of an adapter's folder."""

from __future__ import annotations

import threading

from models.backends.training import Signs
from models.backends.training_engine import TrainingRun, TrainingStoppedError
from models.training.cards import CARD, AdapterAbout, adapter_card
from models.training.loop import train_subject
from models.training.text_tuning import TextTuning
from models.training.tuning import Tuning
from models.training_run import Base, TableData, TextData, TrainedFiles, TrainingPlace, TrainingRequest


def train_files(request: TrainingRequest, place: TrainingPlace, *, stop: threading.Event, signs: Signs) -> TrainedFiles:
    """Train an adapter, and return its files. In the calling thread, which `signs` watches.

    Raises:
        ModelError: kind MODEL, as `TrainingBackend.train`.
        TrainingStoppedError: `stop` was set before the end.
    """
    if request.base is None:
        raise AssertionError("an adapter is trained for a base model")
    tuning = _open(request, request.base)
    run = TrainingRun(request.settings, place, stop, signs)
    ended = train_subject(
        tuning, run.settings_left(), run, watch=run.watch, event_folder=request.event_folder, each_step=run.each_step
    )
    if stop.is_set() and not ended.finished:
        raise TrainingStoppedError
    tuning.keep_average()
    metrics = tuning.judge()
    text = isinstance(request.data, TextData)
    source = f"the {'file' if text else 'folder'} {request.data.name}: {tuning.examples} {tuning.what}"
    about = AdapterAbout(
        name=request.model,
        base=request.base.model,
        base_revision=tuning.base_revision,
        kind="text" if text else "image",
        settings=request.settings,
        source=source,
        license=request.data.license,
        learned=len(tuning.learned),
        held_out=len(tuning.held_out),
        step=ended.step,
        losses=ended.losses,
        metrics=metrics,
    )
    return TrainedFiles(
        files={**tuning.files(), CARD: adapter_card(about).encode()},
        family=request.settings.family,
        height=tuning.size[0],
        width=tuning.size[1],
        channels=0 if text else 3,
        classes=tuning.classes,
        images=0 if text else tuning.examples,
        rows=tuning.examples if text else 0,
        base=request.base.model,
        base_revision=tuning.base_revision,
        metrics=metrics,
        source=source,
        license=request.data.license,
        step=ended.step,
        losses=dict(ended.losses),
        seconds=run.seconds,
        finished=ended.finished,
    )


def _open(request: TrainingRequest, base: Base) -> Tuning:
    if isinstance(request.data, TableData):
        raise AssertionError("an adapter is not trained on a table")  # noqa: TRY004  # no caller's fault
    if isinstance(request.data, TextData):
        return TextTuning(base, request.data, request.settings)
    # Imported here: a text model needs nothing of diffusers.
    from models.training.image_tuning import ImageTuning  # noqa: PLC0415

    return ImageTuning(base, request.data, request.settings)
