"""LoRA adapters in training: what text and image models have in common.

Hu et al., 2021, https://arxiv.org/abs/2106.09685: beside a frozen layer's weights stands a product of two thin
matrices, and they alone learn. The base takes no part in checkpoints: they hold the adapter.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import ClassVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer

from models.errors import FailureKind, ModelError
from models.training.data import batch_places, seed_of
from models.training.loop import too_few
from models.training.settings import LoraOptions, TrainingSettings
from models.training.subject import Subject

MAX_HELD_OUT = 256
"""Examples that are held out at most: more would make the loss only slightly more certain."""
JUDGED = "held_out_loss"
_SPLIT_SEED = -1


class Tuning(Subject):
    """A base model with an adapter in it that learns.

    A subclass loads the base, puts the adapter's layers into it, and says what the loss of some examples is.
    """

    warmup_steps: ClassVar[int] = 10
    current: nn.ParameterDict
    averaged: nn.ParameterDict
    base_revision: str
    """Digest of the base's weights."""
    size: tuple[int, int] = (0, 0)
    """Height and width of the pictures that it learns from; 0 where it learns from text."""
    classes: tuple[str, ...] = ()
    """Of pictures."""

    def __init__(self, network: nn.Module, count: int, what: str, settings: TrainingSettings) -> None:
        """`network` has the adapter's layers in it, and alone they may change; it learns from `count` examples."""
        options = LoraOptions.model_validate(settings.options)
        self.network = network
        self.examples, self.what = count, what
        self.learned, self.held_out = split(count, options.held_out, settings.seed)
        if len(self.learned) < settings.batch_size:
            raise too_few(len(self.learned), f"{what} to learn from", settings.batch_size)
        self._settings = settings
        named = {name: one for name, one in network.named_parameters() if one.requires_grad}
        # The same parameters, under names that a module may have: what is loaded into these is loaded into the network.
        self.current = nn.ParameterDict({name.replace(".", "/"): one for name, one in named.items()})
        self.averaged = deepcopy(self.current).requires_grad_(requires_grad=False)
        self._optimizer = AdamW(named.values(), lr=settings.learning_rate, weight_decay=0.0)
        self._layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
        self._dropouts = [
            module for layer in self._layers for module in layer.modules() if isinstance(module, nn.Dropout)
        ]

    @abstractmethod
    def losses(self, places: Sequence[int], generator: torch.Generator) -> tuple[Tensor, int]:
        """The mean loss of the examples at these places, and how many terms it is the mean of."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """The adapter as the files of its folder, once `keep_average` was called."""

    def networks(self) -> Mapping[str, nn.Module]:
        """The adapter's weights."""
        return {"adapter": self.current}

    def optimizers(self) -> Mapping[str, Optimizer]:
        """One."""
        return {"adapter": self._optimizer}

    def learn(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One step down the gradient of the mean loss of its examples."""
        settings = self._settings
        chosen = batch_places(len(self.learned), step, settings.batch_size, settings.seed)
        with self._dropping(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(settings.seed, step))  # dropout draws from the global generator
            loss, _ = self.losses([self.learned[place] for place in chosen.tolist()], generator)
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
        clip_grad_norm_(self.current.parameters(), 1.0)
        self._optimizer.step()
        return {"loss": loss.detach()}

    @torch.no_grad()
    def keep_average(self) -> None:
        """Put the averaged weights into the network."""
        for name, mean in self.averaged.items():
            self.current[name].copy_(mean)

    def judge(self) -> dict[str, float]:
        """Losses on what was held out, without and with the adapter; empty where nothing was."""
        if not self.held_out:
            return {}
        with self.without_adapter():
            before = self._held_out_loss()
        return {f"{JUDGED}_before": before, JUDGED: self._held_out_loss()}

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        size = self._settings.batch_size
        generator = torch.Generator().manual_seed(seed_of(self._settings.seed, _SPLIT_SEED))
        total = terms = 0.0
        for start in range(0, len(self.held_out), size):
            loss, count = self.losses(self.held_out[start : start + size], generator)
            total += loss.item() * count
            terms += count
        return total / terms

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The base as it is."""
        for layer in self._layers:
            layer.enable_adapters(enabled=False)
        try:
            yield
        finally:
            for layer in self._layers:
                layer.enable_adapters(enabled=True)

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        for dropout in self._dropouts:
            dropout.train()
        try:
            yield
        finally:
            for dropout in self._dropouts:
                dropout.eval()


def split(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Places to learn from, and places held out: drawn once from the seed, each in order."""
    held = min(MAX_HELD_OUT, max(1, round(count * share))) if share and count > 1 else 0
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(seed, _SPLIT_SEED))).tolist()
    return sorted(order[held:]), sorted(order[:held])


def check_targets(network: nn.Module, targets: Iterable[str], base: str) -> None:
    """See that each name of a layer is one of the base's.

    Raises:
        ModelError: kind MODEL, code `unknown_target`.
    """
    linear = {name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    ends = sorted({name.rpartition(".")[2] for name in linear if not name.rpartition(".")[2].isdecimal()})
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            raise ModelError(
                FailureKind.MODEL,
                "unknown_target",
                f"training.options.targets: {base} has no layer {target!r}; it has {', '.join(ends[:20])}",
            )


def device() -> torch.device:
    """Where the base runs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def shown_base(folder: Path, name: str) -> str:
    """The base's name for a card or a config: of a folder its last part, since where it lies says nothing elsewhere."""
    return folder.name if name.startswith(("/", "~", ".")) else name
