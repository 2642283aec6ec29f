"""From a pipeline's name to a folder of safetensors, with nothing in it that would run as code."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import diffusers
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from models import smollm2, weights
from models.errors import FailureKind, ModelError, UnknownModelError

INDEX = "model_index.json"
WEIGHTS_NAME = re.compile(r"[^.]+?(?:\.(?P<variant>\w+))?(?:-\d{5}-of-\d{5})?\.safetensors")
"""`model.fp16-00001-of-00002.safetensors` and its simpler kin: https://huggingface.co/docs/diffusers/using-diffusers/loading."""
HALF = "fp16"


def locate(name: str, cache_dir: Path) -> Path:  # noqa: ARG001  # the hub's client has a cache of its own
    """The folder of a pipeline, downloaded where it is not there yet.

    Raises:
        UnknownModelError: no such folder, or not a pipeline that may be loaded.
        ModelError: kind MODEL, the hub does not give it, or a file is damaged.
    """
    folder = Path(name).expanduser() if weights.is_folder_name(name) else _fetch(name)
    for component in _weighted(folder, name):
        weights.check_whole(component)
    return folder.resolve()


def variant(folder: Path) -> str | None:
    """Which of a folder's sets of weights to load: the plain one, or the halved one where there is no other."""
    names = [{_variant_of(path) for path in component.glob("*.safetensors")} for component in _weighted(folder)]
    return None if all(None in found for found in names) else HALF


def revision(folder: Path) -> str:
    """`sha256:` and 16 hexadecimal digits that stand for the weights that are loaded: the digest of their digests."""
    wanted = variant(folder)
    files = [
        path
        for component in _weighted(folder)
        for path in sorted(component.glob("*.safetensors"))
        if _variant_of(path) == wanted
    ]
    lines = [f"{smollm2.sha256_of(path)} {path.relative_to(folder).as_posix()}" for path in files]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"sha256:{digest[:16]}"


def _variant_of(path: Path) -> str | None:
    match = WEIGHTS_NAME.fullmatch(path.name)
    return match["variant"] if match else None


def _weighted(folder: Path, name: str | None = None) -> list[Path]:
    """The folders of a pipeline's components that have weights, once the whole of it is seen to be safe to load."""
    name = name or str(folder)
    index = _read_index(folder, name)
    found: list[Path] = []
    for key, value in sorted(index.items()):
        if key.startswith("_") or not isinstance(value, list) or value[:1] == [None]:
            continue
        component = folder / key
        library = str(value[0])
        if library not in {"diffusers", "transformers"} and not hasattr(diffusers.pipelines, library):
            raise UnknownModelError(
                f"the pipeline {name!r} brings code of its own ({key}: {library}), which is never run",
                "model_needs_code",
            )
        if not component.is_dir():
            raise UnknownModelError(f"the pipeline {name!r} has no folder {key}/", "model_folder_incomplete")
        if any(component.glob("*.safetensors")):
            found.append(component)
        elif unsafe := sorted({path.suffix for path in component.iterdir()} & weights.UNSAFE_SUFFIXES):
            raise UnknownModelError(
                f"the pipeline {name!r} has no *.safetensors weights in {key}/; its {', '.join(unsafe)} files are not "
                "loaded: only safetensors are",
                "model_folder_incomplete",
            )
    if not found:
        raise UnknownModelError(f"the pipeline {name!r} has no *.safetensors weights", "model_folder_incomplete")
    return found


def _read_index(folder: Path, name: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise UnknownModelError(f"the model folder {name!r} does not exist on this machine", "model_folder_missing")
    try:
        index: Any = json.loads((folder / INDEX).read_bytes())
    except FileNotFoundError as error:
        raise UnknownModelError(f"the model folder {name!r} has no {INDEX}", "model_folder_incomplete") from error
    except ValueError as error:
        raise UnknownModelError(f"{INDEX} of {name!r} is not JSON: {error}", "model_folder_incomplete") from error
    class_name = index.get("_class_name") if isinstance(index, dict) else None
    if not isinstance(class_name, str):
        raise UnknownModelError(
            f"{INDEX} of {name!r} names no class of diffusers, or code of its own, which is never run",
            "model_needs_code",
        )
    if not hasattr(diffusers, class_name):
        raise UnknownModelError(
            f"diffusers {diffusers.__version__} has no pipeline {class_name!r}, which {name!r} asks for",
            "model_class_unknown",
        )
    components: dict[str, Any] = index
    return components


def _fetch(name: str) -> Path:
    try:
        return Path(diffusers.DiffusionPipeline.download(name, use_safetensors=True, trust_remote_code=False))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError, ValueError) as error:
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        raise ModelError(
            FailureKind.MODEL,
            "hub_model_unavailable",
            f"the pipeline {name!r} could not be fetched from {endpoint}: it does not exist, has no safetensors, needs "
            "a token (HF_TOKEN), or the hub cannot be reached from here. A local folder that holds it works too "
            f"(model: /path/to/it). {type(error).__name__}: {weights.first_line(error)}",
        ) from error
