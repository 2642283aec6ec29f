"""Models that were trained, in the store: `models/NAME/VERSION/`, a version being the id of the job that trained it.

An execution leaves its files in a folder of its own below that. `model.json` names those of the execution that won and
is written last, by the orchestrator, from the job's winning part: so a version is one model, whole, and never another,
whatever a worker that lost its lease may still write. Nothing here rests on listings but the list of all models.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock
import msgspec

from models.errors import FailureKind, ModelError, UnknownModelError
from models.tabular.columns import Column
from models.tabular.saved import Linked
from models.training_run import TRAINED_NAME, VERSION
from workers.store import MissingObjectError, ObjectStore

MODELS_PREFIX = "models/"
COMMIT = "model.json"
CONTENT_TYPES = {
    ".safetensors": "application/octet-stream",
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".png": "image/png",
}


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a model."""

    name: str
    key: str
    bytes: int
    sha256: str


class TrainedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model as its job's record, and later its `model.json`, describes it."""

    name: str
    version: str
    family: str
    width: int
    height: int
    channels: int
    classes: tuple[str, ...]
    trained_at: float
    """Seconds since the epoch."""
    source: str
    license: str
    """Of the data."""
    images: int
    """That it was trained on."""
    step: int
    finished: bool
    """Whether all steps were made; False where its time was up before."""
    losses: dict[str, float]
    seconds: float
    files: tuple[ModelFile, ...]
    rows: int = 0
    """That it was trained on."""
    base: str | None = None
    """Of an adapter: the model that it changes. It is none by itself."""
    base_revision: str | None = None
    metrics: dict[str, float] = {}
    """Of an adapter: its loss on what was held out, and the base's."""
    columns: tuple[Column, ...] = ()
    """Of a model of tables."""
    linked: Linked | None = None
    """Of a model of tables whose rows belong to subjects: how."""
    schema_version: int = 1

    @property
    def id(self) -> str:
        """As a job names it."""
        return f"{self.name}@{self.version}"

    @property
    def is_text(self) -> bool:
        """Whether it has to do with texts, not with pictures or tables."""
        return self.rows > 0 and not self.columns

    @property
    def is_table(self) -> bool:
        """Whether it makes tables."""
        return bool(self.columns)


_models = msgspec.json.Decoder(TrainedModel)


def version_folder(name: str, version: str) -> str:
    """Where everything of a version lies."""
    return f"{MODELS_PREFIX}{name}/{version}/"


def execution_folder(name: str, version: str, execution: str) -> str:
    """Where an execution leaves the files of the model that it trained: its own alone."""
    return f"{version_folder(name, version)}{execution}/"


def publish(store: ObjectStore, model: TrainedModel) -> None:
    """Make a version one that jobs can name. Whoever does so again writes the same.

    Raises:
        StoreError: the store failed.
    """
    key = version_folder(model.name, model.version) + COMMIT
    store.put(key, msgspec.json.format(msgspec.json.encode(model)), content_type="application/json")


def read_model(store: ObjectStore, name: str, version: str) -> TrainedModel | None:
    """A version; None where there is none.

    Raises:
        StoreError: the store cannot be reached.
    """
    try:
        return _models.decode(store.get(version_folder(name, version) + COMMIT))
    except MissingObjectError:
        return None


def listed_versions(store: ObjectStore, name: str | None = None) -> Iterator[tuple[str, str]]:
    """Names and versions, of all models or of one. A listing may lag behind what was written.

    Raises:
        StoreError: the store cannot be reached.
    """
    for key in store.list(MODELS_PREFIX if name is None else f"{MODELS_PREFIX}{name}/"):
        parts = key.split("/")
        if len(parts) == 4 and parts[3] == COMMIT and TRAINED_NAME.fullmatch(parts[1]) and VERSION.fullmatch(parts[2]):
            yield parts[1], parts[2]


def fetch_model(store: ObjectStore, name: str, version: str, cache_dir: Path) -> Path:
    """The folder of a version on this machine: fetched where it is not there whole, and its digests checked.

    Raises:
        UnknownModelError: there is no such version.
        ModelError: kind MODEL, code `weights_damaged`: what the store holds is not what was trained.
        StoreError: the store cannot be reached.
    """
    model = read_model(store, name, version)
    if model is None:
        raise UnknownModelError(f"there is no trained model {name}@{version} in the store {store.url}")
    folder = cache_dir / "trained" / name / version
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Shards that ask for one model at once wait here for the one that fetches it.
    with filelock.FileLock(f"{folder}.lock"):
        if not _is_whole(folder, model):
            _fetch(store, model, folder)
    return folder


def _fetch(store: ObjectStore, model: TrainedModel, folder: Path) -> None:
    """Put a model's files in a folder that is then there whole, or as it was."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        fresh = Path(beside, "fresh")
        fresh.mkdir()
        for file in model.files:
            (fresh / Path(file.name).name).write_bytes(_content(store, file))
        if folder.exists():
            folder.rename(Path(beside, "damaged"))
        fresh.rename(folder)


def _content(store: ObjectStore, file: ModelFile) -> bytes:
    data = store.get(file.key)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise ModelError(FailureKind.MODEL, "weights_damaged", f"{file.key} in {store.url} is not what was trained")
    return data


def _is_whole(folder: Path, model: TrainedModel) -> bool:
    for file in model.files:
        path = folder / Path(file.name).name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
            return False
    return True
