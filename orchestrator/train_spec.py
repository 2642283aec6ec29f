"""What a job file says of training: the fields that `JobSpec` has for it, and which of them go together."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from models.catalog import MODELS
from models.image_catalog import IMAGE_MODELS, STEP_ENGINES
from models.training.settings import CAPTION_FILES, TEXT_FAMILIES, Augmentation, FamilyName, TrainingSettings
from models.training_run import TRAINED_NAME, Dataset
from orchestrator.deadlines import time_span
from workers.contracts import TrainWork
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
_DEFAULTS = TrainingSettings(family="diffusion")


class TrainData(BaseModel):
    """The images that a model is trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Text | None = None
    """A path (command line only), `s3://bucket/prefix/`, or an archive: `s3://…/x.tar`, `nightmill://…/x.tar`.

    Its sub-folders are the classes; without any all images are of one. For a family that learns from captions, a file
    in it has them (captions.jsonl or metadata.jsonl)."""
    dataset: Dataset | None = None
    """Images that the workers have installed."""
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
    def _one_of_two(self) -> Self:
        if (self.folder is None) == (self.dataset is None):
            raise ValueError("needs one of folder and dataset")
        if (self.width is None) != (self.height is None):
            raise ValueError("gives one of width and height; give both or neither")
        if self.dataset is not None:
            for name in ("width", "height", "colour", "license"):
                if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is for a folder; the dataset {self.dataset} has its own")
        return self


class TrainingFields(BaseModel):
    """How a model is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: FamilyName
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """The family's own, such as the widths of its layers."""
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS, strict=True)] = _DEFAULTS.steps
    budget: str | None = None
    """A span of time, such as 30m: the training ends after it, whatever steps are left."""
    batch_size: Annotated[int, Field(ge=2, le=4096, strict=True)] = 64
    learning_rate: Annotated[float, Field(gt=0, le=1)] = _DEFAULTS.learning_rate
    decay: Annotated[float, Field(ge=0, le=1)] = _DEFAULTS.decay
    """The share of the steps, at the end, over which the learning rate falls to a twentieth."""
    average: Annotated[float, Field(ge=0, lt=1)] = _DEFAULTS.average
    """How much of the running average of the weights stays in each step."""
    bfloat16: bool = False
    log_every: Annotated[int, Field(ge=1, le=MAX_STEPS, strict=True)] = _DEFAULTS.log_every
    """Steps from one line of losses to the next."""
    sample_every: Annotated[int, Field(ge=1, le=MAX_STEPS, strict=True)] = 500
    checkpoint_every: Annotated[int, Field(ge=1, le=MAX_STEPS, strict=True)] = _DEFAULTS.checkpoint_every

    def settings(self, *, seed: int, augment: Augmentation) -> TrainingSettings:
        """As the engine takes them.

        Raises:
            ValueError: an option that the family does not have, or of a wrong value; a budget that is no time.
        """
        given = self.model_dump(exclude={"budget"})
        given["sample_every"] = _multiple(self.sample_every, self.log_every)
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

    def train_work(self, seed: int, etag: str | None = None) -> TrainWork:
        """The part of the job's work that is about training; `etag` pins an archive in S3."""
        data, training = self.data, self.training
        if data is None or training is None:
            raise ValueError("a training job has data and training")
        side = TEXT_SIDE if training.family in TEXT_FAMILIES else DEFAULT_SIDE
        if data.dataset is not None:
            side = FASHION_SIDE
        settings = training.settings(seed=seed, augment=data.augment)
        return TrainWork(
            settings=settings.model_dump(mode="json"),
            uri=data.folder,
            etag=etag,
            dataset=data.dataset,
            name=data.dataset or shown_folder(data.folder or ""),
            height=data.height or side,
            width=data.width or side,
            grey=data.dataset is not None or data.colour is False,
            license=data.license,
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


def training_shape(fields: TrainFields) -> str:
    """What kind of work the job's one item is, for its speed."""
    work = fields.train_work(0)
    settings = work.parsed_settings()
    return (
        f"{settings.family} of {work.width}x{work.height}, {settings.steps} steps of {settings.batch_size}, "
        f"{settings.minutes or 0:g} minutes"
    )


def shown_folder(folder: str) -> str:
    """The name of a folder, an archive or a prefix, as its owner calls it."""
    name = folder.rstrip("/").rpartition("/")[2]
    return (name.removesuffix(".tar") if folder.startswith((UPLOAD_SCHEME, "s3://")) else name) or "images"


def _multiple(number: int, of: int) -> int:
    """The nearest multiple that is not 0: samples are told of together with losses."""
    return max(1, round(number / of)) * of
