"""How the models that this project ships were trained, and what is to be said of each beside its figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.training.data import ImageData, fashion_mnist
from models.training.objects import objects
from models.training.settings import Augmentation, TrainingSettings

LARGEST_SHIPPED = 4_500_000
"""Bytes of one file of weights: larger ones are a burden to whoever has the repository."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One shipped model."""

    settings: TrainingSettings
    data: Callable[[Path], ImageData] = lambda _: fashion_mnist()
    """The images; what must be fetched is kept in the folder that it is given."""
    remarks: str = ""
    """What a person saw in its samples: for the card."""


RECIPES: dict[str, Recipe] = {
    "fashion-diffusion": Recipe(
        settings=TrainingSettings(
            family="diffusion", steps=4000, batch_size=64, learning_rate=1e-3, average=0.998, bfloat16=True
        )
    ),
    "fashion-gan": Recipe(
        settings=TrainingSettings(
            family="gan", steps=4000, batch_size=64, learning_rate=3e-4, average=0.998, bfloat16=True
        ),
        remarks="Trousers, pullovers, coats, sneakers and ankle boots have clear outlines. Sandals are torn, the upper "
        "edges of bags are ragged, dresses are narrow with uneven sides, and dark garments have smears where a collar "
        "or a print would be. Coats, pullovers and shirts are told apart with difficulty, as in the data.",
    ),
    "fashion-vae": Recipe(
        settings=TrainingSettings(
            family="vae", steps=2500, batch_size=128, learning_rate=1e-3, average=0.998, bfloat16=True
        )
    ),
    "fashion-ar": Recipe(
        settings=TrainingSettings(
            family="ar",
            options={"code_steps": 800},
            steps=3500,
            batch_size=64,
            learning_rate=1e-3,
            average=0.998,
            bfloat16=True,
        )
    ),
    "objects-diffusion": Recipe(
        data=objects,
        settings=TrainingSettings(
            family="text-diffusion",
            options={"code_steps": 1500},
            steps=7000,
            batch_size=64,
            learning_rate=1e-3,
            average=0.998,
            bfloat16=True,
            augmentation=Augmentation(flip=True),
        ),
    ),
}
