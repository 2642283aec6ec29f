"""An adapter of a diffusers pipeline: its denoiser learns pictures, each under the name of its class."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import diffusers
import peft
import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.training_utils import cast_training_params
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from models.backends.chat import load_error
from models.backends.diffusers_folder import locate, revision, variant
from models.backends.training_engine import read_images
from models.errors import FailureKind, ModelError
from models.training.data import ImageData, augmented, scaled
from models.training.denoisers import ATTENTION, open_denoiser
from models.training.settings import LoraOptions, TrainingSettings
from models.training.text_tuning import CONFIG, WEIGHTS, config_file, lora_config
from models.training.tuning import Tuning, check_targets, device, shown_base
from models.training_run import Base, TrainingData

LONGEST_SIDE: Final = 512
"""Of the pictures where a job names no size."""
LOOSE: Final = "image"
"""The class of images that are in no sub-folder."""


class ImageTuning(Tuning):
    """A pipeline with an adapter in its denoiser, and the images that it learns from."""

    def __init__(self, base: Base, data: TrainingData, settings: TrainingSettings) -> None:
        """Raises ModelError, kind MODEL: the pipeline cannot be loaded or tuned, or the images cannot be read."""
        options = LoraOptions.model_validate(settings.options)
        folder = locate(base.model, base.cache_dir)
        self.base_revision = revision(folder)
        pipeline = _load(folder, base.model, bfloat16=settings.bfloat16)
        self._denoiser = open_denoiser(pipeline)
        network: Any = self._denoiser.network  # with diffusers' own methods
        self._base = shown_base(folder, base.model)
        self.size = _size(pipeline, data)
        self._images = read_images(dataclasses.replace(data, height=self.size[0], width=self.size[1], grey=False))
        self._captions = captions(self._images, data.name)
        self.classes = self._images.classes
        check_targets(network, options.targets, base.model)
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(requires_grad=False).eval()
        self._config = lora_config(options, list(ATTENTION), None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network.add_adapter(self._config)
        cast_training_params(network)
        network.eval()
        self._augmentation = settings.augmentation
        super().__init__(network, len(self._images), "images", settings)

    def losses(self, places: Sequence[int], generator: torch.Generator) -> tuple[Tensor, int]:
        """Squared error of what is taken for noise, at a random time for each image."""
        images = augmented(scaled(self._images.images[list(places)]), self._augmentation, generator)
        latents = self._denoiser.latents(images, generator)
        return self._denoiser.loss(latents, [self._captions[place] for place in places], generator), len(places)

    def files(self) -> dict[str, bytes]:
        """As diffusers reads it."""
        state = peft.get_peft_model_state_dict(self.network)
        described = config_file(self._config, self._base)
        part = self._denoiser.part
        layers = {
            f"{part}_lora_layers": {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
            f"{part}_lora_adapter_metadata": described.settings,
        }
        with tempfile.TemporaryDirectory(prefix="nightmill-adapter-") as home:
            self._denoiser.pipeline.save_lora_weights(home, weight_name=WEIGHTS, safe_serialization=True, **layers)
            # Its metadata have two entries, in no order; one is enough, and makes the same adapter the same file.
            with safe_open(Path(home) / WEIGHTS, "pt") as saved:
                shape = saved.metadata()[LORA_ADAPTER_METADATA_KEY]
            tensors = load_file(Path(home) / WEIGHTS)
        return {WEIGHTS: save(tensors, metadata={LORA_ADAPTER_METADATA_KEY: shape}), CONFIG: described.content}


def captions(data: ImageData, name: str) -> list[str]:
    """What each image is said to show: its class; where there are no classes, the data's name."""
    words = [name if data.classes == (LOOSE,) else one.replace("_", " ") for one in data.classes]
    return [words[label] for label in data.labels.tolist()]


def _load(folder: Path, name: str, *, bfloat16: bool) -> Any:  # noqa: ANN401  # a pipeline of any class
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
                folder,
                dtype=torch.bfloat16 if bfloat16 else torch.float32,
                variant=variant(folder),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
    except Exception as error:
        # Whatever the libraries raise on a pipeline that they cannot read.
        raise load_error(name, error) from error
    return pipeline.to(device())


def _size(pipeline: Any, data: TrainingData) -> tuple[int, int]:  # noqa: ANN401  # as above
    """Height and width: those that were asked for, else the pipeline's own, within a bound."""
    multiple = pipeline.vae_scale_factor * 2  # a transformer's patch; a UNet halves more often than that, and pads
    if data.height and data.width:
        if data.height % multiple or data.width % multiple:
            raise ModelError(
                FailureKind.MODEL,
                "unfit_size",
                f"images of {data.width}x{data.height} do not fit the model: sides must be multiples of {multiple}",
            )
        return data.height, data.width
    unet = getattr(pipeline, "unet", None)
    own = unet.config.sample_size if unet is not None else getattr(pipeline, "default_sample_size", 64)
    height, width = (own, own) if isinstance(own, int) else own
    sides = (min(LONGEST_SIDE, side * pipeline.vae_scale_factor) for side in (height, width))
    first, second = (side // multiple * multiple for side in sides)
    return first, second
