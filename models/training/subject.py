"""What the training loop trains: whatever has weights, learns in steps, and can be shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer


class Subject(ABC):
    """Networks in training, and the data that they learn from.

    A step is a function of the state, its number and draws from the generator that it is given, so that a training
    which was interrupted goes on as if it had not been.
    """

    warmup_steps: ClassVar[int] = 100
    """Steps over which the learning rate rises."""
    current: nn.Module
    """What is kept of it, as it is now."""
    averaged: nn.Module
    """The running average of that over the steps: what training leaves."""

    @abstractmethod
    def networks(self) -> Mapping[str, nn.Module]:
        """Everything with weights that change, by name."""

    @abstractmethod
    def optimizers(self) -> Mapping[str, Optimizer]:
        """By name."""

    @abstractmethod
    def learn(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Take one step; returns its losses by name, each a number."""

    def sheet(self) -> NDArray[np.uint8] | None:
        """Samples of what training leaves as one picture, height by width by 3; None where it makes none."""
        return None
