"""A trained model as a folder: weights in half precision, what they are weights of, and a card.

- `model.safetensors`: the sampler's tensors, floats as float16; of a large model in several files, with an index;
- `config.json`: family, image space, options, and the settings that it was trained with;
- `README.md`: the card, where one has been written (see `models.training.cards`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import save_torch_state_dict
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.errors import FailureKind, ModelError
from models.training.data import ImageData
from models.training.families import ImageSpace, Sampler, build
from models.training.loop import Trained
from models.training.settings import FamilyName, TrainingSettings

WEIGHTS = "*.safetensors"
LARGEST_FILE = 5 * 10**9
CONFIG = "config.json"


class SavedModel(BaseModel):
    """What config.json holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: Literal["nightmill-image"] = "nightmill-image"
    version: Literal[1] = 1
    family: FamilyName
    space: ImageSpace
    options: dict[str, JsonValue]
    training: dict[str, JsonValue]
    """Settings, steps made, losses at the end, and the data's source and licence: for the card."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that can be sampled from."""

    about: SavedModel
    sampler: Sampler


def save_model(folder: Path, sampler: Sampler, about: SavedModel, *, largest_file: int = LARGEST_FILE) -> None:
    """Write weights, in files of at most so many bytes, and config, the config last: a folder that has one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().clone()
        for name, tensor in sampler.state_dict().items()
    }
    save_torch_state_dict(tensors, folder, max_shard_size=largest_file, metadata={"format": "pt"})
    for path in folder.glob(WEIGHTS):
        path.chmod(0o644)  # safetensors makes it for its owner alone, and a wheel would keep that
    (folder / CONFIG).write_text(about.model_dump_json(indent=2) + "\n")


def save_trained(
    folder: Path,
    trained: Trained,
    settings: TrainingSettings,
    data: ImageData,
    *,
    largest_file: int = LARGEST_FILE,
) -> None:
    """Keep what a training has left, as `save_model`."""
    training: dict[str, JsonValue] = {
        "settings": settings.model_dump(mode="json", exclude={"family", "options"}),
        "step": trained.step,
        "losses": dict(trained.losses),
        "images": len(data),
        "source": data.source,
        "license": data.license,
    }
    about = SavedModel(
        family=settings.family, space=trained.space, options=trained.options.model_dump(mode="json"), training=training
    )
    save_model(folder, trained.sampler, about, largest_file=largest_file)


def load_model(folder: Path) -> LoadedModel:
    """The model of a folder, in float32, on the processor.

    Raises:
        ModelError: kind MODEL, code `model_folder_incomplete`, `model_folder_invalid` or `weights_damaged`.
    """
    try:
        about = SavedModel.model_validate(json.loads((folder / CONFIG).read_text()))
    except OSError as error:
        raise _error(
            "model_folder_incomplete", f"the model folder {folder} has no readable {CONFIG}: {error}"
        ) from error
    except (json.JSONDecodeError, ValidationError) as error:
        raise _error(
            "model_folder_invalid", f"{folder / CONFIG} is not the config of a trained model: {error}"
        ) from error
    # Its first weights are thrown away, but draw from torch's global generator, which is not this function's to move.
    with torch.random.fork_rng(devices=[]):
        sampler = build(about.family, about.space, about.options, 1e-3).sampler
    try:
        tensors: dict[str, Tensor] = {}
        for path in sorted(folder.glob(WEIGHTS)):
            tensors |= load_file(path)
        sampler.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise _error("weights_damaged", f"{folder / WEIGHTS} do not hold the model's weights: {error}") from error
    sampler.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no such overload
    return LoadedModel(about, sampler.float().requires_grad_(requires_grad=False).eval())


def _error(code: str, message: str) -> ModelError:
    return ModelError(FailureKind.MODEL, code, message)
