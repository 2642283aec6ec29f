"""How a model is trained, as people write it. Imports no engine: whoever only checks settings needs none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

FamilyName: TypeAlias = Literal[
    "diffusion", "gan", "vae", "ar", "text-diffusion", "lora", "tabular-argn", "tabular-gan", "tabular-vae"
]

TEXT_FAMILIES: Final[frozenset[FamilyName]] = frozenset({"text-diffusion"})
"""They learn from captions, and draw what a text says; the others learn classes."""
TABLE_FAMILIES: Final[frozenset[FamilyName]] = frozenset({"tabular-argn", "tabular-gan", "tabular-vae"})
"""They learn from rows of a table, and make rows."""
CAPTION_FILES: Final = ("captions.jsonl", "metadata.jsonl")
"""Names of a file that holds the captions of a folder's images."""
MAX_RANK: Final = 32
"""Of an adapter. vLLM keeps room for this rank in every layer, whatever rank an adapter has."""


class Options(BaseModel):
    """Sizes of a family's networks. Each family adds its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DiffusionOptions(Options):
    """Sizes of the UNet."""

    patch: Annotated[int, Field(ge=1, le=4)] = 2
    """Each patch of so many pixels a side is one place of the UNet: at 2, a fourth of the places to compute."""
    widths: Annotated[tuple[int, ...], Field(min_length=1)] = (64, 96)
    """Channels at each resolution, each half as wide and high as the one before; multiples of 32."""
    layers: Annotated[int, Field(ge=1)] = 1
    """Residual blocks a resolution."""
    label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The share of images that are learned without their class, for guidance."""


class GanOptions(Options):
    """Sizes of the two networks."""

    latent: Annotated[int, Field(ge=1)] = 64
    """Numbers that an image is made from."""
    width: Annotated[int, Field(ge=8)] = 32
    """Channels of the generator at full resolution; twice and four times as many at the lower ones."""
    discriminator_width: Annotated[int, Field(ge=8)] = 48
    """Channels of the discriminator at half resolution; twice and four times as many at the lower ones."""


class VaeOptions(Options):
    """Sizes of the two networks."""

    latent: Annotated[int, Field(ge=1)] = 12
    """Numbers that an image is made from."""
    width: Annotated[int, Field(ge=8)] = 32
    """Channels at half resolution; twice as many at a fourth."""
    label_width: Annotated[int, Field(ge=1)] = 64
    spread: Annotated[float, Field(gt=0)] = 0.3
    """Standard deviation of a pixel (-1 to 1) about what the decoder makes: a smaller one gives sharper images from
    codes that fill their space less evenly."""


class AutoregressiveOptions(Options):
    """Sizes of autoencoder and transformer."""

    levels: Annotated[tuple[Annotated[int, Field(ge=2, le=16)], ...], Field(min_length=1)] = (5, 5, 4, 4)
    """A code is so many numbers, each of so many levels: their product is how many codes there are."""
    code_width: Annotated[int, Field(ge=8)] = 48
    """Channels of the autoencoder at half resolution; twice as many at a fourth, where the codes are."""
    code_steps: Annotated[int, Field(ge=0)] = 1500
    """Steps in which the codes are learned, before the transformer."""
    width: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    layers: Annotated[int, Field(ge=1)] = 4
    label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The share of images that are learned without their class, for guidance."""


class TextDiffusionOptions(Options):
    """Sizes of autoencoder and UNet."""

    latent: Annotated[int, Field(ge=1, le=64)] = 16
    """Numbers that each patch of 8 by 8 pixels becomes."""
    code_width: Annotated[int, Field(ge=8)] = 48
    """Channels of the autoencoder at half resolution; twice as many below."""
    code_steps: Annotated[int, Field(ge=0)] = 2000
    """Steps in which the autoencoder is learned, before the UNet."""
    widths: Annotated[tuple[int, ...], Field(min_length=1)] = (96, 128)
    """Channels of the UNet at each resolution, each half as wide and high as the one before; multiples of 32."""
    layers: Annotated[int, Field(ge=1)] = 2
    """Residual blocks a resolution."""
    caption_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The share of images that are learned without their caption, for guidance."""


class LoraOptions(Options):
    """A LoRA adapter of a base model (Hu et al., 2021, https://arxiv.org/abs/2106.09685)."""

    rank: Annotated[int, Field(ge=1, le=MAX_RANK)] = 8
    alpha: Annotated[float | None, Field(gt=0)] = None
    """What it adds is scaled by alpha / rank; by default twice the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of a layer's inputs that the adapter does not see in a step."""
    targets: tuple[Annotated[str, Field(pattern=r"[A-Za-z0-9_.]+")], ...] = ()
    """Names of the base's layers that are tuned, such as `q_proj`; by default all linear ones of a text model, those of
    the attention of an image model."""
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """The share of the data that is not trained on: by its loss, before and after, the adapter is judged."""


class TableOptions(Options):
    """What every family of tables has."""

    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    """The share of the rows that the model never sees: what it makes is compared with them."""


class PrivacyOptions(Options):
    """Differentially private training: Abadi et al., 2016, "Deep Learning with Differential Privacy"."""

    max_epsilon: Annotated[float, Field(gt=0, le=10_000)] = 8.0
    """The training ends before it has spent more, that of `value_epsilon` included."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    noise_multiplier: Annotated[float, Field(gt=0, le=10_000)] = 1.5
    """Deviation of the noise, in units of `max_grad_norm`."""
    max_grad_norm: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    """To which the gradient of each row is cut."""
    value_epsilon: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    """Spent on the ranges of numbers and on which categories are not rare."""


class TabularArgnOptions(TableOptions):
    """TabularARGN of mostlyai-engine."""

    size: Literal["S", "M", "L"] = "M"
    epochs: Annotated[float, Field(gt=0, le=10_000)] = 100.0
    """Passes over the rows, at most: it ends where the loss on a tenth of them falls no more."""
    batch_size: Annotated[int | None, Field(ge=1, le=65_536)] = None
    """Rows a step; by default about a sixty-fourth of all, and from 8 to 1024."""
    dp: PrivacyOptions | None = None
    """Differential privacy; by default none."""


class TabularGanOptions(TableOptions):
    """A conditional GAN of tables (Xu et al., 2019, https://arxiv.org/abs/1907.00503)."""

    latent: Annotated[int, Field(ge=1)] = 128
    """Numbers that a row is made from."""
    widths: Annotated[tuple[Annotated[int, Field(ge=4)], ...], Field(min_length=1)] = (256, 256)
    """Of the generator's layers."""
    critic_widths: Annotated[tuple[Annotated[int, Field(ge=4)], ...], Field(min_length=1)] = (256, 256)
    """Of the critic's layers."""
    pac: Annotated[int, Field(ge=1)] = 4
    """Rows that the critic sees at once; the batch is a multiple of it."""


class TabularVaeOptions(TableOptions):
    """A variational autoencoder of tables (Xu et al., 2019, https://arxiv.org/abs/1907.00503)."""

    latent: Annotated[int, Field(ge=1)] = 64
    """Numbers that a row is made from."""
    widths: Annotated[tuple[Annotated[int, Field(ge=4)], ...], Field(min_length=1)] = (256, 256)
    """Of the encoder's layers; the decoder has them the other way round."""
    faithfulness: Annotated[float, Field(gt=0)] = 2.0
    """What giving rows back weighs against the order of the latent codes."""
    judged: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """The share of the rows that is not learned from: by its loss the training ends early."""
    judged_every: Annotated[int, Field(ge=1)] = 100
    """Steps."""
    patience: Annotated[int, Field(ge=1)] = 10
    """So many judgements without a better one end the training."""


OPTIONS: Final[dict[FamilyName, type[Options]]] = {
    "diffusion": DiffusionOptions,
    "gan": GanOptions,
    "vae": VaeOptions,
    "ar": AutoregressiveOptions,
    "text-diffusion": TextDiffusionOptions,
    "lora": LoraOptions,
    "tabular-argn": TabularArgnOptions,
    "tabular-gan": TabularGanOptions,
    "tabular-vae": TabularVaeOptions,
}


def family_options(family: FamilyName, given: Mapping[str, object]) -> Options:
    """A family's options, with its defaults where none is given.

    Raises:
        ValidationError: an option that the family does not have, or of a wrong value.
    """
    return OPTIONS[family].model_validate(given)


class Augmentation(BaseModel):
    """What is done to an image at random each time that it is learned from. All off by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: bool = False
    """Mirror left and right, every second time. Not for things that have a side, as a shoe in a catalogue has."""
    crop: bool = False
    """Move by up to an eighth of the side, the border repeated."""
    jitter: bool = False
    """Brightness and contrast by up to a fifth."""


class TrainingSettings(BaseModel):
    """How a model is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: FamilyName
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """The family's own, such as the widths of its layers."""
    seed: int = 0
    steps: Annotated[int, Field(ge=1)] = 5000
    minutes: Annotated[float | None, Field(gt=0)] = None
    """Stop after so much time in this process, with a checkpoint, even where steps are left."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    decay: Annotated[float, Field(ge=0, le=1)] = 0.3
    """The share of the steps, at the end, over which the learning rate falls to a twentieth."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """How much of the running average of the weights stays in each step; 0 keeps the last weights alone."""
    bfloat16: bool = False
    """Compute most of a step in bfloat16, where the machine is faster in it."""
    augmentation: Augmentation = Augmentation()
    log_every: Annotated[int, Field(ge=1)] = 50
    sample_every: Annotated[int, Field(ge=1)] = 1000
    checkpoint_every: Annotated[int, Field(ge=1)] = 250

    @model_validator(mode="after")
    def _known_options(self) -> Self:
        family_options(self.family, self.options)
        return self
