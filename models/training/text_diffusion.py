"""Text to image: flow matching in the small space of an autoencoder, on a sentence's vector.

The autoencoder learns first, for `code_steps` steps; it is then left as it is, and the UNet learns the way from noise
to its codes. Sources: Rombach et al., 2021, https://arxiv.org/abs/2112.10752 (diffusion in an autoencoder's space);
Ghosh et al., 2019, https://arxiv.org/abs/1903.12436 (an autoencoder whose codes get noise of a fixed spread, in place
of one that is learned); and those of models/training/diffusion.py. The codes are normed to a variance of 1, as the
noise that the walk starts from has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW, Optimizer

from models.training.diffusion import TIME_SCALE, walk
from models.training.families import Family, ImageSpace, Sampler, unfit_size
from models.training.sentences import WIDTH
from models.training.settings import TextDiffusionOptions

SHRINK = 8
"""Pixels to the side of what becomes one place."""
CODE_NOISE = 0.1
"""Spread of the noise on codes (whose own is 1) as the decoder learns, so that near codes make near pictures."""
CODE_DECAY = 0.4
"""The share of the autoencoder's steps, at their end, over which its learning rate falls to nothing."""
WARMUP_STEPS = 100


class _Residual(nn.Module):
    """Two convolutions on top of what they see."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = features + self.body(features)
        return result


class TextDiffusionSampler(Sampler):
    """The UNet, what it is told of a sentence, and the decoder."""

    takes_text = True
    default_steps = 25
    default_guidance = 3.0

    def __init__(self, space: ImageSpace, options: TextDiffusionOptions) -> None:
        super().__init__()
        resolutions = len(options.widths)
        multiple = SHRINK * 2 ** (resolutions - 1)
        if space.height % multiple or space.width % multiple:
            raise unfit_size(
                f"images of {space.width}x{space.height} do not fit {resolutions} widths: their sides must be "
                f"multiples of {multiple}"
            )
        self._shape = (options.latent, space.height // SHRINK, space.width // SHRINK)
        told = 4 * options.widths[0]  # as wide as the UNet's embedding of time, to which it is added
        self.sentence = nn.Sequential(nn.Linear(WIDTH, told), nn.SiLU(), nn.Linear(told, told))
        unet: Any = UNet2DModel  # its package is only in part typed
        self.unet: nn.Module = unet(
            sample_size=self._shape[1:],
            in_channels=options.latent,
            out_channels=options.latent,
            block_out_channels=options.widths,
            layers_per_block=options.layers,
            down_block_types=("DownBlock2D",) * resolutions,
            up_block_types=("UpBlock2D",) * resolutions,
            norm_num_groups=8,
            attention_head_dim=32,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",
        )
        width = options.code_width
        self.decoder = nn.Sequential(
            nn.Conv2d(options.latent, 2 * width, 3, padding=1),
            _Residual(2 * width),
            nn.ConvTranspose2d(2 * width, 2 * width, 4, stride=2, padding=1),
            _Residual(2 * width),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            _Residual(width),
            nn.SiLU(),
            nn.Conv2d(width, 4 * space.channels, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def direction(self, codes: Tensor, time: Tensor, vectors: Tensor) -> Tensor:
        """The network's guess at (noise - codes) on their way, at times from 0 to 1; vectors of zeros say nothing."""
        # A vector's length is 1: its numbers are made as large as the network's others.
        told = self.sentence(vectors * WIDTH**0.5)
        guess: Tensor = self.unet(codes, time * TIME_SCALE, told).sample
        return guess.float()

    def noise(self, generator: torch.Generator) -> Tensor:
        """Normal, in the shape of the codes."""
        return torch.randn(self._shape, generator=generator)

    def make(
        self,
        noise: Tensor,
        labels: Tensor,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """The walk of models/training/diffusion.py, away from what is not wanted; then the decoder, once."""
        wanted, unwanted = labels.unbind(1)
        codes = walk(
            self.direction,
            noise,
            wanted,
            unwanted,
            steps=self.default_steps if steps is None else steps,
            guidance=self.default_guidance if guidance is None else guidance,
            between=between,
        )
        between()
        return self.decode(codes).clamp(-1, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Images, nearly from -1 to 1."""
        images: Tensor = self.decoder(codes.contiguous(memory_format=torch.channels_last))
        return images.float()


class TextDiffusion(Family):
    """Learns codes, then the way from noise to them."""

    sampler: TextDiffusionSampler

    def __init__(self, space: ImageSpace, options: TextDiffusionOptions, learning_rate: float) -> None:
        self.options = options
        self.sampler = TextDiffusionSampler(space, options)
        self._code_steps = options.code_steps
        self._dropout = options.caption_dropout
        width = options.code_width
        self._encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * space.channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            _Residual(2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 4, stride=2, padding=1),
            _Residual(2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, options.latent, 1),
            nn.BatchNorm2d(options.latent, affine=False, momentum=0.02),
        )
        coder = [*self._encoder.parameters(), *self.sampler.decoder.parameters()]
        guide = [*self.sampler.sentence.parameters(), *self.sampler.unet.parameters()]
        self._coder_optimizer = Adam(coder, lr=learning_rate)
        self._unet_optimizer = AdamW(guide, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)

    def networks(self) -> Mapping[str, nn.Module]:
        """The sampler, and the encoder that only training needs."""
        return {"sampler": self.sampler, "encoder": self._encoder}

    def optimizers(self) -> Mapping[str, Optimizer]:
        """One for each of the two phases."""
        return {"coder": self._coder_optimizer, "unet": self._unet_optimizer}

    def learn(self, step: int, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """`pixels` is the codes' mean difference of levels and edges, `direction` the UNet's squared error."""
        if step < self._code_steps:
            left = (self._code_steps - step) / (CODE_DECAY * self._code_steps)
            _slow(self._coder_optimizer, left)
            return {"pixels": self._learn_codes(images, generator)}
        _slow(self._unet_optimizer, (step + 1 - self._code_steps) / WARMUP_STEPS)
        return {"direction": self._learn_direction(images, labels, generator)}

    def _learn_codes(self, images: Tensor, generator: torch.Generator) -> Tensor:
        self._encoder.train()
        with self.forward_pass():
            codes = self._encoder(images).float()
            noise = torch.randn(codes.shape, generator=generator)
            given_back = self.sampler.decode(codes + CODE_NOISE * noise)
        loss = functional.l1_loss(given_back, images)
        for axis in (2, 3):  # edges count as much as levels: without them they blur
            loss = loss + functional.l1_loss(given_back.diff(dim=axis), images.diff(dim=axis))
        self.descend(self._coder_optimizer, loss, longest=1.0)
        return loss.detach()

    def _learn_direction(self, images: Tensor, vectors: Tensor, generator: torch.Generator) -> Tensor:
        self._encoder.eval()
        with torch.no_grad(), self.forward_pass():
            codes: Tensor = self._encoder(images).float()
        count = len(images)
        noise = torch.randn(codes.shape, generator=generator)
        time = torch.randn(count, generator=generator).sigmoid()
        kept = torch.rand(count, generator=generator) >= self._dropout
        along = time[:, None, None, None]
        with self.forward_pass():
            guess = self.sampler.direction((1 - along) * codes + along * noise, time, vectors * kept[:, None])
        loss = (guess - (noise - codes)).square().mean()
        self.descend(self._unet_optimizer, loss, longest=1.0)
        return loss.detach()


def _slow(optimizer: Optimizer, share: float) -> None:
    """A smaller step at a phase's end or start, whatever the whole training's rate is."""
    for group in optimizer.param_groups:
        group["lr"] *= max(0.0, min(1.0, share))
