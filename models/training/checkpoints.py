"""States of a training that it can go on from: tensors as safetensors, the rest as JSON."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

STEP_FOLDER = re.compile(r"step-(\d{9})")


@dataclass(frozen=True)
class Checkpoint:
    """A training after `step` steps."""

    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, JsonValue]


class Checkpoints(Protocol):
    """Where checkpoints are kept: a folder here, an object store in the layer above."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint, whole or not at all."""
        ...

    def latest(self) -> Checkpoint | None:
        """The last one that was kept whole."""
        ...


class FolderCheckpoints:
    """Checkpoints in a folder of this machine; the last `keep` of them stay."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self._folder = folder
        self._keep = keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Written beside its place and renamed, so that a kill leaves no half of one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        place = self._folder / f"step-{checkpoint.step:09}"
        beside = self._folder / f".{place.name}.partial"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        save_file(dict(checkpoint.tensors), beside / "state.safetensors")
        (beside / "state.json").write_text(json.dumps({"step": checkpoint.step, **checkpoint.state}))
        if place.exists():  # the same step again, after a resumption from an earlier one
            shutil.rmtree(place)
        beside.rename(place)
        for old in self._kept()[: -self._keep]:
            shutil.rmtree(old)

    def latest(self) -> Checkpoint | None:
        """The one of the highest step; one that is damaged is passed over for the one before."""
        for place in reversed(self._kept()):
            try:
                tensors = load_file(place / "state.safetensors")
                state = json.loads((place / "state.json").read_text())
            except (OSError, SafetensorError, json.JSONDecodeError):
                continue  # the disk was full, or the machine lost power before it was written through
            return Checkpoint(state.pop("step"), tensors, state)
        return None

    def _kept(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(place for place in self._folder.iterdir() if STEP_FOLDER.fullmatch(place.name))
