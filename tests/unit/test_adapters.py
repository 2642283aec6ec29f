"""Adapters as they lie in a folder: which are taken, and what is said of those that are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from models.adapters import check_fit, find_adapter
from models.errors import FailureKind, ModelError

LAYER = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    save_file({f"{LAYER}.weight": torch.zeros(6, 8)}, folder / "model.safetensors")
    return folder


def adapter(folder: Path, *, layer: str = LAYER, inputs: int = 8, rank: int = 2, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    start = f"base_model.model.{layer}"
    tensors = {f"{start}.lora_A.weight": torch.ones(rank, inputs), f"{start}.lora_B.weight": torch.ones(6, rank)}
    save_file(tensors, folder / "adapter_model.safetensors")
    described = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(described))
    return folder


def test_an_adapter_that_fits_is_known_by_its_weights(base: Path, tmp_path: Path) -> None:
    found = find_adapter(adapter(tmp_path / "a"), "a")
    check_fit(found, base)
    assert found.revision == find_adapter(adapter(tmp_path / "again"), "again").revision
    assert found.revision != find_adapter(adapter(tmp_path / "other", rank=3), "other").revision


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"layer": "model.layers.9.self_attn.q_proj"}, "has no place for"),
        ({"inputs": 4}, r"is 2 by 4, of rank 2, and its layer 6 by 8"),
        ({"rank": 64}, "1 to 32 can be used"),
        ({"r": 3}, "of rank 3"),
        ({"peft_type": "IA3"}, "is not of a LoRA adapter"),
        ({"use_dora": True}, "uses use_dora"),
        ({"bias": "all"}, "uses bias"),
        ({"lora_alpha": None}, "no number as lora_alpha"),
    ],
)
def test_an_adapter_that_does_not_fit_says_why(base: Path, tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    found = find_adapter(adapter(tmp_path / "a", **changed), "a")
    with pytest.raises(ModelError, match=says) as caught:
        check_fit(found, base)
    assert (caught.value.kind, caught.value.code) == (FailureKind.MODEL, "adapter_unfit")


def test_a_folder_that_is_none_or_not_whole_is_said(base: Path, tmp_path: Path) -> None:
    for folder, says in ((tmp_path / "nowhere", "is no folder"), (base, "has no adapter_config.json")):
        with pytest.raises(ModelError, match=says) as caught:
            find_adapter(folder, "mine")
        assert caught.value.code == "adapter_missing"
    damaged = adapter(tmp_path / "damaged")
    weights = damaged / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(ModelError) as caught:
        find_adapter(damaged, "damaged")
    assert caught.value.code == "weights_damaged"
