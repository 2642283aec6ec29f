"""Which engine a shard's work needs, and how it is opened: text and images in one place."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from models import catalog, image_catalog
from models.backend import Backend, ImageBackend
from workers.contracts import Work

AnyBackend: TypeAlias = Backend | ImageBackend


def engine_of(work: Work) -> str:
    """What the pool knows the work's engine by, beside the model's name.

    Raises:
        ModelError: no engine that is installed here can do it.
    """
    if work.image is not None:
        return image_catalog.engine_key(work.model, work.image.steps)
    return catalog.choose_engine(work.model, work.engine)


def needs_place(model: str, engine: str) -> bool:
    """Whether a model on an engine takes a place on a machine: a GPU, or the cores of a host without one."""
    steps = image_catalog.steps_of(engine)
    return catalog.needs_place(model) if steps is None else image_catalog.needs_place(model, steps)


def open_engine(model: str, engine: str, cache_dir: Path) -> AnyBackend:
    """The back-end of a model on an engine, not loaded yet.

    Raises:
        ModelError: it cannot be opened here.
    """
    steps = image_catalog.steps_of(engine)
    if steps is None:
        return catalog.open_backend(model, engine=engine, cache_dir=cache_dir)
    return image_catalog.open_image_backend(model, steps, cache_dir=cache_dir)
