"""LoRA adapters of text models, as peft leaves them in a folder: whether one is whole, and one of a given model.

Looked at before an engine reads it: an adapter that does not fit must not cost the engine that others are using. Only
headers of safetensors files are read, and no engine is imported.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from models import weights
from models.errors import FailureKind, ModelError
from models.spec import Adapter
from models.training.settings import MAX_RANK

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
_TENSOR = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
_MUST_BE_OFF = (
    "use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias", "layer_replication",
    "alora_invocation_tokens", "use_qalora", "use_bdlora", "trainable_token_indices",
)  # fmt: skip
"""Settings of peft that not both text engines know."""


def find_adapter(folder: Path, name: str) -> Adapter:
    """The adapter in a folder.

    Raises:
        ModelError: kind MODEL, code `adapter_missing` or `weights_damaged`.
    """
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            what = f"has no {file}" if folder.is_dir() else "is no folder on this machine"
            raise _error("adapter_missing", f"the adapter {name!r} {what}; it needs {CONFIG} and {WEIGHTS}")
    weights.check_whole(folder)
    return Adapter(str(folder.resolve()), weights.revision(folder))


def check_fit(adapter: Adapter, base: Path) -> None:
    """See that an adapter is one of the model in a folder, and of a kind that the engines know.

    Raises:
        ModelError: kind MODEL, code `adapter_unfit`.
    """
    folder = Path(adapter.folder)
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        shapes = dict(_shapes(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _error("adapter_unfit", f"the adapter in {folder} cannot be read: {error}") from error
    _check_config(folder, config)
    layers: dict[str, tuple[int, ...]] = {}
    for file in sorted(base.glob("*.safetensors")):
        layers |= dict(_shapes(file))
    for name, shape in shapes.items():
        found = _TENSOR.fullmatch(name)
        layer = None if found is None else layers.get(f"{found['layer']}.weight")
        if found is None or layer is None:
            raise _error("adapter_unfit", f"the adapter in {folder} is not of this model: it has no place for {name}")
        rank_axis, own_axis, base_axis = (0, 1, 1) if found["side"] == "A" else (1, 0, 0)
        if len(shape) != 2 or len(layer) != 2 or shape[rank_axis] != config["r"] or shape[own_axis] != layer[base_axis]:
            raise _error(
                "adapter_unfit",
                f"the adapter in {folder} is not of this model: {name} is {_shown(shape)}, of rank {config['r']}, and "
                f"its layer {_shown(layer)}",
            )
    if not shapes:
        raise _error("adapter_unfit", f"the adapter in {folder} is empty")


def _check_config(folder: Path, config: Any) -> None:  # noqa: ANN401  # any JSON
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise _error("adapter_unfit", f"{folder / CONFIG} is not of a LoRA adapter")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise _error("adapter_unfit", f"the adapter in {folder} has the rank {rank}; 1 to {MAX_RANK} can be used")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise _error("adapter_unfit", f"{folder / CONFIG} has no number as lora_alpha")
    used = [name for name in _MUST_BE_OFF if config.get(name)]
    if config.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise _error(
            "adapter_unfit", f"the adapter in {folder} uses {', '.join(used)}, which the engines do not all know"
        )


def _shapes(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a safetensors file: https://github.com/huggingface/safetensors#format."""
    with file.open("rb") as opened:
        header: Mapping[str, Any] = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    for name, tensor in header.items():
        if name != "__metadata__":
            yield name, tuple(tensor["shape"])


def _shown(shape: tuple[int, ...]) -> str:
    return " by ".join(map(str, shape))


def _error(code: str, message: str) -> ModelError:
    return ModelError(FailureKind.MODEL, code, message)
