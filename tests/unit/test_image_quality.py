"""The figures of the image quality benchmark, and the cards that carry them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmarks.image_quality import frechet, nearest
from models.training.cards import write_card
from models.training.checkpoints import FolderCheckpoints
from models.training.loop import train
from models.training.saved import load_model, save_trained
from tests.support.tiny_models import settings, squares


def test_the_frechet_distance_of_normal_distributions() -> None:
    generator = np.random.default_rng(1)
    first = generator.normal(0, 1, (200_000, 3))
    assert frechet(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet(first, first + np.array([3, 0, 4])) == pytest.approx(25, rel=1e-6)
    # Standard deviations s and t of one axis are (s - t) squared apart.
    assert frechet(first, first * np.array([1, 1, 3])) == pytest.approx(4, rel=0.02)
    mixed = generator.normal(0, 1, (3, 3))
    assert frechet(first @ mixed, generator.normal(0, 1, (200_000, 3)) @ mixed) == pytest.approx(0, abs=1e-3)


def test_the_nearest_neighbour_is_found() -> None:
    training = squares(40).images
    changed = training[[7, 30]].clone()
    changed[1, 0, 0, 0] ^= 255  # one pixel of 64
    near = nearest(changed, training)
    assert near[0] == pytest.approx(0, abs=1e-3)
    difference = abs(int(changed[1, 0, 0, 0]) - int(training[30, 0, 0, 0])) / 255
    assert near[1] == pytest.approx(difference / 8, rel=1e-2)


def test_a_card_holds_data_settings_and_figures(tmp_path: Path) -> None:
    data, given = squares(), settings("vae")
    folder = tmp_path / "shop-vae"
    save_trained(folder, train(data, given, FolderCheckpoints(tmp_path / "c")), given, data)
    spread = {"median": 0.1, "first_percentile": 0.05}
    figures = {"fid": 3.456, "class_accuracy": 0.9, "trained_on_samples": 0.8, "nearest_neighbour": spread}
    reference = {
        "count": 500,
        "classifier_accuracy": 0.91,
        "test_images": spread,
        "training_images": {"fid": 1.0, "class_accuracy": 0.93, "trained_on_samples": 0.85},
    }
    write_card(folder, load_model(folder).about, {**figures, "reference": reference}, "Blurred at the edges.")
    text = (folder / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    described = yaml.safe_load(head)
    assert described["name"] == "shop-vae"
    assert described["data"] == {"source": "squares", "license": "CC0-1.0", "images": 40}
    assert described["settings"]["batch_size"] == 8
    assert described["metrics"]["fid"] == 3.456
    assert described["steps"] == 6
    assert torch.isfinite(torch.tensor(described["losses"]["pixels"]))
    assert "| FID to the test images | 3.46 | 1.00 |" in body
    assert "Blurred at the edges." in body
    for part in ("## Quality", "## Meant for", "## Limits"):
        assert part in body
    write_card(folder, load_model(folder).about, {})
    assert "## Quality" not in (folder / "README.md").read_text()
