"""What a job file says of training: the fields that `JobSpec` has for it, and which of them go together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from models.catalog import MODELS, check_model
from models.errors import UnknownModelError
from models.image_catalog import IMAGE_MODELS, STEP_ENGINES, takes_adapters
from models.spec import Message
from models.tabular.columns import Kind
from models.training.settings import (
    CAPTION_FILES,
    TABLE_FAMILIES,
    TEXT_FAMILIES,
    Augmentation,
    FamilyName,
    TrainingSettings,
)
from models.training_run import TRAINED_NAME, Dataset
from orchestrator.deadlines import time_span
from workers.contracts import FitWork, ParentWork, SourceRange, TrainWork, TuneWork
from workers.store import UPLOAD_SCHEME

Text = Annotated[str, Field(min_length=1)]
Side = Annotated[int, Field(ge=8, le=512, multiple_of=4)]
DEFAULT_SIDE = 32
TEXT_SIDE = 64
"""For a family that learns from captions."""
FASHION_SIDE = 28
MAX_STEPS = 100_000_000
MAX_TRAINING_SEED = (1 << 31) - 1
ROW: dict[str, Any] = {"count": 1}
"""The source of every training job: its one item has no row."""
_DEFAULTS: Final = {
    "steps": 5000,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "average": 0.999,
    "log_every": 50,
    "sample_every": 500,
    "checkpoint_every": 250,
}
LORA_DEFAULTS: Final = {
    "steps": 300,
    "batch_size": 8,
    "learning_rate": 5e-4,
    "average": 0.0,
    "log_every": 10,
    "sample_every": 100,
    "checkpoint_every": 50,
}
"""A family's settings where a job gives none: an adapter learns from less, in fewer steps."""
_FAMILY_DEFAULTS: Final[dict[FamilyName, dict[str, Any]]] = {
    "lora": LORA_DEFAULTS,
    "tabular-argn": {**_DEFAULTS, "steps": MAX_STEPS},  # its epochs are the bound
    # The penalty on a critic's slope bears no fast steps.
    "tabular-gan": {**_DEFAULTS, "steps": 4000, "batch_size": 128, "learning_rate": 3e-4},
    "tabular-vae": {**_DEFAULTS, "steps": 10_000, "batch_size": 128},
}
_ENGINES_OWN: Final[dict[FamilyName, tuple[str, ...]]] = {
    "tabular-argn": (
        "batch_size",
        "learning_rate",
        "decay",
        "average",
        "bfloat16",
        "log_every",
        "sample_every",
        "checkpoint_every",
    ),
}
"""What an engine sets by itself."""
_OF_IMAGES: Final = ("width", "height", "colour", "augment")
LINKED_FAMILY: Final = "tabular-argn"
"""The one family of tables that learns sequences of rows."""
PARENT_FILE: Final = "data.parent.file"
NO_RANGES: Final[tuple[SourceRange, ...]] = ()


class ParentData(BaseModel):
    """The table of the subjects that the rows of a linked table belong to: one row each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Text | None = None
    """As `data.file`."""
    format: Literal["csv", "jsonl", "parquet"] | None = None
    delimiter: str | None = None
    query: Text | None = None
    """In place of a file: SQL, asked of `data.database`."""
    key: Text
    """The column that `data.foreign_key` names: no two rows have the same."""
    columns: dict[str, Kind] = Field(default_factory=dict)
    """As `data.columns`."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.file is None) == (self.query is None):
            raise ValueError("needs one of file and query: where the rows of the subjects are")
        for name in ("format", "delimiter"):
            if self.file is None and getattr(self, name) is not None:
                raise ValueError(f"{name} is for a file, and there is a query")
        if self.columns.get(self.key, "id") != "id":
            raise ValueError(f"columns.{self.key}: it is the key, which is of kind id; leave it out")
        return self

    def work(self, rows: tuple[SourceRange, ...]) -> ParentWork:
        """As the worker takes it."""
        name = "" if self.file is None else shown_folder(self.file)
        return ParentWork(key=self.key, rows=rows, query=self.query, columns=dict(self.columns), name=name)


class TrainData(BaseModel):
    """What a model is trained on: images, rows for the adapter of a text model, or a table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Text | None = None
    """A path (command line only), `s3://bucket/prefix/`, or an archive: `s3://…/x.tar`, `nightmill://…/x.tar`.

    Its sub-folders are the classes; without any all images are of one. For a family that learns from captions, a file
    in it has them (captions.jsonl or metadata.jsonl)."""
    dataset: Dataset | None = None
    """Images that the workers have installed."""
    file: Text | None = None
    """Rows, as `source.file` of other jobs."""
    format: Literal["csv", "jsonl", "parquet"] | None = None
    delimiter: str | None = None
    prompt: Text | None = None
    """A template over the row: the user's message."""
    system: Text | None = None
    """A template, too: the message before it."""
    completion: Text | None = None
    """A template, too: what the model is to answer."""
    query: Text | None = None
    """Of a table, in place of a file: SQL, asked of `database` by the worker."""
    database: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")] | None = None
    """The name of a database that the workers know: `NIGHTMILL_SOURCE_NAME` in their environment."""
    columns: dict[str, Kind] = Field(default_factory=dict)
    """Of a table: what columns are taken for, by name. The others are looked at."""
    foreign_key: Text | None = None
    """Of a linked table: rows with one value of this column are one subject's sequence."""
    order_by: Text | None = None
    """The column that orders a sequence; by default the rows' own order."""
    parent: ParentData | None = None
    """The subjects, on which the sequences depend."""
    width: Side | None = None
    height: Side | None = None
    """Pixels that images are fitted to; by default 32 each, 64 for a family that learns from captions."""
    colour: bool | None = None
    """False makes them grey. By default true."""
    license: Annotated[str, Field(min_length=1, max_length=200)] = "unknown"
    """Of the images: for the model's card."""
    augment: Augmentation = Augmentation()
    """What is done to an image at random each time that it is learned from."""

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        given = [name for name in ("folder", "dataset", "file", "query") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("needs one of folder and dataset, or for text and tables file, or for tables query")
        asks = self.query is not None or (self.parent is not None and self.parent.query is not None)
        if asks != (self.database is not None):
            raise ValueError("query and database go together: what is asked, and of which database")
        self._check_templates()
        self._check_links()
        of_rows = ("system", "format", "delimiter")
        if self.file is not None or self.query is not None:
            self._refuse(_OF_IMAGES, "images, and these are none")
        else:
            self._refuse((*of_rows, "columns", "foreign_key"), "rows, and these are none")
        if self.query is not None:
            self._refuse(of_rows, "a file, and there is a query")
        if (self.width is None) != (self.height is None):
            raise ValueError("gives one of width and height; give both or neither")
        if self.dataset is not None:
            own = f"a folder; the dataset {self.dataset} has its own"
            self._refuse(("width", "height", "colour", "license"), own)
        return self

    def _refuse(self, names: Iterable[str], what: str) -> None:
        for name in names:
            if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for {what}")

    def _check_templates(self) -> None:
        given = [name for name in ("prompt", "completion") if getattr(self, name) is not None]
        if self.file is None and given:
            raise ValueError(f"{given[0]} is for rows, and there is no file")
        if len(given) == 1:
            missing = "completion" if given[0] == "prompt" else "prompt"
            raise ValueError(f"{missing} is missing: a template over the row of {self.file}")
        if self.file is not None and self.system is not None and not given:
            raise ValueError("system is for a prompt, and there is none")
        if self.columns and given:
            raise ValueError("columns is for a table, and prompt and completion are for text; give one of the two")

    def _check_links(self) -> None:
        for name in ("order_by", "parent"):
            if self.foreign_key is None and getattr(self, name) is not None:
                raise ValueError(f"{name} is for a linked table; give foreign_key: the column that names the subject")
        if self.foreign_key is None:
            return
        if self.order_by == self.foreign_key:
            raise ValueError(f"order_by is {self.order_by!r}, the foreign key, which is the same in all of a sequence")
        if self.columns.get(self.foreign_key, "id") != "id":
            raise ValueError(f"columns.{self.foreign_key}: it is the foreign key, which is of kind id; leave it out")

    @property
    def templates(self) -> tuple[Message, ...]:
        """Of rows: the messages that the model reads and, last, what it is to answer; of images none."""
        if self.prompt is None or self.completion is None:
            return ()
        system = () if self.system is None else (Message("system", self.system),)
        return (*system, Message("user", self.prompt), Message("assistant", self.completion))

    def fit_work(self, rows: tuple[SourceRange, ...], parent_rows: tuple[SourceRange, ...]) -> FitWork:
        """Of a table: what a model is fitted to."""
        return FitWork(
            rows=rows,
            query=self.query,
            database=self.database,
            columns=dict(self.columns),
            foreign_key=self.foreign_key,
            order_by=self.order_by,
            parent=None if self.parent is None else self.parent.work(parent_rows),
        )

    def template_field(self, index: int) -> str:
        """The field that template `index` came from."""
        names = ["system"] * (self.system is not None) + ["prompt", "completion"]
        return f"data.{names[index]}"


class TrainingFields(BaseModel):
    """How a model is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: FamilyName
    base: Text | None = None
    """Of the family `lora`: the model that is tuned, a name, a folder or a hub id."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """The family's own, such as the widths of its layers."""
    steps: Annotated[int | None, Field(ge=1, le=MAX_STEPS, strict=True)] = None
    """Of this and what else is None, the family's default is taken."""
    budget: str | None = None
    """A span of time, such as 30m: the training ends after it, whatever steps are left."""
    batch_size: Annotated[int | None, Field(ge=2, le=4096, strict=True)] = None
    learning_rate: Annotated[float | None, Field(gt=0, le=1)] = None
    decay: Annotated[float, Field(ge=0, le=1)] = 0.3
    """The share of the steps, at the end, over which the learning rate falls to a twentieth."""
    average: Annotated[float | None, Field(ge=0, lt=1)] = None
    """How much of the running average of the weights stays in each step."""
    bfloat16: bool = False
    log_every: Annotated[int | None, Field(ge=1, le=MAX_STEPS, strict=True)] = None
    """Steps from one line of losses to the next."""
    sample_every: Annotated[int | None, Field(ge=1, le=MAX_STEPS, strict=True)] = None
    checkpoint_every: Annotated[int | None, Field(ge=1, le=MAX_STEPS, strict=True)] = None

    def settings(self, *, seed: int, augment: Augmentation) -> TrainingSettings:
        """As the engine takes them.

        Raises:
            ValueError: an option that the family does not have, or of a wrong value; a budget that is no time.
        """
        for name in _ENGINES_OWN.get(self.family, ()):
            if name in self.model_fields_set:
                raise ValueError(f"training.{name} is not for {self.family}, whose engine has its own rule for it")
        defaults = _FAMILY_DEFAULTS.get(self.family, _DEFAULTS)
        given: dict[str, Any] = {**defaults, **self.model_dump(exclude={"budget", "base"}, exclude_none=True)}
        given["sample_every"] = _multiple(given["sample_every"], given["log_every"])
        minutes = None if self.budget is None else time_span(self.budget).total_seconds() / 60
        try:
            return TrainingSettings(**given, minutes=minutes, seed=seed, augmentation=augment)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(step) for step in first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"training.options{f'.{place}' if place else ''}: {reason}") from error


class TrainFields(BaseModel):
    """The fields of a job that are for training alone; a job of another kind has neither."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: TrainData | None = None
    training: TrainingFields | None = None

    def train_work(
        self,
        seed: int,
        etag: str | None = None,
        rows: tuple[SourceRange, ...] = NO_RANGES,
        parent_rows: tuple[SourceRange, ...] = NO_RANGES,
    ) -> TrainWork:
        """The part of the job's work that is about training.

        Args:
            seed: The job's.
            etag: Pins an archive in S3.
            rows: Where a text model's or a table's rows are, as planning found them.
            parent_rows: The same of the parent of a linked table.
        """
        data, training = self.data, self.training
        if data is None or training is None:
            raise ValueError("a training job has data and training")
        side = TEXT_SIDE if training.family in TEXT_FAMILIES else DEFAULT_SIDE
        if data.dataset is not None:
            side = FASHION_SIDE
        elif training.base is not None or training.family in TABLE_FAMILIES:
            side = 0  # the base's own, or none
        settings = training.settings(seed=seed, augment=data.augment)
        return TrainWork(
            settings=settings.model_dump(mode="json"),
            uri=data.folder,
            etag=etag,
            dataset=data.dataset,
            name=data.dataset or shown_folder(data.folder or data.file or data.database or ""),
            height=data.height or side,
            width=data.width or side,
            grey=data.dataset is not None or data.colour is False,
            license=data.license,
            tune=None if training.base is None else TuneWork(base=training.base, messages=data.templates, rows=rows),
            fit=data.fit_work(rows, parent_rows) if training.family in TABLE_FAMILIES else None,
        )


def check_training(fields: TrainFields, *, model: str, seed: int) -> None:
    """Raise ValueError where the fields of a training job do not go together; the message names the field."""
    if fields.data is None:
        raise ValueError("data is missing; name the images that the model is trained on")
    if fields.training is None:
        raise ValueError("training is missing; give at least the model's family")
    if fields.training.family in TEXT_FAMILIES and fields.data.dataset is not None:
        raise ValueError(
            f"training.family: {fields.training.family} learns from captions, which the dataset {fields.data.dataset} "
            f"has none of; take a folder with {' or '.join(CAPTION_FILES)}"
        )
    if TRAINED_NAME.fullmatch(model) is None:
        raise ValueError(
            f"model: {model!r} cannot be the name of a new model; take small letters, digits and . _ -, at most 64"
        )
    if model in MODELS or model in IMAGE_MODELS or model in STEP_ENGINES:
        raise ValueError(f"model: {model!r} is the name of a model that Nightmill brings along; take another")
    if seed > MAX_TRAINING_SEED:
        raise ValueError(f"seed: {seed} is too high for a training; at most {MAX_TRAINING_SEED}")
    fields.training.settings(seed=seed, augment=fields.data.augment)
    _check_base(fields.data, fields.training)


def _check_base(data: TrainData, training: TrainingFields) -> None:
    if training.family in TABLE_FAMILIES:
        _check_table(data, training)
        return
    for name in ("columns", "query", "foreign_key"):
        if getattr(data, name):
            raise ValueError(f"data.{name} is for tables, and {training.family} learns from none")
    if training.family != "lora":
        if training.base is not None:
            raise ValueError(f"training.base is for the family lora, and this is {training.family}, which has none")
        if data.file is not None:
            raise ValueError(f"data.file is for the family lora; {training.family} learns from data.folder")
        return
    if training.base is None:
        raise ValueError("training.base is missing; name the model that the adapter is for")
    if data.dataset is not None:
        raise ValueError("data.dataset is not for an adapter; give data.folder, or data.file for text")
    if data.file is not None and data.prompt is None:
        raise ValueError("data.prompt and data.completion are missing; they are templates over the row")


def _check_table(data: TrainData, training: TrainingFields) -> None:
    if training.base is not None:
        raise ValueError(f"training.base is for the family lora, and this is {training.family}, which has none")
    if data.file is None and data.query is None:
        raise ValueError(f"data.file is missing; {training.family} learns from the rows of a table")
    if data.prompt is not None:
        raise ValueError(f"data.prompt is for the family lora; {training.family} learns from the rows as they are")
    if data.foreign_key is not None and training.family != LINKED_FAMILY:
        raise ValueError(
            f"data.foreign_key: {training.family} learns rows that stand alone; for sequences take {LINKED_FAMILY}"
        )


def check_base(base: str, *, text: bool) -> None:
    """Raise ModelError where a base is not there, or is none that an adapter can be trained for."""
    if text:
        if base in IMAGE_MODELS or (Path(base).expanduser() / "model_index.json").is_file():
            raise UnknownModelError(f"{base!r} makes images; give data.folder in place of data.file", "wrong_kind")
        check_model(base)
        if base == "echo":
            raise UnknownModelError("the model 'echo' has nothing to tune", "wrong_kind")
        return
    if base in MODELS:
        raise UnknownModelError(f"{base!r} writes text; give data.file in place of data.folder", "wrong_kind")
    if not takes_adapters(base):
        raise UnknownModelError(f"{base!r} is no pipeline of diffusers, and no other takes adapters", "wrong_kind")


def training_shape(fields: TrainFields) -> str:
    """What kind of work the job's one item is, for its speed."""
    work = fields.train_work(0)
    settings = work.parsed_settings()
    what = f"{settings.family} of {work.width}x{work.height}" if work.tune is None else f"lora of {work.tune.base}"
    if work.fit is not None:
        what = f"{settings.family} of {work.name}"
    return f"{what}, {settings.steps} steps of {settings.batch_size}, {settings.minutes or 0:g} minutes"


def shown_folder(folder: str) -> str:
    """The name of a folder, an archive or a prefix, as its owner calls it."""
    name = folder.rstrip("/").rpartition("/")[2]
    return (name.removesuffix(".tar") if folder.startswith((UPLOAD_SCHEME, "s3://")) else name) or "images"


def _multiple(number: int, of: int) -> int:
    """The nearest multiple that is not 0: samples are told of together with losses."""
    return max(1, round(number / of)) * of
