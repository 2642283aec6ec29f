"""A conditional generative adversarial network of tables.

Source: Xu et al., 2019, "Modeling Tabular data using Conditional GAN", https://arxiv.org/abs/1907.00503 (CTGAN):
section 4.3 (conditional vector, generator loss, training-by-sampling) and 4.4 (networks). With Gulrajani et al., 2017,
https://arxiv.org/abs/1704.00028 (Wasserstein distance, gradient penalty); Lin et al., 2018,
https://arxiv.org/abs/1712.04086 (PacGAN: the critic sees several rows at once, so that sameness shows); Jang et al.,
2017, https://arxiv.org/abs/1611.01144 (Gumbel softmax).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, Optimizer

from models.tabular.encoding import Rows, TableEncoding
from models.tabular.heads import Head
from models.tabular.networks import (
    Barred,
    Layout,
    TableNetwork,
    TableSubject,
    Wanted,
    drawn_codes,
    fitting_batch,
    gumbel,
)
from models.training.settings import TabularGanOptions, TrainingSettings

SOFTNESS: Final = 0.2
"""Temperature of the Gumbel softmax."""
PENALTY: Final = 10.0
DROPPED: Final = 0.2
"""The share of the critic's features that it does without, each time."""


class Conditions:
    """What a row can be asked to have: one code of one column at a time, as a vector of ones and zeros.

    The paper asks for categories only. Here a number's mode can be asked for as well, or that it is missing: that keeps
    their shares as they are, and finds rows with a certain number sooner.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        self.places = [place for place, head in enumerate(heads) if head.width > 1]
        self.widths = [heads[place].width for place in self.places]
        self.starts = torch.tensor([sum(self.widths[:at]) for at in range(len(self.places))], dtype=torch.long)
        self.size = sum(self.widths)
        self.most = max(self.widths, default=0)
        self._counts = torch.zeros(len(self.places), self.most, dtype=torch.float64)
        for at, place in enumerate(self.places):
            self._counts[at, : heads[place].width] = torch.tensor(heads[place].counts)

    def as_shown(self, barred: Barred) -> Tensor:
        """Of each column, the shares up to each code, as the source has them without those that are barred."""
        counts = self._counts.clone()
        for at, place in enumerate(self.places):
            counts[at, list(barred.get(place, ()))] = 0
        return cumulative(counts)

    def draw(self, count: int, shares: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A column (its place among these), each as likely, and a code of it by its `shares`, for each row."""
        columns = torch.randint(len(self.places), (count,), generator=generator)
        return columns, (torch.rand(count, 1, generator=generator, dtype=torch.float64) > shares[columns]).sum(1)

    def vectors(self, columns: Tensor, codes: Tensor) -> Tensor:
        """Rows by `size`."""
        return torch.zeros(len(columns), self.size).scatter_(1, (self.starts[columns] + codes)[:, None], 1.0)


class Generator(TableNetwork):
    """Noise and a condition become a row. Each layer sees what all before it have made."""

    def __init__(self, heads: tuple[Head, ...], options: TabularGanOptions) -> None:
        super().__init__()
        self.layout, self.conditions = Layout(heads), Conditions(heads)
        self._latent = options.latent
        size = options.latent + self.conditions.size
        self.layers = nn.ModuleList()
        for width in options.widths:
            self.layers.append(nn.Sequential(nn.Linear(size, width), nn.BatchNorm1d(width), nn.ReLU()))
            size += width
        self.out = nn.Linear(size, self.layout.size)

    def forward(self, noise: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (rows by the layout's width) and scalars (-1 to 1)."""
        features = torch.cat([noise, condition], 1)
        for layer in self.layers:
            features = torch.cat([features, layer(features)], 1)
        made = self.out(features)
        return made[:, : self.layout.width], torch.tanh(made[:, self.layout.width :])

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """What rows are made from."""
        return torch.randn(count, self._latent, generator=generator)

    def draw(
        self, count: int, wanted: Wanted, barred: Barred, temperature: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Rows under conditions: of one of the columns that are wanted, or of any as often as the source has them."""
        conditions = self.conditions
        noise = self.noise(count, generator)
        if not conditions.places:
            condition = torch.zeros(count, 0)
        else:
            columns, codes = conditions.draw(count, conditions.as_shown(barred), generator)
            able = [at for at, place in enumerate(conditions.places) if place in wanted]
            if able:
                columns = torch.tensor(able)[torch.randint(len(able), (count,), generator=generator)]
                for at in able:
                    codes = torch.where(columns == at, wanted[conditions.places[at]], codes)
            condition = conditions.vectors(columns, codes)
        logits, scalars = self(noise, condition)
        codes = drawn_codes(self.layout, logits, barred, temperature, generator)
        return codes, self.layout.all_scalars(scalars)


class _Critic(nn.Module):
    """Says how real some rows together look, under their conditions."""

    def __init__(self, size: int, options: TabularGanOptions) -> None:
        super().__init__()
        self.pac = options.pac
        sizes = [size * options.pac, *options.critic_widths]
        self.layers = nn.ModuleList(nn.Linear(one, two) for one, two in pairwise(sizes))
        self.out = nn.Linear(sizes[-1], 1)
        self._widths = options.critic_widths

    def forward(self, rows: Tensor, kept: Sequence[Tensor]) -> Tensor:
        """A score for each `pac` rows; `kept` are the features that it does with, layer by layer."""
        features = rows.reshape(len(rows) // self.pac, -1)
        for layer, mask in zip(self.layers, kept, strict=True):
            features = functional.leaky_relu(layer(features), 0.2) * mask
        score: Tensor = self.out(features).squeeze(1)
        return score

    def masks(self, rows: int, generator: torch.Generator) -> list[Tensor]:
        """Features that are kept, made larger for those that are not."""
        return [
            (torch.rand(rows // self.pac, width, generator=generator) >= DROPPED) / (1 - DROPPED)
            for width in self._widths
        ]


class TableGan(TableSubject):
    """Both networks, and the rows that they learn from."""

    current: Generator
    averaged: Generator

    def __init__(
        self, encoding: TableEncoding, rows: Rows, options: TabularGanOptions, settings: TrainingSettings
    ) -> None:
        """Weights are drawn from torch's global generator.

        Raises:
            ModelError: kind MODEL, code `training_data_too_small`.
        """
        super().__init__(encoding)
        self._batch = fitting_batch(len(rows), settings.batch_size, options.pac)
        self._codes, self._scalars = torch.from_numpy(rows.codes), torch.from_numpy(rows.scalars)
        self.current = Generator(encoding.heads, options)
        self.averaged = deepcopy(self.current).requires_grad_(requires_grad=False).eval()
        self._layout, self._conditions = self.current.layout, self.current.conditions
        self._critic = _Critic(self._layout.size + self._conditions.size, options)
        self._index = _Index(rows, self._conditions)
        rate = settings.learning_rate
        self._generator_optimizer = Adam(self.current.parameters(), lr=rate, betas=(0.5, 0.9), weight_decay=1e-6)
        self._critic_optimizer = Adam(self._critic.parameters(), lr=rate, betas=(0.5, 0.9))

    def networks(self) -> Mapping[str, nn.Module]:
        """Both."""
        return {**super().networks(), "generator": self.current, "critic": self._critic}

    def optimizers(self) -> Mapping[str, Optimizer]:
        """One each."""
        return {"generator": self._generator_optimizer, "critic": self._critic_optimizer}

    def finish(self) -> Generator:
        """The averaged generator."""
        return self.averaged

    def learn(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """A step of each network. `distance` is the critic's estimate of how far made rows are from real ones."""
        columns, codes, condition = self._condition(generator)
        with torch.no_grad():
            made, _ = self._made(condition, generator)
        places = self._index.draw(columns, codes, generator)
        rows = self._layout.vectors(self._codes[places], self._scalars[places])
        real, made = torch.cat([rows, condition], 1), torch.cat([made, condition], 1)
        score = self._score(real, generator).mean() - self._score(made, generator).mean()
        penalty = self._penalty(real, made, generator)
        _descend(self._critic_optimizer, PENALTY * penalty - score)

        columns, codes, condition = self._condition(generator)
        made, logits = self._made(condition, generator)
        obeyed = self._obeyed(logits, columns, codes)
        passed = -self._score(torch.cat([made, condition], 1), generator).mean()
        _descend(self._generator_optimizer, passed + obeyed)
        return {
            "distance": score.detach(),
            "penalty": penalty.detach(),
            "generator": passed.detach(),
            "condition": obeyed.detach(),
        }

    def _condition(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        count = self._batch
        if not self._conditions.places:
            nothing = torch.zeros(count, dtype=torch.long)
            return nothing, nothing, torch.zeros(count, 0)
        columns, codes = self._conditions.draw(count, self._index.shares, generator)
        return columns, codes, self._conditions.vectors(columns, codes)

    def _made(self, condition: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows as vectors, nearly of ones and zeros, and the logits that they came from."""
        logits, scalars = self.current(self.current.noise(len(condition), generator), condition)
        noisy = (logits + gumbel(tuple(logits.shape), generator)) / SOFTNESS
        soft = [functional.softmax(head, 1) for head in self._layout.each(noisy)]
        return torch.cat([*soft, scalars], 1), logits

    def _obeyed(self, logits: Tensor, columns: Tensor, codes: Tensor) -> Tensor:
        """Cross-entropy between the conditions and what was made of their columns."""
        heads = self._layout.each(logits)
        total = logits.new_zeros(())
        for at, place in enumerate(self._conditions.places):
            asked = columns == at
            if asked.any():
                total = total + functional.cross_entropy(heads[place][asked], codes[asked], reduction="sum")
        return total / len(logits)

    def _score(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        score: Tensor = self._critic(rows, self._critic.masks(len(rows), generator))
        return score

    def _penalty(self, real: Tensor, made: Tensor, generator: torch.Generator) -> Tensor:
        pac = self._critic.pac
        share = torch.rand(len(real) // pac, 1, 1, generator=generator).expand(-1, pac, 1).reshape(-1, 1)
        between = (share * real + (1 - share) * made).requires_grad_()
        [slope] = torch.autograd.grad(self._score(between, generator).sum(), between, create_graph=True)
        steepness: Tensor = slope.reshape(len(real) // pac, -1).norm(dim=1)
        return (steepness - 1).square().mean()


class _Index:
    """Finds rows that have a code. `shares` are those by which codes are learned."""

    def __init__(self, rows: Rows, conditions: Conditions) -> None:
        self._count = len(rows)
        found = [np.argsort(rows.codes[:, place], kind="stable").astype(np.int32) for place in conditions.places]
        self._order = torch.from_numpy(np.stack(found)) if found else torch.zeros(0, 0, dtype=torch.int32)
        counts = [np.bincount(rows.codes[:, place], minlength=conditions.most) for place in conditions.places]
        self._counts = torch.from_numpy(np.stack(counts)) if counts else torch.zeros(0, 0, dtype=torch.long)
        self._starts = self._counts.cumsum(1) - self._counts
        # Codes are learned by the logarithm of their frequency, so that rare ones are seen as well.
        self.shares = cumulative(torch.log1p(self._counts.double()))

    def draw(self, columns: Tensor, codes: Tensor, generator: torch.Generator) -> Tensor:
        """A row for each condition, each of those that fulfil it as likely; any row where there are no conditions."""
        chance = torch.rand(len(columns), generator=generator, dtype=torch.float64)
        if not len(self._order):
            return (chance * self._count).long()
        within = (chance * self._counts[columns, codes]).long()
        return self._order[columns, self._starts[columns, codes] + within].long()


def cumulative(weights: Tensor) -> Tensor:
    """Shares up to each code but the last: a number from 0 to 1 is above as many as its code says."""
    return (weights.cumsum(1) / weights.sum(1, keepdim=True).clamp(min=1e-12))[:, :-1]


def _descend(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
