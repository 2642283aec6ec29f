"""An autoregressive model: images as a few dozen discrete codes, written one after the other by a transformer.

An autoencoder learns the codes first, for `code_steps` steps; it is then left as it is, and the transformer learns
their order. Sources: van den Oord et al., 2017, https://arxiv.org/abs/1711.00937 (discrete codes); Mentzer et al.,
2023, https://arxiv.org/abs/2309.15505 (codes by rounding each of a few numbers to a few levels: no code book to learn);
Esser et al., 2021, https://arxiv.org/abs/2012.09841 (a transformer over the codes); Vaswani et al., 2017,
https://arxiv.org/abs/1706.03762.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer

from models.training.families import Family, ImageSpace, Sampler
from models.training.settings import AutoregressiveOptions


class _Block(nn.Module):
    """Causal self-attention and a two-layer network, each on what the other added to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._heads = width // 32
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, features: Tensor, keys: Tensor, values: Tensor, place: int | None) -> Tensor:
        """With `place`, one code at that place, after those whose keys and values are kept; else all of them."""
        count, length, width = features.shape
        split = self.attention(self.norm1(features)).view(count, length, 3, self._heads, 32).permute(2, 0, 3, 1, 4)
        query, key, value = split
        if place is None:
            seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            keys[:, :, place], values[:, :, place] = key[:, :, 0], value[:, :, 0]
            seen = functional.scaled_dot_product_attention(query, keys[:, :, : place + 1], values[:, :, : place + 1])
        features = features + self.project(seen.transpose(1, 2).reshape(count, length, width))
        result: Tensor = features + self.inner(self.norm2(features))
        return result


class AutoregressiveSampler(Sampler):
    """The transformer, and the decoder that makes an image of its codes."""

    default_guidance = 1.3

    def __init__(self, space: ImageSpace, options: AutoregressiveOptions) -> None:
        super().__init__()
        self._places = (space.height // 4, space.width // 4)
        self._length = self._places[0] * self._places[1]
        self._layers = options.layers
        self.no_class = len(space.classes)
        self.levels = options.levels
        codes, width = math.prod(options.levels), options.width
        # What comes before a place: the class at the first, a code at every other.
        self.labels = nn.Embedding(len(space.classes) + 1, width)
        self.codes = nn.Embedding(codes, width)
        self.places = nn.Parameter(torch.randn(self._length, width) * 0.02)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(options.layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, codes)
        inner = options.code_width
        self.decoder = nn.Sequential(
            nn.Conv2d(len(options.levels), 2 * inner, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * inner, 2 * inner, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * inner, inner, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(inner, 4 * space.channels, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def noise(self, generator: torch.Generator) -> Tensor:
        """Uniform from 0 to 1, a number a code."""
        return torch.rand(self._length, generator=generator)

    def logits(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Of every place's code, from those before it (batch, places, codes)."""
        before = torch.cat([self.labels(labels)[:, None], self.codes(codes[:, :-1])], dim=1)
        features = before + self.places
        nothing = features.new_empty(0)
        for block in self.blocks:
            features = block(features, nothing, nothing, None)
        logits: Tensor = self.out(self.norm(features))
        return logits.float()

    def make(
        self,
        noise: Tensor,
        labels: Tensor,
        *,
        steps: int | None = None,  # noqa: ARG002
        guidance: float | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """A code at a time, drawn by inverting its cumulative distribution at the place's noise."""
        guidance = self.default_guidance if guidance is None else guidance
        rows = len(labels)
        guided = guidance != 1
        if guided:
            labels = torch.cat([labels, torch.full_like(labels, self.no_class)])
        width = self.places.shape[1]
        kept = torch.zeros(self._layers, 2, len(labels), width // 32, self._length, 32)
        features = self.labels(labels)
        drawn = []
        for place in range(self._length):
            between()
            features = (features + self.places[place])[:, None]
            for block, (keys, values) in zip(self.blocks, kept, strict=True):
                features = block(features, keys, values, place)
            logits = self.out(self.norm(features[:, 0])).float()
            if guided:
                logits = logits[rows:] + guidance * (logits[:rows] - logits[rows:])
            # In double precision: a thousand probabilities' sum stays next to 1.
            cumulative = logits.double().softmax(dim=1).cumsum(dim=1)
            code = (cumulative < noise[:, place : place + 1].double()).sum(dim=1).clamp(max=cumulative.shape[1] - 1)
            drawn.append(code)
            features = self.codes(code.repeat(2) if guided else code)
        return self.decode(self.numbers(torch.stack(drawn, dim=1)))

    def numbers(self, codes: Tensor) -> Tensor:
        """The numbers (-1 to 1; batch, how many a code, rows, columns) that codes stand for."""
        numbers = []
        for levels in self.levels:
            numbers.append((codes % levels).float() * (2 / (levels - 1)) - 1)
            codes = codes // levels
        return torch.stack(numbers, dim=1).reshape(len(codes), len(numbers), *self._places)

    def decode(self, numbers: Tensor) -> Tensor:
        """Images (-1 to 1)."""
        return torch.tanh(self.decoder(numbers.contiguous(memory_format=torch.channels_last)).float())


class Autoregressive(Family):
    """Learns codes, then their order."""

    sampler: AutoregressiveSampler

    def __init__(self, space: ImageSpace, options: AutoregressiveOptions, learning_rate: float) -> None:
        self.options = options
        self.sampler = AutoregressiveSampler(space, options)
        self._code_steps = options.code_steps
        self._dropout = options.label_dropout
        width = options.code_width
        self._encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * space.channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, len(options.levels), 1),
        )
        decoder = self.sampler.decoder
        of_decoder = {id(parameter) for parameter in decoder.parameters()}
        transformer = [parameter for parameter in self.sampler.parameters() if id(parameter) not in of_decoder]
        coder = [*self._encoder.parameters(), *decoder.parameters()]
        self._coder_optimizer = AdamW(coder, lr=2 * learning_rate, weight_decay=0.0)
        self._transformer_optimizer = AdamW(transformer, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05)

    def networks(self) -> Mapping[str, nn.Module]:
        """The sampler, and the encoder that only training needs."""
        return {"sampler": self.sampler, "encoder": self._encoder}

    def optimizers(self) -> Mapping[str, Optimizer]:
        """One for each of the two phases."""
        return {"coder": self._coder_optimizer, "transformer": self._transformer_optimizer}

    def learn(self, step: int, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """`pixels` is the codes' mean squared error, `code` the transformer's nats a code."""
        if step < self._code_steps:
            return {"pixels": self._learn_codes(images)}
        return {"code": self._learn_order(images, labels, generator)}

    def _levels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers before rounding, and the level that each is rounded to, counted from 0."""
        tops = torch.tensor([levels - 1 for levels in self.sampler.levels])[:, None, None]
        position = (torch.tanh(self._encoder(images).float()) + 1) / 2 * tops
        return position, position.round()

    def _learn_codes(self, images: Tensor) -> Tensor:
        tops = torch.tensor([levels - 1 for levels in self.sampler.levels])[:, None, None]
        with self.forward_pass():
            position, level = self._levels(images)
            passed = position + (level - position).detach()  # the gradient passes the rounding as if it were not there
            given_back = self.sampler.decode(passed * (2 / tops) - 1)
        loss = functional.mse_loss(given_back, images)
        self.descend(self._coder_optimizer, loss)
        return loss.detach()

    def _learn_order(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            _, level = self._levels(images)
        codes = torch.zeros_like(level[:, 0], dtype=torch.long)
        for number in reversed(range(len(self.sampler.levels))):
            codes = codes * self.sampler.levels[number] + level[:, number].long()
        codes = codes.flatten(1)
        dropped = torch.rand(len(labels), generator=generator) < self._dropout
        with self.forward_pass():
            logits = self.sampler.logits(codes, torch.where(dropped, self.sampler.no_class, labels))
        loss = functional.cross_entropy(logits.flatten(0, 1), codes.flatten())
        self.descend(self._transformer_optimizer, loss, longest=1.0)
        return loss.detach()
