"""A training as a job sees it: what is asked, where it leaves things, what comes of it. Imports no engine.

The layer above says where checkpoints and progress go; everything that crosses is bytes and plain numbers, so that it
needs none of an engine's types. Back-ends of other kinds of training (adapters of a larger model, say) speak the same
protocol.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from models.errors import FailureKind, ModelError
from models.spec import Message, ModelInfo
from models.training.settings import TrainingSettings

if TYPE_CHECKING:
    import pyarrow as pa

    from models.tabular.columns import Column
    from models.tabular.saved import Linked

Dataset: TypeAlias = Literal["fashion-mnist"]
DATASETS: Final[tuple[Dataset, ...]] = ("fashion-mnist",)
TRAINED_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""The name of a model that a job trains."""
VERSION: Final = re.compile(r"[0-9A-Za-z]{1,64}")
TRAINING_ENGINE: Final = "training"
_NEEDS = ("torch", "safetensors", "tensorboard", "sentencepiece")
_TUNING_NEEDS = (*_NEEDS, "transformers", "diffusers", "peft")


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Where the images are, on this machine, and what they are made into."""

    folder: Path | None
    """Sub-folders are classes, or a file of it has the images' captions, as the family needs. None takes `dataset`."""
    dataset: Dataset | None
    name: str
    """Of the folder, for the model's card."""
    height: int
    width: int
    grey: bool
    license: str


@dataclass(frozen=True, slots=True)
class Example:
    """A row that a text model learns from: what it is asked, and what it is to answer."""

    messages: tuple[Message, ...]
    completion: str


@dataclass(frozen=True, kw_only=True)
class TextData:
    """Rows for a text model."""

    examples: Sequence[Example]
    name: str
    """Of the file, for the model's card."""
    license: str


@dataclass(frozen=True, kw_only=True)
class ParentTable:
    """The subjects of a table's sequences, one a row, with what is known of them."""

    table: pa.Table
    columns: tuple[Column, ...]
    """Its columns, in its order; that of the key is of kind `id`."""
    key: str
    """The column that the other table's foreign key names: no two are equal, none is missing."""


@dataclass(frozen=True, kw_only=True)
class TableData:
    """A table that a model of tables is fitted to: what was held out is not in it."""

    table: pa.Table
    """As `models.tabular.columns.plain_table` leaves it."""
    columns: tuple[Column, ...]
    """Its columns, in its order."""
    name: str
    """Of the file, for the model's card."""
    license: str
    held_out: int = 0
    """Rows that were held out."""
    foreign_key: str | None = None
    """The column, of kind `id`, that says which subject a row belongs to: the rows of one are a sequence. All of it is
    as `models.tabular.links.check_links` wants it."""
    order_by: str | None = None
    """The column that orders a sequence; by default its rows are in the table's order."""
    parent: ParentTable | None = None
    """What the sequences depend on. Some of its subjects may have no rows."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that an adapter is trained for."""

    model: str
    """As jobs name it."""
    cache_dir: Path
    """Where weights that were converted are kept."""


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """One training."""

    model: str
    """The name that the model will have, for its card."""
    settings: TrainingSettings
    """`minutes` bounds all of the time, that of earlier executions included."""
    data: TrainingData | TextData | TableData
    base: Base | None = None
    """Of an adapter; None trains a model from nothing."""
    event_folder: Path
    """Where event files for TensorBoard are written."""


@dataclass(frozen=True, kw_only=True)
class TrainingNews:
    """How far a training is."""

    step: int
    steps: int
    losses: Mapping[str, float]
    """Means since the news before; empty where none has been told yet."""
    seconds: float
    """Spent on it, those of earlier executions up to the checkpoint included."""
    images_per_second: float
    """Over the last steps; 0 where it is not known yet."""
    seconds_left: float | None
    told: bool
    """Whether `losses` are new: these news are worth a line."""
    samples: bytes | None = None
    """A sheet of samples as PNG, every now and then."""


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """A checkpoint as two files, and the time that had gone into it."""

    step: int
    seconds: float
    tensors: bytes
    """safetensors."""
    state: bytes
    """JSON."""


@dataclass(frozen=True, kw_only=True)
class TrainedFiles:
    """What a training has come to."""

    files: Mapping[str, bytes]
    """Weights (safetensors), config.json, README.md (the card), samples.png; of an adapter adapter_model.safetensors,
    adapter_config.json and the card."""
    family: str
    height: int = 0
    width: int = 0
    channels: int = 0
    """Of its pictures; 0 where a text model was tuned."""
    classes: Sequence[str] = ()
    """None of a model that draws what a text says."""
    images: int = 0
    """That it was trained on."""
    rows: int = 0
    """That it was trained on."""
    columns: Sequence[Column] = ()
    """Of a model of tables."""
    linked: Linked | None = None
    """Of a model of tables whose rows belong to subjects: how."""
    base: str | None = None
    """Of an adapter: the model that it changes."""
    base_revision: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was measured at the end."""
    source: str
    license: str
    step: int
    losses: Mapping[str, float]
    seconds: float
    finished: bool
    """Whether all steps were made; False where the time was up before."""


class TrainingPlace(Protocol):
    """Where a training keeps its state. Called from the training's own thread; a call may take as long as it must."""

    def latest(self) -> SavedState | None:
        """The newest checkpoint that is whole."""
        ...

    def save(self, saved: SavedState) -> None:
        """Keep a checkpoint."""
        ...

    def tell(self, news: TrainingNews) -> None:
        """Hear how far it is; after every step."""
        ...


class TrainingBackend(Protocol):
    """An engine that trains models in this process. It is used from one event loop, for one training at a time."""

    async def load(self) -> ModelInfo:
        """Import the engine; called once, before anything else.

        Raises:
            ModelError: it cannot be used here.
        """
        ...

    async def train(self, request: TrainingRequest, place: TrainingPlace) -> TrainedFiles:
        """Train from the latest checkpoint on, to the end. Cancelling ends it after its step, with a checkpoint.

        Raises:
            ModelError: kind MODEL: the data cannot be read, or the training diverged.
        """
        ...

    def quiet_seconds(self) -> float:
        """For how long the training has neither made a step nor computed: a step may be as slow as it will."""
        ...

    async def close(self) -> None:
        """End the training. May be called more than once."""
        ...


def check_training_engine(*, tuning: bool = False) -> None:
    """Raise ModelError, kind MODEL, where a model cannot be trained, or tuned, in this Python environment."""
    needs = _TUNING_NEEDS if tuning else _NEEDS
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            FailureKind.MODEL,
            "engine_not_installed",
            f"models cannot be trained here ({', '.join(missing)} missing): pip install 'nightmill[worker]'",
        )


def open_training_backend() -> TrainingBackend:
    """The back-end that trains; its engine is imported when it is loaded.

    Raises:
        ModelError: as `check_training_engine`.
    """
    check_training_engine()
    from models.backends.training import ThreadTrainingBackend  # noqa: PLC0415 - only in the process that trains

    return ThreadTrainingBackend()


def split_version(model: str) -> tuple[str, str] | None:
    """Name and version of `NAME@VERSION`; None where a model's name is of another form."""
    name, at, version = model.partition("@")
    if not at or TRAINED_NAME.fullmatch(name) is None or VERSION.fullmatch(version) is None:
        return None
    return name, version
