"""What every family of models has in common: what it learns in a step, and the network that samples afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from models.errors import FailureKind, ModelError
from models.training.data import ImageData
from models.training.settings import (
    AutoregressiveOptions,
    DiffusionOptions,
    FamilyName,
    GanOptions,
    Options,
    TextDiffusionOptions,
    VaeOptions,
    family_options,
)


class ImageSpace(BaseModel):
    """The pictures that a model makes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: Annotated[int, Field(ge=4, le=512, multiple_of=4)]
    width: Annotated[int, Field(ge=4, le=512, multiple_of=4)]
    channels: Literal[1, 3]
    classes: tuple[str, ...]
    """None where the model draws what a text says."""


def image_space(data: ImageData) -> ImageSpace:
    """What a model that learns from `data` makes.

    Raises:
        ModelError: kind MODEL, code `unfit_size`.
    """
    height, width = data.size
    try:
        return ImageSpace(height=height, width=width, channels=data.channels, classes=data.classes)
    except ValidationError as error:
        raise unfit_size(
            f"images of {width}x{height} cannot be learned: sides are multiples of 4, up to 512"
        ) from error


def unfit_size(message: str) -> ModelError:
    """Images of a size that a network cannot have."""
    return ModelError(FailureKind.MODEL, "unfit_size", message)


class Sampler(nn.Module, ABC):
    """The network that makes images from noise and classes or texts: all that a served model needs.

    An image is a function of its row of noise and its condition alone; no draw is made in `make`.
    """

    takes_text: ClassVar[bool] = False
    """Whether a condition is two sentence vectors (2 by 512), of the prompt and of what is not wanted (zeros where that
    is nothing); otherwise it is the index of a class."""

    default_steps: ClassVar[int | None] = None
    """Denoising steps, of a family that has them."""
    default_guidance: ClassVar[float | None] = None
    """Weight of classifier-free guidance, of a family that has it."""

    @abstractmethod
    def noise(self, generator: torch.Generator) -> Tensor:
        """All the random numbers that one image is made from."""

    @abstractmethod
    def make(
        self,
        noise: Tensor,
        labels: Tensor,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Images (batch, channels, height, width; -1 to 1) from stacked noise and one condition an image.

        `between` is called now and then; what it raises ends the making.
        """


class Family(ABC):
    """A model in training: networks, optimizers and what they learn in one step.

    What it draws comes from the generator that it is given: a step is a function of its state, its number and its
    images alone, and so a training that was interrupted goes on as if it had not been.
    """

    options: Options
    bfloat16: bool = False
    """Whether the networks run forward in bfloat16 where that loses little."""
    sampler: Sampler
    """Part of `networks`; its running average over the steps is what is kept."""

    def forward_pass(self) -> AbstractContextManager[object]:
        """Around what runs forward, and nothing else: the way back inside it took twice as long on a processor."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16)

    @staticmethod
    def descend(optimizer: Optimizer, loss: Tensor, *, longest: float | None = None) -> None:
        """One step down the gradient, shortened where it is longer than `longest`."""
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        if longest is not None:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, longest)
        optimizer.step()

    @abstractmethod
    def networks(self) -> Mapping[str, nn.Module]:
        """Everything with weights, by name; the sampler under `sampler`."""

    @abstractmethod
    def optimizers(self) -> Mapping[str, Optimizer]:
        """By name."""

    @abstractmethod
    def learn(self, step: int, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Take one step; returns its losses by name, each a number.

        `labels` are classes' indices or, of a model that takes text, a caption's vector an image.
        """


def build(name: FamilyName, space: ImageSpace, options: Mapping[str, object], learning_rate: float) -> Family:
    """A family's networks with fresh weights, drawn from torch's global generator.

    Raises:
        ValidationError: an option that the family does not have, or of a wrong value.
    """
    # Imported here: they import this module.
    from models.training.autoregressive import Autoregressive  # noqa: PLC0415
    from models.training.diffusion import Diffusion  # noqa: PLC0415
    from models.training.gan import Gan  # noqa: PLC0415
    from models.training.text_diffusion import TextDiffusion  # noqa: PLC0415
    from models.training.vae import Vae  # noqa: PLC0415

    match family_options(name, options):
        case DiffusionOptions() as chosen:
            return Diffusion(space, chosen, learning_rate)
        case GanOptions() as chosen:
            return Gan(space, chosen, learning_rate)
        case VaeOptions() as chosen:
            return Vae(space, chosen, learning_rate)
        case AutoregressiveOptions() as chosen:
            return Autoregressive(space, chosen, learning_rate)
        case TextDiffusionOptions() as chosen:
            return TextDiffusion(space, chosen, learning_rate)
        case other:
            raise AssertionError(f"a family without a network: {other!r}")
