"""What mostlyai-engine keeps of a training in its workspace, as a checkpoint: tensors and JSON, nothing pickled.

The engine writes its files with `torch.save`; they are read back here at once, on the machine that wrote them, and with
`weights_only`. What goes to the store, and what comes from it, is safetensors and JSON alone.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from models.tabular.argn_engine import Workspace
from models.training.checkpoints import Checkpoint

_WEIGHTS = "weights/"
_OPTIMIZER = "optimizer/"
_NUMPY: list[Any] = [np.float64(0).__reduce__()[0], np.dtype, np.dtypes.Float64DType]
"""What numbers of numpy are made of, which the engine saves among its own."""


def read_workspace(workspace: Workspace, message: dict[str, Any]) -> Checkpoint:
    """The checkpoint that the engine has just written; `message` is what it said of it."""
    tensors = {f"{_WEIGHTS}{name}": tensor for name, tensor in _load(workspace.model_tabular_weights_path).items()}
    optimizer = _load(workspace.model_optimizer_path)
    for number, state in optimizer["state"].items():
        tensors |= {f"{_OPTIMIZER}{number}/{name}": torch.as_tensor(value) for name, value in state.items()}
    accountant = workspace.model_dp_accountant_path
    state = {
        "message": {
            name: message[name] for name in ("epoch", "steps", "samples", "learn_rate", "trn_loss", "val_loss")
        },
        "groups": _plain(optimizer["param_groups"]),
        "scheduler": _plain(_load(workspace.model_lr_scheduler_path)),
        "accountant": _plain(_load(accountant)) if accountant.exists() else None,
        "epsilon": message["dp_eps"],
    }
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return Checkpoint(int(message["steps"]), kept, state)


def write_workspace(workspace: Workspace, checkpoint: Checkpoint) -> None:
    """Leave a checkpoint as the engine's own `RESUME` looks for it."""
    workspace.model_path.mkdir(parents=True, exist_ok=True)
    kept: Any = checkpoint.state  # JSON, as `read_workspace` made it
    torch.save(weights_of(checkpoint), workspace.model_tabular_weights_path)
    states: dict[int, dict[str, Tensor]] = {}
    for key, tensor in checkpoint.tensors.items():
        if key.startswith(_OPTIMIZER):
            number, _, name = key.removeprefix(_OPTIMIZER).partition("/")
            states.setdefault(int(number), {})[name] = tensor
    torch.save({"state": states, "param_groups": kept["groups"]}, workspace.model_optimizer_path)
    torch.save(kept["scheduler"], workspace.model_lr_scheduler_path)
    if kept["accountant"] is not None:
        history = [tuple(entry) for entry in kept["accountant"]["history"]]
        torch.save({**kept["accountant"], "history": history}, workspace.model_dp_accountant_path)
    # The budget of time is kept by whoever trains; to the engine each execution is the first.
    message = {**kept["message"], "is_checkpoint": 1, "total_time": 0.0}
    pd.DataFrame([message]).dropna(axis=1).to_csv(workspace.model_progress_messages_path, index=False)


def weights_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The network's tensors, under the engine's names."""
    return {
        key.removeprefix(_WEIGHTS): tensor for key, tensor in checkpoint.tensors.items() if key.startswith(_WEIGHTS)
    }


def _load(path: Path) -> dict[str, Any]:  # tensors, numbers and texts, in mappings and lists
    with torch.serialization.safe_globals(_NUMPY):
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def _plain(value: object) -> object:
    """Numbers of numpy as Python's. Infinite ones, which a fresh scheduler has by itself, are left out."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items() if not _is_infinite(each)}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def _is_infinite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
