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
        ),
        remarks="The clearest and the most varied of the four: necklines, sleeves, heels and straps are there. Prints "
        "are faint noise, the handles of bags end in the air, and some sandals have parts that hang in nothing.",
    ),
    "fashion-gan": Recipe(
        settings=TrainingSettings(
            family="gan", steps=4000, batch_size=64, learning_rate=3e-4, average=0.998, bfloat16=True
        ),
        remarks="Garments, sneakers and ankle boots have clear outlines. Prints and the texture of sneakers come out "
        "as speckles, dark garments have smears where a collar or a print would be, sandals are torn and handbags are "
        "mostly boxes. Coats, pullovers and shirts are told apart with difficulty, as in the data.",
    ),
    "fashion-vae": Recipe(
        settings=TrainingSettings(
            family="vae", steps=2500, batch_size=128, learning_rate=1e-3, average=0.998, bfloat16=True
        ),
        remarks="The right silhouettes, blurred: no prints, seams or collars. Sandals are smudges. It is the fastest "
        "of the four, for drafts.",
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
        ),
        remarks="Shapes are right in most pictures and their surfaces are soft, with blocks and a check that nobody "
        "asked for: traces of the codes that it writes. Some dresses, bags and T-shirts are torn.",
    ),
    "objects-diffusion": Recipe(
        data=objects,
        settings=TrainingSettings(
            family="text-diffusion",
            options={"code_steps": 1500},
            steps=5250,
            batch_size=64,
            learning_rate=1e-3,
            average=0.998,
            bfloat16=True,
            augmentation=Augmentation(flip=True),
        ),
        remarks="Things with one plain shape that the encoder keeps apart are clear: apple, guitar, rose, bicycle, "
        "house, top hat, dog, cat, the last of them in a language without captions in training. Sports car and rocket "
        "are torn, cup, whale and ice cream are lumps of the right colour. What no picture shows (a lighthouse) "
        "becomes something else of the sea or the sky. Of the five combinations none is drawn as it was asked: "
        "the blue apple is green, the green elephant is an animal without a trunk, the car has no cat in it, the "
        "cake is a cupcake, the guitar has no flowers. The two samples of a prompt are often nearly one picture, "
        "mirrored: where a prompt is a name that was learned, the model draws that training picture from memory, "
        "softened, and not a thing of its kind. It was trained for about an hour on one core; the loss was still "
        "falling at the end.",
    ),
}
