"""The training loop on tiny models of every family."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from models.errors import ModelError
from models.training.checkpoints import Checkpoint, FolderCheckpoints
from models.training.loop import Progress, train
from models.training.settings import Augmentation, FamilyName
from models.training.vae import Vae
from tests.support.tiny_models import FAMILIES, settings, squares, training_data


class KilledError(Exception):
    """Stands for the death of the process."""


def latest(folder: Path) -> Checkpoint:
    found = FolderCheckpoints(folder).latest()
    assert found is not None
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_training_goes_on_to_the_same_bits(family: FamilyName, tmp_path: Path) -> None:
    data = training_data(family)
    given = settings(family, augmentation=Augmentation(flip=True, crop=True, jitter=True), steps=7)

    def die(told: Progress) -> None:
        if told.step == 5:  # the last checkpoint is of step 4
            raise KilledError

    through = train(data, given, FolderCheckpoints(tmp_path / "through"))
    with pytest.raises(KilledError):
        train(data, given, FolderCheckpoints(tmp_path / "killed"), watch=die)
    assert latest(tmp_path / "killed").step == 4
    torch.manual_seed(99)  # the process that goes on has another global state
    resumed = train(data, given, FolderCheckpoints(tmp_path / "killed"))

    assert through.finished
    assert resumed.finished
    assert resumed.losses == through.losses
    expected, found = latest(tmp_path / "through"), latest(tmp_path / "killed")
    assert found.step == expected.step == 7
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name
    state, averaged = resumed.sampler.state_dict(), through.sampler.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in averaged.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_learns(family: FamilyName, tmp_path: Path) -> None:
    """Weights of every network change, and another seed leads elsewhere."""
    data = training_data(family)
    first = train(data, settings(family, steps=1), FolderCheckpoints(tmp_path / "first"))
    before = latest(tmp_path / "first").tensors
    train(data, settings(family), FolderCheckpoints(tmp_path / "first"))
    after = latest(tmp_path / "first").tensors
    other = train(data, settings(family, steps=1, seed=6), FolderCheckpoints(tmp_path / "other"))
    assert other.losses != first.losses
    for network in {name.partition("/")[0] for name in before}:
        named = [name for name in before if name.startswith(f"{network}/")]
        assert any(not torch.equal(before[name], after[name]) for name in named), network


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(squares(), settings("diffusion", steps=2), FolderCheckpoints(tmp_path))
    assert torch.equal(torch.rand(4), expected)


def test_a_loss_that_is_no_number_ends_it_before_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = Vae.learn

    def broken(self: Vae, step: int, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        losses = learn(self, step, images, labels, generator)
        return losses if step < 3 else {**losses, "code": torch.tensor(float("nan"))}

    monkeypatch.setattr(Vae, "learn", broken)
    with pytest.raises(ModelError, match="in step 4 the loss 'code' became nan") as raised:
        train(squares(), settings("vae"), FolderCheckpoints(tmp_path))
    assert raised.value.code == "training_diverged"
    assert latest(tmp_path).step == 2


def test_it_stops_when_the_time_is_up_and_goes_on_later(tmp_path: Path) -> None:
    ticks = iter(range(0, 10_000, 25))
    given = settings("vae", steps=50, minutes=1, checkpoint_every=1000)
    stopped = train(squares(), given, FolderCheckpoints(tmp_path), clock=lambda: float(next(ticks)))
    assert not stopped.finished
    assert 0 < stopped.step < 50
    assert latest(tmp_path).step == stopped.step
    assert train(squares(), settings("vae", steps=50), FolderCheckpoints(tmp_path)).step == 50


def test_a_finished_training_is_not_trained_further(tmp_path: Path) -> None:
    given = settings("vae")
    first = train(squares(), given, FolderCheckpoints(tmp_path))
    told: list[Progress] = []
    again = train(squares(), given, FolderCheckpoints(tmp_path), watch=told.append)
    assert not told
    assert again.finished
    weights = again.sampler.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in first.sampler.state_dict().items())


def test_whoever_watches_hears_losses_and_sees_samples(tmp_path: Path) -> None:
    told: list[Progress] = []
    given = settings("diffusion", log_every=2, sample_every=4, steps=5)
    train(squares(channels=3), given, FolderCheckpoints(tmp_path), watch=told.append)
    assert [one.step for one in told] == [2, 4, 5]
    assert [one.grid is not None for one in told] == [False, True, True]
    grid = told[1].grid
    assert grid is not None
    assert grid.shape == (5 * 8, 2 * 8, 3)  # five rows of the two classes
    assert set(told[0].losses) == {"loss"}


def test_event_files_hold_losses_and_samples(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(squares(), settings("vae", sample_every=3), FolderCheckpoints(tmp_path / "c"), event_folder=tmp_path / "e")
    events = EventAccumulator(str(tmp_path / "e"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/pixels")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Images("samples")] == [3, 6]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    train(squares(), settings("vae"), FolderCheckpoints(tmp_path))
    other = settings("vae", options={"latent": 6, "width": 8}, steps=8)
    with pytest.raises(ModelError, match="of a model with other settings") as raised:
        train(squares(), other, FolderCheckpoints(tmp_path))
    assert raised.value.code == "checkpoint_mismatch"
    with pytest.raises(ModelError, match="of a model with other settings"):
        train(squares(), settings("gan", steps=8), FolderCheckpoints(tmp_path))


def test_an_option_that_a_family_has_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="widht"):
        train(squares(), settings("vae", options={"widht": 8}), FolderCheckpoints(tmp_path))


def test_settings_are_checked_without_an_engine() -> None:
    code = (
        "import sys; from models.training.settings import TrainingSettings;"
        "TrainingSettings(family='ar', options={'layers': 2});"
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_images_that_cannot_be_learned_from_are_refused(tmp_path: Path) -> None:
    def code_of(family: FamilyName, count: int, side: int, **changed: Any) -> str:
        with pytest.raises(ModelError) as raised:
            train(squares(count, side=side), settings(family, **changed), FolderCheckpoints(tmp_path))
        return raised.value.code

    assert code_of("vae", 7, 8) == "training_data_too_small"
    assert code_of("vae", 8, 10) == "unfit_size"
    assert code_of("diffusion", 8, 12, options={"widths": [32, 32, 32]}) == "unfit_size"


def test_any_seed_will_do(tmp_path: Path) -> None:
    losses = train(squares(), settings("vae", steps=1, seed=(1 << 63) - 1), FolderCheckpoints(tmp_path)).losses
    assert losses["pixels"] > 0
