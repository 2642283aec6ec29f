"""Checkpoints in a folder: whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.training.checkpoints import Checkpoint, FolderCheckpoints


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"weights": torch.full((2,), float(step))}, {"settings": {"seed": 1}})


def test_the_latest_comes_back_whole_and_old_ones_go(tmp_path: Path) -> None:
    kept = FolderCheckpoints(tmp_path / "new", keep=2)
    assert kept.latest() is None
    for step in (5, 10, 15):
        kept.save(checkpoint(step))
    found = kept.latest()
    assert found is not None
    assert found.step == 15
    assert found.tensors["weights"].tolist() == [15.0, 15.0]
    assert found.state == {"settings": {"seed": 1}}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["step-000000010", "step-000000015"]


def test_the_same_step_can_be_kept_again(tmp_path: Path) -> None:
    kept = FolderCheckpoints(tmp_path)
    kept.save(checkpoint(5))
    kept.save(checkpoint(5))
    found = kept.latest()
    assert found is not None
    assert found.step == 5


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("left", [0, 9, None])
def test_a_damaged_one_is_passed_over(file: str, left: int | None, tmp_path: Path) -> None:
    kept = FolderCheckpoints(tmp_path)
    kept.save(checkpoint(5))
    kept.save(checkpoint(10))
    damaged = tmp_path / "step-000000010" / file
    if left is None:
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:left])
    found = kept.latest()
    assert found is not None
    assert found.step == 5


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    """As a kill leaves it that comes while one is written."""
    (tmp_path / ".step-000000005.partial").mkdir()
    kept = FolderCheckpoints(tmp_path)
    assert kept.latest() is None
    kept.save(checkpoint(5))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000005"]
