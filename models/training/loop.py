"""The one training loop: budgets, running average, checkpoints, event files, and an end where a loss is no number.

A step is a function of the state before it, its number and the settings: its images and its random numbers are made
from (seed, step). So a training that was killed and resumed from a checkpoint ends with the same weights, bit for bit
on a CPU with the same number of threads, as one that ran through.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from models.errors import FailureKind, ModelError
from models.training.checkpoints import Checkpoint, Checkpoints
from models.training.data import ImageData, augmented, seed_of
from models.training.families import Family, ImageSpace, Sampler, build, image_space
from models.training.settings import Options, TrainingSettings
from models.training.subject import Subject

GRID_COLUMNS = 10
GRID_ROWS = 5


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the loop tells whoever watches it."""

    step: int
    steps: int
    losses: Mapping[str, float]
    """Means since it was told last."""
    seconds: float
    """In this process."""
    grid: NDArray[np.uint8] | None
    """Height by width by 3: a sheet of samples, a column for each class; only every `sample_every` steps."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model as training left it."""

    sampler: Sampler
    """With the averaged weights."""
    space: ImageSpace
    options: Options
    """Of its family, defaults included."""
    step: int
    losses: Mapping[str, float]
    finished: bool
    """Whether all the steps were made, or the time was up."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a training ended; what it left is in its subject."""

    step: int
    losses: Mapping[str, float]
    finished: bool
    """Whether all the steps were made, or the time was up."""


def train(
    data: ImageData,
    settings: TrainingSettings,
    checkpoints: Checkpoints,
    *,
    watch: Callable[[Progress], None] = lambda _: None,
    event_folder: Path | None = None,
    each_step: Callable[[int], bool] = lambda _: False,
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Train a model of pictures; as `train_subject`.

    Raises:
        ModelError: kind MODEL: as `train_subject`; there are too few images for a batch (`training_data_too_small`), or
            they are of a size that the family's networks cannot have (`unfit_size`).
    """
    pictures = Pictures(data, settings)
    ended = train_subject(
        pictures, settings, checkpoints, watch=watch, event_folder=event_folder, each_step=each_step, clock=clock
    )
    return Trained(
        sampler=pictures.averaged,
        space=pictures.space,
        options=pictures.options,
        step=ended.step,
        losses=ended.losses,
        finished=ended.finished,
    )


def train_subject(
    subject: Subject,
    settings: TrainingSettings,
    checkpoints: Checkpoints,
    *,
    watch: Callable[[Progress], None] = lambda _: None,
    event_folder: Path | None = None,
    each_step: Callable[[int], bool] = lambda _: False,
    clock: Callable[[], float] = time.monotonic,
) -> Ended:
    """Train from the latest checkpoint, or from the start where there is none, until a budget is used up.

    A checkpoint is gone on from with the settings that are given now: more steps than it was made with, for example.
    `watch` is called from this thread; what it raises ends the training, and the last checkpoint stays. Event files
    for TensorBoard are written to `event_folder`. `each_step` is called before every step with the number of those that
    were made; where it says so the training ends there, with a checkpoint.

    Raises:
        ModelError: kind MODEL: a loss is no number (`training_diverged`), or the checkpoint is of another model
            (`checkpoint_mismatch`).
    """
    run = _Run(subject, settings)
    checkpoint = checkpoints.latest()
    if checkpoint is not None:
        run.restore(checkpoint)
    first, started = run.step, clock()
    seen: dict[str, list[float]] = {}
    time_up = False
    with _events(event_folder, first) as write:
        while run.step < settings.steps and not time_up:
            if each_step(run.step):
                checkpoints.save(run.checkpoint())
                break
            losses = run.take_step()
            for name, value in losses.items():
                seen.setdefault(name, []).append(value)
            time_up = settings.minutes is not None and clock() - started > 60 * settings.minutes
            last = run.step == settings.steps or time_up
            if run.step % settings.log_every == 0 or last:
                run.losses = {name: fmean(values) for name, values in seen.items()}
                seen = {}
                grid = subject.sheet() if run.step % settings.sample_every == 0 or last else None
                told = Progress(
                    step=run.step, steps=settings.steps, losses=run.losses, seconds=clock() - started, grid=grid
                )
                write(told)
                watch(told)
            if run.step % settings.checkpoint_every == 0 or last:
                checkpoints.save(run.checkpoint())
    return Ended(step=run.step, losses=run.losses, finished=run.step >= settings.steps)


class Pictures(Subject):
    """A family's networks, and the images that they learn from."""

    current: Sampler
    averaged: Sampler

    def __init__(self, data: ImageData, settings: TrainingSettings) -> None:
        if len(data) < settings.batch_size:
            raise too_few(len(data), "images", settings.batch_size)
        self.space: ImageSpace = image_space(data)
        self._data = data
        self._settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self._family: Family = build(settings.family, self.space, settings.options, settings.learning_rate)
        self._family.bfloat16 = settings.bfloat16
        for network in self._family.networks().values():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no such overload
        self.options: Options = self._family.options
        self.current = self._family.sampler
        self.averaged = deepcopy(self.current).requires_grad_(requires_grad=False).eval()

    def networks(self) -> Mapping[str, nn.Module]:
        """The family's."""
        return self._family.networks()

    def optimizers(self) -> Mapping[str, Optimizer]:
        """The family's."""
        return self._family.optimizers()

    def learn(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Learn from the step's images."""
        settings = self._settings
        images, labels = self._data.batch(step, settings.batch_size, settings.seed)
        images = augmented(images, settings.augmentation, generator)
        return self._family.learn(step, images, labels, generator)

    def sheet(self) -> NDArray[np.uint8]:
        """Samples of the averaged network, always from the same noise."""
        return sample_sheet(self.averaged, self._data.examples(GRID_COLUMNS))


def too_few(count: int, what: str, batch_size: int) -> ModelError:
    """There is less to learn from than one step takes."""
    return ModelError(
        FailureKind.MODEL,
        "training_data_too_small",
        f"there are {count} {what}, fewer than the batch_size of {batch_size}",
    )


class _Run:
    """Everything that changes from step to step."""

    def __init__(self, subject: Subject, settings: TrainingSettings) -> None:
        self._subject = subject
        self._settings = settings
        self.step = 0
        self.losses: dict[str, float] = {}

    def take_step(self) -> dict[str, float]:
        settings = self._settings
        generator = torch.Generator().manual_seed(seed_of(settings.seed, self.step))
        self._set_rate()
        losses = self._subject.learn(self.step, generator)
        values = {name: loss.item() for name, loss in losses.items()}
        self.step += 1
        for name, value in values.items():
            if not math.isfinite(value):
                raise ModelError(
                    FailureKind.MODEL,
                    "training_diverged",
                    f"in step {self.step} the loss {name!r} became {value}; the last checkpoint is from before it. "
                    f"A lower learning_rate than {settings.learning_rate:g} usually helps",
                )
        self._average()
        return values

    def _set_rate(self) -> None:
        settings = self._settings
        warm = min(1.0, (self.step + 1) / self._subject.warmup_steps)
        left = (settings.steps - self.step) / max(1.0, settings.decay * settings.steps)
        for optimizer in self._subject.optimizers().values():
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * warm * min(1.0, max(0.05, left))

    @torch.no_grad()
    def _average(self) -> None:
        # Early weights are far from good ones: the average reaches back over a tenth of the steps at most.
        keep = min(self._settings.average, self.step / (self.step + 10))
        for mean, now in zip(_tensors(self._subject.averaged), _tensors(self._subject.current), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - keep)
            else:
                mean.copy_(now)

    @property
    def _networks(self) -> dict[str, nn.Module]:
        return {**self._subject.networks(), "average": self._subject.averaged}

    def checkpoint(self) -> Checkpoint:
        tensors: dict[str, Tensor] = {}
        for name, network in self._networks.items():
            tensors |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
        for name, optimizer in self._subject.optimizers().items():
            for number, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{name}/{number}/{key}": value for key, value in state.items()}
        # A file keeps one layout of tensors; which one the run has is set by its networks.
        tensors = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
        kept: dict[str, JsonValue] = {
            "settings": self._settings.model_dump(mode="json"),
            "losses": dict(self.losses),
        }
        return Checkpoint(self.step, tensors, kept)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, which must be of a model of the same shape."""
        try:
            for name, network in self._networks.items():
                network.load_state_dict(_under(checkpoint.tensors, f"{name}/"))
            for name, optimizer in self._subject.optimizers().items():
                states: dict[int, dict[str, Tensor]] = {}
                for key, value in _under(checkpoint.tensors, f"optimizer.{name}/").items():
                    number, _, field = key.partition("/")
                    states.setdefault(int(number), {})[field] = value
                groups = optimizer.state_dict()["param_groups"]
                optimizer.load_state_dict({"state": states, "param_groups": groups})
        except (RuntimeError, KeyError, ValueError) as error:
            raise ModelError(
                FailureKind.MODEL,
                "checkpoint_mismatch",
                f"the checkpoint of step {checkpoint.step} is of a model with other settings than these: {error}",
            ) from error
        self.step = checkpoint.step
        losses = checkpoint.state.get("losses")
        if isinstance(losses, dict):
            self.losses = {name: float(str(value)) for name, value in losses.items()}


def sample_sheet(sampler: Sampler, examples: Tensor) -> NDArray[np.uint8]:
    """Samples as one picture, a column for each condition, always from the same noise."""
    columns = len(examples)
    labels = torch.cat([examples] * GRID_ROWS)
    noise = torch.stack([sampler.noise(torch.Generator().manual_seed(row)) for row in range(len(labels))])
    with torch.no_grad():
        images = sampler.make(noise, labels)
    return sheet(images, columns)


def sheet(images: Tensor, columns: int) -> NDArray[np.uint8]:
    """Images (-1 to 1) side by side as one picture, height by width by 3, row by row."""
    pixels = to_pixels(images)
    rows = [np.concatenate(list(pixels[at : at + columns]), axis=1) for at in range(0, len(pixels), columns)]
    return np.concatenate(rows, axis=0)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Images (batch, channels, height, width; -1 to 1) as bytes, batch by height by width by 3; grey becomes RGB."""
    levels = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    if levels.shape[1] == 1:
        levels = levels.expand(-1, 3, -1, -1)
    array: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).contiguous().numpy()
    return array


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.state_dict().values()


def _under(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}


@contextmanager
def _events(folder: Path | None, first: int) -> Iterator[Callable[[Progress], None]]:
    if folder is None:
        yield lambda _: None
        return
    # What an earlier run wrote of steps after its last checkpoint is hidden.
    with SummaryWriter(str(folder), purge_step=first) as writer:

        def write(told: Progress) -> None:
            for name, value in told.losses.items():
                writer.add_scalar(f"loss/{name}", value, told.step)
            if told.grid is not None:
                writer.add_image("samples", told.grid, told.step, dataformats="HWC")
            writer.flush()  # whoever copies the file meanwhile gets all of it

        yield write
