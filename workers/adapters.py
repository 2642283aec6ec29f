"""The adapters that a job names, on this machine: fetched from the store, or in a folder; each with its revision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from models import adapters, weights
from models.errors import FailureKind, ModelError
from models.spec import Adapter, ModelInfo
from models.training_run import split_version
from workers.contracts import Work
from workers.store import ObjectStore
from workers.trained_models import fetch_model, read_model


def find_adapters(work: Work, info: ModelInfo, store: ObjectStore, cache_dir: Path) -> Mapping[str, Adapter]:
    """A job's adapters by the names that its work has for them; of images, those alone that were trained here.

    Raises:
        ModelError: kind MODEL: there is no such adapter, or it was trained for other weights than the model's.
        StoreError: the store cannot be reached.
    """
    if work.image is not None:
        # A chain of engines answers for no weights in particular; then the shapes of its layers must do.
        base = info.revision if len(work.image.steps) == 1 else None
        return {name: _stored(name, base, store, cache_dir) for name in work.image.adapters}
    if work.adapter is None:
        return {}
    if weights.is_folder_name(work.adapter):
        return {work.adapter: adapters.find_adapter(Path(work.adapter).expanduser(), work.adapter)}
    return {work.adapter: _stored(work.adapter, info.revision, store, cache_dir)}


def _stored(name: str, base_revision: str | None, store: ObjectStore, cache_dir: Path) -> Adapter:
    version = split_version(name)
    if version is None:
        raise AssertionError(f"the planner has not said which version of {name!r} is meant")
    folder = fetch_model(store, *version, cache_dir)
    model = read_model(store, *version)
    if model is not None and base_revision is not None and model.base_revision != base_revision:
        raise ModelError(
            FailureKind.MODEL,
            "adapter_unfit",
            f"the adapter {name} was trained for {model.base} with weights {model.base_revision}, and the model "
            f"that is asked has {base_revision}",
        )
    return adapters.find_adapter(folder, name)
