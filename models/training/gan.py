"""A generative adversarial network: hinge loss, spectral norm, and a projection discriminator.

Sources: Goodfellow et al., 2014, https://arxiv.org/abs/1406.2661; Miyato et al., 2018,
https://arxiv.org/abs/1802.05957 (spectral norm); Miyato and Koyama, 2018, https://arxiv.org/abs/1802.05637 (the class
enters the discriminator as an inner product); de Vries et al., 2017, https://arxiv.org/abs/1707.00683 (conditional
batch norm); Zhao et al., 2020, https://arxiv.org/abs/2006.10738 (both real and made images are moved about before the
discriminator sees them, so that it cannot learn the training images by heart).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Adam, Optimizer

from models.training.families import Family, ImageSpace, Sampler
from models.training.settings import GanOptions

MOVE = 2
"""Pixels by which images are moved at most before the discriminator sees them."""


class _ConditionalNorm(nn.Module):
    """Batch norm whose scale and shift are the class's own."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False, momentum=0.02)
        self.scale = nn.Embedding(classes, channels)
        self.shift = nn.Embedding(classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        scale, shift = self.scale(labels)[:, :, None, None], self.shift(labels)[:, :, None, None]
        normed: Tensor = self.norm(features) * scale + shift
        return normed


class _Up(nn.Module):
    """A residual block that doubles the resolution."""

    def __init__(self, inner: int, outer: int, classes: int) -> None:
        super().__init__()
        self.norm1 = _ConditionalNorm(inner, classes)
        self.norm2 = _ConditionalNorm(outer, classes)
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        self.skip = nn.Conv2d(inner, outer, 1)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        inner = functional.interpolate(functional.relu(self.norm1(features, labels)), scale_factor=2.0)
        inner = self.conv2(functional.relu(self.norm2(self.conv1(inner), labels)))
        result: Tensor = inner + functional.interpolate(self.skip(features), scale_factor=2.0)
        return result


class GanSampler(Sampler):
    """The generator."""

    def __init__(self, space: ImageSpace, options: GanOptions) -> None:
        super().__init__()
        classes, width = len(space.classes), options.width
        self._latent = options.latent
        self._start = (4 * width, space.height // 4, space.width // 4)
        self.project = nn.Linear(options.latent, 4 * width * self._start[1] * self._start[2])
        self.up1 = _Up(4 * width, 2 * width, classes)
        self.up2 = _Up(2 * width, width, classes)
        self.norm = _ConditionalNorm(width, classes)
        self.out = nn.Conv2d(width, space.channels, 3, padding=1)

    def noise(self, generator: torch.Generator) -> Tensor:
        """Normal, `latent` numbers."""
        return torch.randn(self._latent, generator=generator)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Images (-1 to 1)."""
        features = self.project(noise).unflatten(1, self._start).contiguous(memory_format=torch.channels_last)
        features = self.up2(self.up1(features, labels), labels)
        return torch.tanh(self.out(functional.relu(self.norm(features, labels))).float())

    def make(
        self,
        noise: Tensor,
        labels: Tensor,
        *,
        steps: int | None = None,  # noqa: ARG002
        guidance: float | None = None,  # noqa: ARG002
        between: Callable[[], None] = lambda: None,  # noqa: ARG002
    ) -> Tensor:
        """One pass; there are no steps and no guidance."""
        images: Tensor = self(noise, labels)
        return images


class _Discriminator(nn.Module):
    """Convolutions that halve the resolution three times, summed over places; the class as an inner product."""

    def __init__(self, space: ImageSpace, options: GanOptions) -> None:
        super().__init__()
        width = options.discriminator_width
        self.body = nn.Sequential(
            spectral_norm(nn.Conv2d(space.channels, width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(2 * width, 2 * width, 3, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
        )
        self.linear = spectral_norm(nn.Linear(4 * width, 1))
        self.classes = spectral_norm(nn.Embedding(len(space.classes), 4 * width))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """One score an image; above 0 it is taken for real."""
        features = self.body(images).float().mean((2, 3)) * 4
        score: Tensor = self.linear(features).squeeze(1) + (self.classes(labels) * features).sum(1)
        return score.float()


class Gan(Family):
    """The discriminator learns to tell, the generator to pass, in turns of one step each."""

    sampler: GanSampler

    def __init__(self, space: ImageSpace, options: GanOptions, learning_rate: float) -> None:
        self.options = options
        self.sampler = GanSampler(space, options)
        self._discriminator = _Discriminator(space, options)
        # The discriminator learns twice as fast: Heusel et al., 2017, https://arxiv.org/abs/1706.08500.
        self._generator_optimizer = Adam(self.sampler.parameters(), lr=learning_rate, betas=(0.0, 0.99))
        self._discriminator_optimizer = Adam(self._discriminator.parameters(), lr=2 * learning_rate, betas=(0.0, 0.99))

    def networks(self) -> Mapping[str, nn.Module]:
        """Both."""
        return {"sampler": self.sampler, "discriminator": self._discriminator}

    def optimizers(self) -> Mapping[str, Optimizer]:
        """One each."""
        return {"generator": self._generator_optimizer, "discriminator": self._discriminator_optimizer}

    def learn(self, step: int, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """The hinge loss of both; `real` and `fake` are the discriminator's mean scores."""
        count = len(images)
        noise = torch.stack([self.sampler.noise(generator) for _ in range(count)])
        with self.forward_pass():
            made = self.sampler(noise, labels)
            both = _moved(torch.cat([images, made.detach()]), generator)
            scores = self._discriminator(both, labels.repeat(2))
        real, fake = scores[:count], scores[count:]
        told_apart = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
        self.descend(self._discriminator_optimizer, told_apart)

        with self.forward_pass():
            passed = -self._discriminator(_moved(made, generator), labels).mean()
        self.descend(self._generator_optimizer, passed)
        return {
            "discriminator": told_apart.detach(),
            "generator": passed.detach(),
            "real": real.detach().mean(),
            "fake": fake.detach().mean(),
        }


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """The whole batch moved by a few pixels up, down, left or right: each half of it by an amount of its own."""
    height, width = images.shape[2:]
    parts = []
    for part in images.chunk(8):
        y, x = torch.randint(0, 2 * MOVE + 1, (2,), generator=generator).tolist()
        parts.append(functional.pad(part, (MOVE,) * 4, value=-1.0)[:, :, y : y + height, x : x + width])
    return torch.cat(parts)
