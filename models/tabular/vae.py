"""A variational autoencoder of tables.

Source: Xu et al., 2019, "Modeling Tabular data using Conditional GAN", https://arxiv.org/abs/1907.00503, section 4.6
(TVAE): two layers each way; a code is drawn from a softmax, a scalar from a normal distribution about a tanh whose
spread is learned. Two things are otherwise here: each of a column's modes has a scalar of its own, so that mode and
scalar fit each other though both are drawn; and it stops when the bound on rows that it does not learn from gets worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from models.tabular.encoding import Rows, TableEncoding
from models.tabular.heads import Head
from models.tabular.networks import (
    Barred,
    Layout,
    TableNetwork,
    TableSubject,
    Wanted,
    cross_entropy,
    drawn_codes,
    fitting_batch,
)
from models.training.data import seed_of
from models.training.settings import TabularVaeOptions, TrainingSettings

MOST_JUDGED: Final = 2000
"""Rows that are kept apart at most."""
_SPLIT, _JUDGING = -1, -2


class VaeNetwork(TableNetwork):
    """Both sides."""

    def __init__(self, heads: tuple[Head, ...], options: TabularVaeOptions) -> None:
        super().__init__()
        self.layout = Layout(heads)
        self._latent = options.latent
        self._modes = self.layout.modes
        self.encoder = _stack(self.layout.size, options.widths, 2 * options.latent)
        self.decoder = _stack(options.latent, options.widths[::-1], self.layout.width + sum(self._modes))
        self.log_spreads = nn.Parameter(torch.full((sum(self._modes),), math.log(0.1)))

    def bound(self, codes: Tensor, scalars: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """What it costs to give rows back, and the divergence of their latent codes: a row's, in nats."""
        layout = self.layout
        mean, log_variance = self.encoder(layout.vectors(codes, scalars)).chunk(2, 1)
        log_variance = log_variance.clamp(-12, 8)
        logits, centres = self.decoded(mean + noise * (log_variance / 2).exp())
        cost = cross_entropy(layout, logits, codes)
        for place, centre, log_spread in self._by_head(centres):
            code = codes[:, place].long()
            in_mode = code < centre.shape[1]
            at = code.clamp(max=centre.shape[1] - 1)
            off = scalars[:, place] - centre.gather(1, at[:, None]).squeeze(1)
            width = log_spread[at]
            density = off.square() / 2 * (-2 * width).exp() + width + math.log(2 * math.pi) / 2
            cost = cost + (density * in_mode).mean()
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        return cost, divergence

    def decoded(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (rows by the layout's width), and centres of scalars, one for each mode."""
        made = self.decoder(latent)
        return made[:, : self.layout.width], torch.tanh(made[:, self.layout.width :])

    def draw(
        self,
        count: int,
        wanted: Wanted,  # noqa: ARG002  # it knows no conditions
        barred: Barred,
        temperature: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Rows from normal noise."""
        logits, centres = self.decoded(torch.randn(count, self._latent, generator=generator))
        codes = drawn_codes(self.layout, logits, barred, temperature, generator)
        noise = torch.randn(count, self.layout.scalars, generator=generator) * math.sqrt(temperature)
        scalars = []
        for number, (place, centre, log_spread) in enumerate(self._by_head(centres)):
            at = codes[:, place].clamp(max=centre.shape[1] - 1)
            scalar = centre.gather(1, at[:, None]).squeeze(1) + noise[:, number] * log_spread[at].exp()
            scalars.append(scalar)
        drawn = torch.stack(scalars, 1).clamp(-1, 1) if scalars else torch.zeros(count, 0)
        return codes, self.layout.all_scalars(drawn)

    def _by_head(self, centres: Tensor) -> list[tuple[int, Tensor, Tensor]]:
        """Of each head that has scalars: its place, its modes' centres and their spreads' logarithms."""
        spreads = torch.split(self.log_spreads.clamp(math.log(0.003), 0.0), self._modes)
        return list(zip(self.layout.scalar_heads, torch.split(centres, self._modes, 1), spreads, strict=True))


class _Best(nn.Module):
    """The network as it judged best so far."""

    def __init__(self, network: VaeNetwork) -> None:
        super().__init__()
        self.network = deepcopy(network)
        self.register_buffer("loss", torch.tensor(math.inf, dtype=torch.float64))
        self.register_buffer("worse", torch.tensor(0))
        self.loss: Tensor
        self.worse: Tensor


class TableVae(TableSubject):
    """The network, and the rows that it learns from and is judged by."""

    current: VaeNetwork
    averaged: VaeNetwork

    def __init__(
        self, encoding: TableEncoding, rows: Rows, options: TabularVaeOptions, settings: TrainingSettings
    ) -> None:
        """Weights are drawn from torch's global generator.

        Raises:
            ModelError: kind MODEL, code `training_data_too_small`.
        """
        super().__init__(encoding)
        self._options, self._seed = options, settings.seed
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed_of(settings.seed, _SPLIT)))
        apart = min(MOST_JUDGED, round(options.judged * len(rows)))
        codes, scalars = torch.from_numpy(rows.codes), torch.from_numpy(rows.scalars)
        self._judged = codes[order[:apart]], scalars[order[:apart]]
        self._learned = codes[order[apart:]], scalars[order[apart:]]
        self._batch = fitting_batch(len(rows) - apart, settings.batch_size)
        self.current = VaeNetwork(encoding.heads, options)
        self.averaged = deepcopy(self.current).requires_grad_(requires_grad=False).eval()
        self._best = _Best(self.averaged)
        self._optimizer = Adam(self.current.parameters(), lr=settings.learning_rate, weight_decay=1e-5)

    @property
    def settled(self) -> bool:
        """Whether it has been getting worse for so long that it stops."""
        return int(self._best.worse) >= self._options.patience

    def networks(self) -> Mapping[str, nn.Module]:
        """The network as it is, and as it was best."""
        return {**super().networks(), "network": self.current, "best": self._best}

    def optimizers(self) -> Mapping[str, Optimizer]:
        """One."""
        return {"network": self._optimizer}

    def finish(self) -> VaeNetwork:
        """The network that judged best."""
        self._judge()
        return self._best.network

    def metrics(self) -> dict[str, float]:
        """The loss of the best on rows that were kept apart."""
        return {"held_out_loss": self._best.loss.item()} if len(self._judged[0]) else {}

    def learn(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The bound of a batch; `rows` is what it costs to give them back, `latent` the divergence, both in nats."""
        if step and step % self._options.judged_every == 0:
            self._judge()
        codes, scalars = self._learned
        places = torch.randint(len(codes), (self._batch,), generator=generator)
        noise = torch.randn(len(places), self._options.latent, generator=generator)
        cost, divergence = self.current.bound(codes[places], scalars[places], noise)
        self._optimizer.zero_grad()
        torch.autograd.backward(self._options.faithfulness * cost + divergence)
        nn.utils.clip_grad_norm_(self.current.parameters(), 10.0)
        self._optimizer.step()
        losses = {"rows": cost.detach(), "latent": divergence.detach()}
        if math.isfinite(self._best.loss.item()):
            losses["held_out"] = self._best.loss
        return losses

    @torch.no_grad()
    def _judge(self) -> None:
        """See whether the averaged network is better than the best so far, on rows that were kept apart."""
        codes, scalars = self._judged
        if not len(codes):
            self._best.network.load_state_dict(self.averaged.state_dict())
            return
        noise = torch.randn(
            len(codes),
            self._options.latent,
            generator=torch.Generator().manual_seed(seed_of(self._seed, _JUDGING)),
        )
        cost, divergence = self.averaged.bound(codes, scalars, noise)
        loss = (self._options.faithfulness * cost + divergence).double()
        if loss < self._best.loss:
            self._best.network.load_state_dict(self.averaged.state_dict())
            self._best.loss.copy_(loss)
            self._best.worse.zero_()
        else:
            self._best.worse.add_(1)


def _stack(size: int, widths: tuple[int, ...], out: int) -> nn.Sequential:
    sizes = [size, *widths]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], out))
