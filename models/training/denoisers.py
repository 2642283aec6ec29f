"""How the pipelines of each family are trained: what their denoiser is told, and what it is to answer.

Sources: Ho et al., 2020, https://arxiv.org/abs/2006.11239 (noise); Salimans and Ho, 2022,
https://arxiv.org/abs/2202.00512 (velocity); Esser et al., 2024, https://arxiv.org/abs/2403.03206 (flow matching, times
drawn logit-normal). Which of them a model was trained with, its scheduler says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from torch import Tensor

from models.errors import UnknownModelError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


class Denoiser(ABC):
    """A pipeline's network that takes noise away, and all that it needs beside the noisy latents."""

    part: str
    """The pipeline's name for it."""

    def __init__(self, pipeline: Any) -> None:  # noqa: ANN401  # diffusers' pipelines have no common type for this
        self.pipeline = pipeline
        self.network: Any = getattr(pipeline, self.part)  # a module of any class

    @torch.no_grad()
    def latents(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (batch, 3, height, width; -1 to 1) as the network sees them."""
        vae = self.pipeline.vae
        encoded: Tensor = vae.encode(images.to(vae.device, vae.dtype)).latent_dist.sample(generator)
        scaled: Tensor = (encoded - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor
        return scaled.float()

    @abstractmethod
    def loss(self, latents: Tensor, captions: Sequence[str], generator: torch.Generator) -> Tensor:
        """Mean squared error of the network's answers at a random time for each of the latents."""

    def _noise(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(latents.shape, generator=generator).to(latents.device)


class StableDiffusion(Denoiser):
    """SD 1.5, 2: noise or velocity in whole steps."""

    part = "unet"

    def __init__(self, pipeline: Any) -> None:  # noqa: ANN401  # see Denoiser
        super().__init__(pipeline)
        schedule: Any = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)  # type: ignore[no-untyped-call]
        if schedule.config.prediction_type not in {"epsilon", "v_prediction"}:
            raise _unfit(f"its scheduler predicts {schedule.config.prediction_type!r}")
        self._schedule = schedule

    def loss(self, latents: Tensor, captions: Sequence[str], generator: torch.Generator) -> Tensor:
        """See `Denoiser`."""
        schedule = self._schedule
        noise = self._noise(latents, generator)
        count = schedule.config.num_train_timesteps
        times = torch.randint(0, count, (len(latents),), generator=generator).to(latents.device)
        noisy = schedule.add_noise(latents, noise, times)
        velocity = schedule.config.prediction_type == "v_prediction"
        target = schedule.get_velocity(latents, noise, times) if velocity else noise
        dtype = self.pipeline.unet.dtype
        answer: Tensor = self.network(noisy.to(dtype), times, **self._conditions(captions, latents)).sample
        return (answer.float() - target).square().mean()

    @torch.no_grad()
    def _conditions(self, captions: Sequence[str], latents: Tensor) -> dict[str, Any]:  # of the network's call
        embeds = self.pipeline.encode_prompt(list(captions), latents.device, 1, False)[0]  # noqa: FBT003  # its signature
        return {"encoder_hidden_states": embeds}


class StableDiffusionXl(StableDiffusion):
    """SDXL: is told the pictures' size, too."""

    @torch.no_grad()
    def _conditions(self, captions: Sequence[str], latents: Tensor) -> dict[str, Any]:  # of the network's call
        pipeline = self.pipeline
        embeds, _, pooled, _ = pipeline.encode_prompt(
            list(captions), device=latents.device, do_classifier_free_guidance=False
        )
        size = tuple(side * pipeline.vae_scale_factor for side in latents.shape[2:])
        width = pipeline.text_encoder_2.config.projection_dim
        # What the pipeline itself asks, which has no other name for it.
        sizes = pipeline._get_add_time_ids(size, (0, 0), size, embeds.dtype, text_encoder_projection_dim=width)
        told = {"text_embeds": pooled, "time_ids": sizes.to(latents.device).repeat(len(latents), 1)}
        return {"encoder_hidden_states": embeds, "added_cond_kwargs": told}


class FlowMatching(Denoiser):
    """What has a transformer: the direction from picture to noise, at times from 0 to 1."""

    part = "transformer"

    def loss(self, latents: Tensor, captions: Sequence[str], generator: torch.Generator) -> Tensor:
        """See `Denoiser`."""
        noise = self._noise(latents, generator)
        times = torch.randn(len(latents), generator=generator).sigmoid().to(latents.device)
        shift = self.pipeline.scheduler.config.get("shift") or 1.0
        times = shift * times / (1 + (shift - 1) * times)
        along = times[:, None, None, None]
        answer = self._answer((1 - along) * latents + along * noise, times, captions)
        return (answer.float() - self._packed(noise - latents)).square().mean()

    @abstractmethod
    def _answer(self, noisy: Tensor, times: Tensor, captions: Sequence[str]) -> Tensor: ...

    def _packed(self, latents: Tensor) -> Tensor:
        return latents


class StableDiffusion3(FlowMatching):
    """SD 3, 3.5."""

    def _answer(self, noisy: Tensor, times: Tensor, captions: Sequence[str]) -> Tensor:
        with torch.no_grad():
            embeds, _, pooled, _ = self.pipeline.encode_prompt(
                list(captions), None, None, device=noisy.device, do_classifier_free_guidance=False
            )
        answer: Tensor = self.network(
            hidden_states=noisy.to(embeds.dtype),
            timestep=times * 1000,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
        ).sample
        return answer


class Flux(FlowMatching):
    """FLUX.1, whose latents are packed: two by two places are one."""

    def _answer(self, noisy: Tensor, times: Tensor, captions: Sequence[str]) -> Tensor:
        pipeline = self.pipeline
        with torch.no_grad():
            embeds, pooled, text_ids = pipeline.encode_prompt(list(captions), None, device=noisy.device)
        height, width = noisy.shape[2] // 2, noisy.shape[3] // 2
        # Trained with its guidance as an input: 1 is none.
        guided = torch.ones(len(noisy), device=noisy.device) if self.network.config.guidance_embeds else None
        # Places and packing as the pipeline itself has them.
        places = pipeline._prepare_latent_image_ids(len(noisy), height, width, noisy.device, embeds.dtype)
        answer: Tensor = self.network(
            hidden_states=self._packed(noisy).to(embeds.dtype),
            timestep=times,
            guidance=guided,
            pooled_projections=pooled,
            encoder_hidden_states=embeds,
            txt_ids=text_ids,
            img_ids=places,
        ).sample
        return answer

    def _packed(self, latents: Tensor) -> Tensor:
        packed: Tensor = self.pipeline._pack_latents(latents, *latents.shape)
        return packed


_FAMILIES: dict[str, type[Denoiser]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXl,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
}


def open_denoiser(pipeline: Any) -> Denoiser:  # noqa: ANN401  # see Denoiser
    """A pipeline's denoiser.

    Raises:
        UnknownModelError: an adapter cannot be trained for such a pipeline.
    """
    family = _FAMILIES.get(type(pipeline).__name__)
    if family is None:
        raise _unfit(f"it is a {type(pipeline).__name__}; those that can be tuned are {', '.join(_FAMILIES)}")
    return family(pipeline)


def _unfit(why: str) -> UnknownModelError:
    return UnknownModelError(f"no adapter can be trained for this pipeline: {why}", "wrong_kind")
