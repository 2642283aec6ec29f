"""Models of each family, small enough to train a few steps of in a second."""

from __future__ import annotations

from typing import Any

import torch

from models.training.captions import CaptionedImages
from models.training.data import ImageData
from models.training.sentences import WIDTH
from models.training.settings import TEXT_FAMILIES, FamilyName, TrainingSettings

FAMILIES: tuple[FamilyName, ...] = ("diffusion", "gan", "vae", "ar", "text-diffusion")
OPTIONS: dict[FamilyName, dict[str, Any]] = {
    "diffusion": {"widths": [32, 32]},
    "gan": {"latent": 8, "width": 8, "discriminator_width": 8},
    "vae": {"latent": 4, "width": 8},
    # The two phases of each meet within the few steps.
    "ar": {"levels": [3, 3], "code_width": 8, "code_steps": 3, "width": 32, "layers": 1},
    "text-diffusion": {"latent": 4, "code_width": 8, "code_steps": 3, "widths": [32, 32], "layers": 1},
}


def squares(count: int = 40, *, side: int = 8, channels: int = 1) -> ImageData:
    """Images of one bright half each, left or right, and noise."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 60, (count, channels, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        image[:, :, int(label) * side // 2 : (int(label) + 1) * side // 2] += 180
    return ImageData(images=images, labels=labels, classes=("left", "right"), source="squares", license="CC0-1.0")


def captioned_squares(count: int = 40) -> CaptionedImages:
    """Larger ones in colour; each side has three captions, vectors that no sentence has."""
    data = squares(count, side=16, channels=3)
    vectors = torch.nn.functional.normalize(torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(2)), dim=2)
    return CaptionedImages(
        images=data.images,
        labels=torch.arange(count),
        classes=(),
        vectors=vectors[data.labels].flatten(0, 1),
        starts=3 * torch.arange(count + 1),
        source=data.source,
        license=data.license,
    )


def training_data(family: FamilyName) -> ImageData:
    """What a family learns from."""
    return captioned_squares() if family in TEXT_FAMILIES else squares()


def settings(family: FamilyName, **changed: Any) -> TrainingSettings:
    """A few steps."""
    given: dict[str, Any] = {
        "family": family,
        "options": OPTIONS[family],
        "seed": 5,
        "steps": 6,
        "batch_size": 8,
        "log_every": 1,
        "sample_every": 1000,
        "checkpoint_every": 2,
    }
    return TrainingSettings.model_validate(given | changed)
