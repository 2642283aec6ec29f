"""What an image model is asked and what it answers: frozen types, shared by image back-ends and the layers above.

Pixels are numpy arrays, so that no layer above a back-end needs an engine's tensors. A job's settings are written by
people and are a pydantic model, so that its errors name the field.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.spec import EchoOptions, ItemError

Pixels: TypeAlias = NDArray[np.uint8]
"""Height by width by 3 (RGB) or by 4 (RGBA), 0 to 255."""
MAX_SIDE = 4096
StepName = Literal["generate", "edit", "inpaint", "upscale", "style", "remove_background"]
ImageFormat = Literal["png", "jpeg", "webp"]


class _Lora(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weight: float = 1.0


class ImageSettings(BaseModel):
    """How an image is made. What is None is the model's own default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Annotated[int | None, Field(ge=1, le=MAX_SIDE)] = None
    height: Annotated[int | None, Field(ge=1, le=MAX_SIDE)] = None
    """Pixels. A model may ask for a multiple of something."""
    steps: Annotated[int | None, Field(ge=1, le=1000)] = None
    """Denoising steps."""
    guidance: Annotated[float | None, Field(ge=0, le=100)] = None
    """Weight of classifier-free guidance."""
    scheduler: str | None = None
    """Name of a diffusers scheduler class that fits the model, such as `EulerDiscreteScheduler`."""
    strength: Annotated[float | None, Field(gt=0, le=1)] = None
    """Of an edit or an inpainting: how much of the input image is replaced; 1 keeps nothing of it."""
    loras: dict[str, Annotated[float, Field(ge=-4, le=4)]] = Field(default_factory=dict)
    """Adapters by name or folder, with their weights. People may write them as a list of `name` and `weight`, too."""
    style: str | None = None
    """Of a style step: one of its networks' names."""
    style_strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    scale: Literal[2, 3, 4] = 4
    """Of an upscale step: how many times as wide and as high."""

    @field_validator("loras", mode="before")
    @classmethod
    def _by_name(cls, given: object) -> object:
        if not isinstance(given, list | tuple):
            return given
        loras = [_Lora.model_validate(one) for one in given]
        found = {lora.name: lora.weight for lora in loras}
        if len(found) < len(loras):
            raise ValueError("names an adapter twice")
        return found

    def followed_by(self, later: ImageSettings) -> ImageSettings:
        """These with those that a later step was done with: both as an engine reports them, see `Image.settings`."""
        return self.model_copy(update=later.model_dump(exclude_unset=True))

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        if (self.width is None) != (self.height is None):
            raise ValueError("gives one of width and height; give both or neither")
        return self


class ImageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One item for an image engine.

    Image k of `n` is made from a generator of its own, seeded with `models.spec.output_seed(seed, k)`: what it is
    made from does not depend on batch, shard or neighbours.
    """

    index: int
    seed: int
    settings: ImageSettings
    n: int = 1
    options: EchoOptions | None = None
    prompt: str = ""
    """What the picture shows; for a class-conditional model, the name of a class or plain words for one."""
    negative: str = ""
    image: Pixels | None = None
    """What an edit, an inpainting, an upscaling, a style transfer starts from."""
    mask: Pixels | None = None
    """Of an inpainting, height by width by 3: white is painted anew."""
    style_image: Pixels | None = None
    """Of a style transfer, in place of a style's name."""
    batch: int | None = None
    """Of a replay: the batch is padded to as many pictures, this request's first; None leaves it to the engine."""
    place: int | None = None
    """Of a replay: at which place in its batch the picture is made; for a request with one image and a `batch`."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One picture."""

    pixels: Pixels
    seed: int
    batch: int
    """How many pictures were made in the batch that it was made in: a replay pads to as many."""
    place: int = 0
    """At which place in that batch, from 0: float kernels treat the last rows of a batch differently."""
    settings: ImageSettings = msgspec.field(default_factory=ImageSettings)
    """What it was made with: the settings that its engine reads, its own choice where the request left one open. What
    is not set here, the engine does not read."""


class ImageResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to the request of the same `index`: `n` images, or an error."""

    index: int
    images: tuple[Image, ...] = ()
    error: ItemError | None = None
