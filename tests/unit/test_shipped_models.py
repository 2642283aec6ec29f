"""The models in models/trained: whole, small, with a card, and served by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from models.backends.trained import TrainedBackend
from models.backends.trained_engine import SHIPPED
from models.images import ImageRequest, ImageSettings
from models.training.shipped import RECIPES

NAMES = sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))


def test_there_are_some_and_each_has_a_recipe() -> None:
    assert NAMES
    assert set(NAMES) <= set(RECIPES)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_small_and_the_card_has_its_figures(name: str) -> None:
    weights = list((SHIPPED / name).glob("*.safetensors"))
    assert weights
    assert all(path.stat().st_size < 5_000_000 for path in weights)
    assert (SHIPPED / name / "samples.png").stat().st_size < 300_000
    head = yaml.safe_load((SHIPPED / name / "README.md").read_text().split("---\n")[1])
    assert head["name"] == name
    assert head["data"]["license"] == "MIT"
    figures = head["metrics"]
    for share in [figures["class_accuracy"]] if "class_accuracy" in figures else figures["found"].values():
        assert 0 < share <= 1


@pytest.mark.parametrize("name", NAMES)
async def test_it_is_served_by_its_name(name: str, tmp_path: Path) -> None:
    backend = TrainedBackend(name, cache_dir=tmp_path)
    info = await backend.load()
    request = ImageRequest(index=0, seed=1, settings=ImageSettings(), prompt="an ankle boot")
    results = [result async for group in backend.generate([request]) for result in group]
    await backend.close()
    assert info.model == name
    assert results[0].error is None
    pixels = results[0].images[0].pixels
    assert pixels.shape == ((64, 64, 3) if name == "objects-diffusion" else (28, 28, 3))
    assert 10 < pixels.mean() < 245
