"""What a job file says of images: the fields that `JobSpec` has for them, and which of them go together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from models.image_catalog import uses_model
from models.images import ImageFormat, ImageSettings, StepName
from workers.contracts import ImageWork, Replay, Row

Text = Annotated[str, Field(min_length=1)]
DEFAULT_STEPS: tuple[StepName, ...] = ("generate",)
FIRST_STEPS: tuple[StepName, ...] = ("generate", "edit", "inpaint")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
"""By these a row's value is taken for the path of an image."""
LONGEST_PATH = 4096
METADATA = "nightmill.replay"
"""Under this name a replay's metadata say of what: `job/index/image`."""
_SETTINGS_OF: dict[str, tuple[StepName, ...]] = {
    "steps": FIRST_STEPS,
    "guidance": FIRST_STEPS,
    "scheduler": FIRST_STEPS,
    "loras": FIRST_STEPS,
    "width": FIRST_STEPS,
    "height": FIRST_STEPS,
    "strength": ("edit", "inpaint"),
    "style": ("style",),
    "style_strength": ("style",),
    "scale": ("upscale",),
}
"""Settings that mean something for these steps alone."""


class Safety(BaseModel):
    """What may not be made or stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: Annotated[float | None, Field(ge=0, le=1)] = None
    """From this score of the classifier on, an image is not stored and its item fails; None asks no classifier."""
    deny: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=10_000)] = ()
    """Words and phrases that no prompt may hold, whatever their case."""


class ReplayOf(BaseModel):
    """Which image a job makes again. Written by the service itself, for `nightmill replay`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: Text
    index: Annotated[int, Field(ge=0)]
    image: Annotated[int, Field(ge=0)]
    seed: Annotated[int, Field(ge=0)]
    batch: Annotated[int, Field(ge=1)]
    place: Annotated[int, Field(ge=0)] = 0


class ImageFields(BaseModel):
    """The fields of a job that are for images alone; a job of another kind leaves them at their defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    negative_prompt: Text | None = None
    """A template, too: what is not to be seen."""
    steps: Annotated[tuple[StepName, ...], Field(min_length=1)] = DEFAULT_STEPS
    """What is done to each image, in order; every step has an engine and batches of its own."""
    image: ImageSettings = ImageSettings()
    input: Text | None = None
    """The field of a row that holds the image to start from: `s3://…`, an upload's URI, or the image in base64."""
    mask: Text | None = None
    """The field that holds where to paint: white is painted anew."""
    style_image: Text | None = None
    """The field that holds an image whose style is taken, in place of `image.style`."""
    format: ImageFormat = "png"
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    """Of JPEG and WebP; WebP at 100 loses nothing."""
    provenance: bool = True
    """Whether each file says inside how it was made."""
    safety: Safety = Safety()
    replay: ReplayOf | None = None

    def image_work(self, prompt: str | None, adapters: Mapping[str, str]) -> ImageWork:
        """The part of the job's work that is about images; `adapters` gives versions of those that were trained."""
        settings = self.image.model_dump(mode="json", exclude_defaults=True)
        if self.image.loras:
            settings["loras"] = {adapters.get(name, name): weight for name, weight in self.image.loras.items()}
        return ImageWork(
            steps=self.steps,
            settings=settings,
            prompt=prompt or "",
            negative=self.negative_prompt or "",
            input=self.input,
            mask=self.mask,
            style_image=self.style_image,
            format=self.format,
            quality=self.quality,
            provenance=self.provenance,
            nsfw_threshold=self.safety.threshold,
            deny=self.safety.deny,
            adapters=tuple(adapters.values()),
            replay=None if self.replay is None else Replay(**self.replay.model_dump()),
        )

    @property
    def input_fields(self) -> tuple[str, ...]:
        """Fields of a row that hold images."""
        return tuple(name for name in (self.input, self.mask, self.style_image) if name is not None)


def refuse_image_fields(fields: ImageFields, kind: str, *, shared: Collection[str] = ()) -> None:
    """Raise ValueError where a job of another kind sets a field that is for images, but for those that both have."""
    for name in ImageFields.model_fields:
        if (
            name not in shared
            and name in fields.model_fields_set
            and getattr(fields, name) != ImageFields.model_fields[name].default
        ):
            raise ValueError(f"{name} is for images, and the job is of kind {kind}; set kind: image")


def check_images(fields: ImageFields, *, prompt: str | None) -> None:
    """Raise ValueError where the fields of an image job do not go together; the message names the field."""
    _check_steps(fields.steps)
    _check_inputs(fields)
    if prompt is None and fields.steps[0] == "generate":
        raise ValueError("the job has no prompt; the step generate needs one")
    if prompt is None and fields.negative_prompt is not None:
        raise ValueError("negative_prompt goes with a prompt, and the job has none")
    if not uses_model(fields.steps):
        for name, value in (("prompt", prompt), ("negative_prompt", fields.negative_prompt)):
            if value is not None:
                raise ValueError(
                    f"{name} is for generate, edit and inpaint, and the job's steps are {_all(fields.steps)}"
                )
    for name, steps in _SETTINGS_OF.items():
        given = name in fields.image.model_fields_set and getattr(fields.image, name) is not None
        if given and not set(steps) & set(fields.steps):
            raise ValueError(f"image.{name} is for {_any(steps)}, and the job's steps are {_all(fields.steps)}")
    if "quality" in fields.model_fields_set and fields.format == "png":
        raise ValueError("quality is for jpeg and webp; png loses nothing")
    if "remove_background" in fields.steps and fields.format == "jpeg":
        raise ValueError("format is jpeg, which cannot be transparent as remove_background needs; take png or webp")


def _check_steps(steps: tuple[StepName, ...]) -> None:
    for place, step in enumerate(steps):
        if steps.index(step) != place:
            raise ValueError(f"steps has {step} twice")
        if place and step in FIRST_STEPS:
            raise ValueError(f"steps: {step} can only come first, and {steps[0]} does")


def _check_inputs(fields: ImageFields) -> None:
    first = fields.steps[0]
    if first == "generate" and fields.input is not None:
        raise ValueError("input is given, and the first step is generate, which takes none; make it edit")
    if first != "generate" and fields.input is None:
        raise ValueError(f"input is missing: the step {first} needs the field of the row that holds its image")
    if (fields.mask is not None) != (first == "inpaint"):
        raise ValueError(
            "mask is missing: the step inpaint needs the field that holds where to paint"
            if first == "inpaint"
            else "mask is for the step inpaint, which the job has not"
        )
    if fields.style_image is not None and "style" not in fields.steps:
        raise ValueError("style_image is for the step style, which the job has not")
    if "style" in fields.steps and (fields.image.style is None) == (fields.style_image is None):
        raise ValueError("the step style needs one of image.style, a style's name, and style_image, a field of the row")


def _all(steps: tuple[StepName, ...]) -> str:
    return ", ".join(steps)


def _any(steps: tuple[StepName, ...]) -> str:
    return f"the step {steps[0]}" if len(steps) == 1 else f"{', '.join(steps[:-1])} and {steps[-1]}"


def shape_of(fields: ImageFields, count: int) -> str:
    """What kind of work an item is, for its speed: images, size, denoising steps, and what is done to them."""
    image = fields.image
    size = "" if image.width is None else f" {image.width}x{image.height}"
    denoising = "" if image.steps is None else f", {image.steps} steps"
    return f"{count} images{size}{denoising}, {'+'.join(fields.steps)}"


def default_model(data: dict[str, Any]) -> str | None:
    """The model of a job that names none and needs none; the job as it was written."""
    steps = data.get("steps")
    if isinstance(steps, list | tuple) and steps and all(isinstance(step, str) for step in steps):
        return None if set(steps) & set(FIRST_STEPS) else str(steps[0])
    return None


def with_absolute_paths(fields: ImageFields, row: Row, folder: Path) -> Row:
    """A row whose paths of images, relative to `folder`, are absolute."""
    found = {name: str(folder / path) for name in fields.input_fields if (path := path_in(row.get(name))) is not None}
    return {**row, **found} if found else row


def path_in(value: object) -> str | None:
    """The path that a field holds; None where it holds a URI, the image itself, or nothing."""
    if (
        not isinstance(value, str)
        or not value
        or len(value) > LONGEST_PATH
        or "://" in value
        or value.startswith("data:")
    ):
        return None
    return value if Path(value).suffix.lower() in SUFFIXES else None
