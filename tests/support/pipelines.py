"""Diffusers pipelines of each family, tiny, with random weights and a tokenizer made on the spot, saved as safetensors.

`cross_attention` widths differ between families as they do in the real ones: SD 1.5 has one CLIP encoder, SDXL two, SD3
two and a T5, FLUX one and a T5.
"""

from __future__ import annotations

import string
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    import peft
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers.models.clip.tokenization_clip import CLIPTokenizer
    from transformers.models.t5.tokenization_t5 import T5Tokenizer

FAMILIES = ("sd", "sdxl", "sd3", "flux")
CLIP_TOKENS = 77
WIDTH = 32
SIDE = 32
"""Pixels of a family's default picture, and of the pictures that tests ask for."""


def save_pipeline(family: str, folder: Path, *, seed: int = 0, scale: int = 1) -> Path:
    """A whole pipeline of a family in a folder; `scale` widens what denoises, for benchmarks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.manual_seed(seed)
        pipeline = {"sd": _sd, "sdxl": _sdxl, "sd3": _sd3, "flux": _flux}[family](scale)
        # Random weights paint nearly the same grey whatever they are told; louder ones tell prompts and seeds apart.
        denoiser = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
        with torch.no_grad():
            for parameter in denoiser.parameters():
                if parameter.ndim == 1 and not parameter.any():
                    parameter.normal_(std=0.02)
        pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_adapter(pipeline_folder: Path, folder: Path, *, seed: int, targets: Sequence[str] = ("to_q", "to_v")) -> Path:
    """A LoRA adapter for the UNet of an SD pipeline, as diffusers saves one, with random weights that show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unet = diffusers.UNet2DConditionModel.from_pretrained(pipeline_folder, subfolder="unet")
        torch.manual_seed(seed)
        unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=4, init_lora_weights=False, target_modules=list(targets)))
        state = diffusers.utils.convert_state_dict_to_diffusers(peft.get_peft_model_state_dict(unet))
        diffusers.StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state, safe_serialization=True)
    return folder


def _sd(scale: int) -> diffusers.DiffusionPipeline:
    return diffusers.StableDiffusionPipeline(
        unet=_unet(scale, cross_attention_dim=WIDTH),
        vae=_vae(),
        text_encoder=transformers.CLIPTextModel(_clip_config()),
        tokenizer=_clip_tokenizer(),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl(scale: int) -> diffusers.DiffusionPipeline:
    return diffusers.StableDiffusionXLPipeline(
        unet=_unet(
            scale,
            cross_attention_dim=2 * WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        ),
        vae=_vae(),
        text_encoder=transformers.CLIPTextModel(_clip_config()),
        text_encoder_2=transformers.CLIPTextModelWithProjection(_clip_config()),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
    )


def _sd3(scale: int) -> diffusers.DiffusionPipeline:
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=SIDE // 2,
            patch_size=2,
            in_channels=16,  # by which the pipelines tell an inpainting transformer
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4 * scale,
            caption_projection_dim=32 * scale,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=2 * WIDTH,
            out_channels=16,
        ),
        vae=_vae(latent_channels=16, shift_factor=0.06),
        text_encoder=transformers.CLIPTextModelWithProjection(_clip_config()),
        text_encoder_2=transformers.CLIPTextModelWithProjection(_clip_config()),
        text_encoder_3=transformers.T5EncoderModel(_t5_config(2 * WIDTH)),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        tokenizer_3=_t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _flux(scale: int) -> diffusers.DiffusionPipeline:
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2 * scale,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
        vae=_vae(shift_factor=0.06),
        text_encoder=transformers.CLIPTextModel(_clip_config()),
        text_encoder_2=transformers.T5EncoderModel(_t5_config(WIDTH)),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )


def _unet(scale: int, **options: object) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(32 * scale, 64 * scale),
        layers_per_block=1,
        sample_size=SIDE // 2,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2 * scale, 4 * scale),
        use_linear_projection=True,
        **options,
    )


def _vae(*, latent_channels: int = 4, **options: float) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=latent_channels,
        sample_size=SIDE,
        **options,
    )


def _clip_config() -> transformers.CLIPTextConfig:
    tokens = len(_clip_vocabulary())
    return transformers.CLIPTextConfig(
        bos_token_id=tokens - 2,
        eos_token_id=tokens - 1,
        pad_token_id=tokens - 1,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=tokens,
        max_position_embeddings=CLIP_TOKENS,
        hidden_act="gelu",
    )


def _t5_config(width: int) -> transformers.T5Config:
    return transformers.T5Config(
        vocab_size=256, d_model=width, d_ff=2 * width, d_kv=8, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )


def _clip_vocabulary() -> dict[str, int]:
    """Every byte as a token, within a word and at its end; no merges, so a letter is a token."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}


def _clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(vocab=_clip_vocabulary(), merges=[], model_max_length=CLIP_TOKENS)


def _t5_tokenizer() -> T5Tokenizer:
    known = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    known += [(letter, -3.0) for letter in string.ascii_letters + string.digits + string.punctuation]
    known += [(f"<extra_id_{number}>", 0.0) for number in range(99, -1, -1)]
    return T5Tokenizer(vocab=known, extra_ids=100, model_max_length=512)
