"""A conditional variational autoencoder.

Sources: Kingma and Welling, 2013, https://arxiv.org/abs/1312.6114; Sohn, Lee and Yan, 2015 (the class given to both
sides), https://papers.nips.cc/paper/5775; Rybkin et al., 2021, https://arxiv.org/abs/2006.13202 (the pixels' spread
as what weighs the two terms of the loss: here a fixed one, wide enough that codes drawn at random make whole things).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, Optimizer

from models.training.families import Family, ImageSpace, Sampler
from models.training.settings import VaeOptions


class VaeSampler(Sampler):
    """The decoder."""

    def __init__(self, space: ImageSpace, options: VaeOptions) -> None:
        super().__init__()
        width = options.width
        self._latent = options.latent
        self._start = (2 * width, space.height // 4, space.width // 4)
        self.labels = nn.Embedding(len(space.classes), options.label_width)
        self.start = nn.Sequential(
            nn.Linear(options.latent + options.label_width, 256),
            nn.SiLU(),
            nn.Linear(256, 2 * width * self._start[1] * self._start[2]),
            nn.SiLU(),
        )
        self.body = nn.Sequential(
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 4 * space.channels, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def noise(self, generator: torch.Generator) -> Tensor:
        """Normal, `latent` numbers."""
        return torch.randn(self._latent, generator=generator)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Images (-1 to 1)."""
        features = self.start(torch.cat([noise, self.labels(labels)], dim=1)).unflatten(1, self._start)
        return torch.tanh(self.body(features.contiguous(memory_format=torch.channels_last)).float())

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


class Vae(Family):
    """Learns to give back an image from a code that carries little."""

    sampler: VaeSampler

    def __init__(self, space: ImageSpace, options: VaeOptions, learning_rate: float) -> None:
        self.options = options
        self.sampler = VaeSampler(space, options)
        self._spread = options.spread
        width = options.width
        places = (space.height // 4) * (space.width // 4)
        self._encoder = nn.ModuleDict(
            {
                "labels": nn.Embedding(len(space.classes), options.label_width),
                "body": nn.Sequential(
                    nn.PixelUnshuffle(2),
                    nn.Conv2d(4 * space.channels, width, 3, padding=1),
                    nn.SiLU(),
                    nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
                    nn.SiLU(),
                    nn.Conv2d(2 * width, 2 * width, 3, padding=1),
                    nn.SiLU(),
                    nn.Flatten(),
                ),
                "out": nn.Sequential(
                    nn.Linear(2 * width * places + options.label_width, 256),
                    nn.SiLU(),
                    nn.Linear(256, 2 * options.latent),
                ),
            }
        )
        parameters = [*self.sampler.parameters(), *self._encoder.parameters()]
        self._optimizer = Adam(parameters, lr=learning_rate)

    def networks(self) -> Mapping[str, nn.Module]:
        """Both sides."""
        return {"sampler": self.sampler, "encoder": self._encoder}

    def optimizers(self) -> Mapping[str, Optimizer]:
        """One for both sides."""
        return {"both": self._optimizer}

    def learn(self, step: int, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """The bound on the likelihood, an image: `pixels` is the mean squared error, `code` the divergence in nats."""
        encoder = self._encoder
        with self.forward_pass():
            features = torch.cat([encoder["body"](images), encoder["labels"](labels)], dim=1)
            mean, log_variance = encoder["out"](features).float().chunk(2, dim=1)
            noise = torch.randn(mean.shape, generator=generator)
            given_back = self.sampler(mean + noise * (log_variance / 2).exp(), labels)
        pixels = functional.mse_loss(given_back, images)
        code = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        loss = images[0].numel() * pixels / (2 * self._spread**2) + code
        self.descend(self._optimizer, loss, longest=1000.0)
        return {"loss": loss.detach(), "pixels": pixels.detach(), "code": code.detach()}
