"""Which engine a shard's work needs, and how it is opened: text, images, speech and training in one place."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from models import audio_catalog, catalog, image_catalog, training_run
from models.backend import AudioBackend, Backend, ImageBackend
from models.tabular.engine import TabularBackend
from models.tabular.families import TABLE_ENGINE, check_table_engine, open_table_backend
from models.training_run import TRAINING_ENGINE, TrainingBackend
from workers.contracts import Work
from workers.dataset_engine import DATASET_ENGINE, DatasetEngine
from workers.store import ObjectStore
from workers.trained_models import fetch_model

AnyBackend: TypeAlias = Backend | ImageBackend | AudioBackend | TrainingBackend | TabularBackend | DatasetEngine


def engine_of(work: Work) -> str:
    """What the pool knows the work's engine by, beside the model's name.

    Raises:
        ModelError: no engine that is installed here can do it.
    """
    if work.pass_over is not None or work.report is not None:
        return DATASET_ENGINE
    if work.table is not None:
        return TABLE_ENGINE
    if work.train is not None:
        if work.train.fit is not None:
            check_table_engine(work.train.parsed_settings().family)
        training_run.check_training_engine(tuning=work.train.tune is not None)
        return TRAINING_ENGINE
    if work.image is not None:
        return image_catalog.engine_key(work.model, work.image.steps)
    if work.audio is not None:
        return audio_catalog.engine_key(work.model)
    return catalog.engine_key(work.model, work.engine, adapters=work.adapter is not None)


def needs_place(model: str, engine: str) -> bool:
    """Whether a model on an engine takes a place on a machine: a GPU, or the cores of a host without one."""
    if engine in {TRAINING_ENGINE, TABLE_ENGINE}:
        return True
    if engine == DATASET_ENGINE:
        return False
    if audio_catalog.is_audio_key(engine):
        return audio_catalog.needs_place(model)
    steps = image_catalog.steps_of(engine)
    return catalog.needs_place(model) if steps is None else image_catalog.needs_place(model, steps)


def open_engine(model: str, engine: str, cache_dir: Path, store: ObjectStore) -> AnyBackend:
    """The back-end of a model on an engine, not loaded yet; the files of a trained model are fetched from the store.

    Raises:
        ModelError: it cannot be opened here.
        StoreError: the store cannot be reached.
    """
    if engine == TRAINING_ENGINE:
        return training_run.open_training_backend()
    if engine == DATASET_ENGINE:
        return DatasetEngine()
    trained = training_run.split_version(model)
    if engine == TABLE_ENGINE:
        if trained is None:
            raise AssertionError(f"{model!r} names no version")
        return open_table_backend(fetch_model(store, *trained, cache_dir))
    if audio_catalog.is_audio_key(engine):
        return audio_catalog.open_audio_backend(model)
    steps = image_catalog.steps_of(engine)
    if steps is None:
        return catalog.open_backend(model, engine=engine, cache_dir=cache_dir)
    folder = None if trained is None else fetch_model(store, *trained, cache_dir)
    return image_catalog.open_image_backend(model, steps, cache_dir=cache_dir, folder=folder)
