"""Diffusion by flow matching, with classifier-free guidance, on diffusers' UNet.

Between an image x and noise e runs a straight line, (1 - t) x + t e; the network learns its direction, e - x, at
every t, and sampling walks it back from t = 1. Sources: Lipman et al., 2022, https://arxiv.org/abs/2210.02747
(flow matching); Liu et al., 2022, https://arxiv.org/abs/2209.03003 (rectified flow); Esser et al., 2024,
https://arxiv.org/abs/2403.03206 (t drawn logit-normal); Ho and Salimans, 2022, https://arxiv.org/abs/2207.12598
(guidance without a classifier).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer

from models.training.families import Family, ImageSpace, Sampler, unfit_size
from models.training.settings import DiffusionOptions

TIME_SCALE = 1000.0  # the UNet's embedding of time was made for whole steps out of a thousand


class DiffusionSampler(Sampler):
    """The UNet, and the walk from noise to image."""

    default_steps = 25
    default_guidance = 1.5

    def __init__(self, space: ImageSpace, options: DiffusionOptions) -> None:
        super().__init__()
        self._shape = (space.channels, space.height, space.width)
        self._patch = options.patch
        self.no_class = len(space.classes)
        places = space.channels * options.patch**2
        resolutions = len(options.widths)
        multiple = options.patch * 2 ** (resolutions - 1)
        if space.height % multiple or space.width % multiple:
            raise unfit_size(
                f"images of {space.width}x{space.height} do not fit patches of {options.patch} and {resolutions} widths"
                f": their sides must be multiples of {multiple}"
            )
        unet: Any = UNet2DModel  # its package is only in part typed
        self.unet: nn.Module = unet(
            sample_size=(space.height // options.patch, space.width // options.patch),
            in_channels=places,
            out_channels=places,
            block_out_channels=options.widths,
            layers_per_block=options.layers,
            # Attention only in the middle, where the places are fewest: elsewhere it took a fifth of a step.
            down_block_types=("DownBlock2D",) * resolutions,
            up_block_types=("UpBlock2D",) * resolutions,
            norm_num_groups=8,
            attention_head_dim=32,
            num_class_embeds=len(space.classes) + 1,
        )

    def direction(self, images: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """The network's guess at (noise - image) for images on their way, at times from 0 to 1."""
        patches = functional.pixel_unshuffle(images, self._patch)
        guess: Tensor = self.unet(patches, time * TIME_SCALE, labels).sample
        return functional.pixel_shuffle(guess.float(), self._patch)

    def noise(self, generator: torch.Generator) -> Tensor:
        """Normal, in the shape of an image."""
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
        """Euler's method in `steps` equal steps; guidance 1 is none, and takes half the time."""
        steps = self.default_steps if steps is None else steps
        guidance = self.default_guidance if guidance is None else guidance
        without = torch.full_like(labels, self.no_class)
        images = walk(self.direction, noise, labels, without, steps=steps, guidance=guidance, between=between)
        return images.clamp(-1, 1)


def walk(
    direction: Callable[[Tensor, Tensor, Tensor], Tensor],
    noise: Tensor,
    wanted: Tensor,
    unwanted: Tensor,
    *,
    steps: int,
    guidance: float,
    between: Callable[[], None],
) -> Tensor:
    """From noise to what it becomes, by Euler's method in equal steps.

    `direction` is that of things on their way, at times from 0 to 1, under a condition a row; what it says under
    `wanted` counts `guidance` times as much as under `unwanted`.
    """
    things = noise
    for step in range(steps):
        between()
        time = torch.full((len(noise),), 1 - step / steps)
        towards = direction(things, time, wanted)
        if guidance != 1:
            base = direction(things, time, unwanted)
            towards = base + guidance * (towards - base)
        things = things - towards / steps
    return things


class Diffusion(Family):
    """Learns the direction at one random time for each image."""

    sampler: DiffusionSampler

    def __init__(self, space: ImageSpace, options: DiffusionOptions, learning_rate: float) -> None:
        self.options = options
        self.sampler = DiffusionSampler(space, options)
        self._dropout = options.label_dropout
        self._optimizer = AdamW(self.sampler.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)

    def networks(self) -> Mapping[str, nn.Module]:
        """The sampler alone."""
        return {"sampler": self.sampler}

    def optimizers(self) -> Mapping[str, Optimizer]:
        """One."""
        return {"unet": self._optimizer}

    def learn(self, step: int, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """Squared error of the direction."""
        count = len(images)
        noise = torch.randn(images.shape, generator=generator)
        time = torch.randn(count, generator=generator).sigmoid()
        dropped = torch.rand(count, generator=generator) < self._dropout
        labels = torch.where(dropped, self.sampler.no_class, labels)
        along = time[:, None, None, None]
        with self.forward_pass():
            guess = self.sampler.direction((1 - along) * images + along * noise, time, labels)
        loss = (guess - (noise - images)).square().mean()
        self.descend(self._optimizer, loss, longest=1.0)
        return {"loss": loss.detach()}
