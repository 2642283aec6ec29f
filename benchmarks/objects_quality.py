"""How well `objects-diffusion` draws what a prompt says, and how much of it is learned by heart.

- found: of samples for names of training images, how often the nearest training image is one of that name. Beside the
  languages whose captions were learned stand two that were held out, of which only the sentence encoder knows anything.
- distance: the root mean square difference (levels 0 to 1) from a sample to the nearest training image, as it is or
  mirrored, in the median; beside it that from a training image to the nearest other one. A sample that lies much nearer
  is a copy.

Nearness judges samples by the images that they were learned from: it tells whether the words are understood, not how
much the model could draw that it has not seen. For that there is the sheet: twenty prompts, the last five of them
combinations that no caption has.

Writes results/objects_quality.json and .md, the sheet, and with --cards the figures into the card. Run as
`python -m benchmarks.objects_quality --data FOLDER [--folder models/trained] [--cards]`; FOLDER keeps the packages that
the images come from.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.measuring import keep, machine, rows, said
from models.backends.trained_engine import SHIPPED
from models.training.cards import write_card
from models.training.families import Sampler
from models.training.loop import to_pixels
from models.training.objects import HELD_OUT, Name, read_names, read_pictures
from models.training.saved import load_model
from models.training.sentences import SentenceEncoder
from models.training.shipped import RECIPES

MODEL = "objects-diffusion"
PROMPTS = (
    ("a red apple", "an apple"),
    ("sports car", "a car"),
    ("Hund", "German: dog"),
    ("Leuchtturm am Meer", "German: lighthouse by the sea; no picture shows one"),
    ("guitare", "French: guitar"),
    ("une tasse de café", "French: a cup of coffee"),
    ("ballena", "Spanish: whale"),
    ("sombrero", "Spanish: hat"),
    ("роза", "Russian: rose"),
    ("自転車", "Japanese: bicycle"),
    ("房子", "Chinese: house"),
    ("gelato", "Italian, held out: ice cream"),
    ("고양이", "Korean, held out: cat"),
    ("rocket", "a rocket"),
    ("something to eat for breakfast", "no name, but what it is for"),
    ("a blue apple", "a combination"),
    ("a green elephant", "a combination"),
    ("a cat driving a car", "a combination"),
    ("a cake in the shape of a house", "a combination"),
    ("a pink guitar with flowers", "a combination"),
)
"""What is asked for the sheet, and what it is, for who does not read it. No caption has the last five."""
COMBINATIONS = 5
COLUMNS = 5
EACH = 2
"""Samples of a prompt, side by side."""
CAPTION_HEIGHT = 14
LANGUAGES = ("en", "de", "ja", *HELD_OUT)
ROWS = 16


def draw(sampler: Sampler, encoder: SentenceEncoder, texts: Sequence[str], *, seed: int = 0) -> NDArray[np.uint8]:
    """A picture of each text, the k-th from the seed after the k-th: texts by height by width by 3."""
    wanted = torch.stack([encoder.vector(text) for text in texts])
    conditions = torch.stack([wanted, torch.zeros_like(wanted)], dim=1)
    made = []
    with torch.inference_mode():
        for places in torch.arange(len(texts)).split(ROWS):
            noise = torch.stack([sampler.noise(torch.Generator().manual_seed(seed + int(k))) for k in places])
            made.append(to_pixels(sampler.make(noise, conditions[places])))
    return np.concatenate(made)


def sheet(sampler: Sampler, encoder: SentenceEncoder) -> Image.Image:
    """Samples of the twenty prompts, with the prompts' numbers."""
    samples = draw(sampler, encoder, [prompt for prompt, _ in PROMPTS for _ in range(EACH)], seed=1)
    height, width = samples.shape[1:3]
    size = (COLUMNS * EACH * width, -(-len(PROMPTS) // COLUMNS) * (height + CAPTION_HEIGHT))
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    for number in range(len(PROMPTS)):
        left, top = number % COLUMNS * EACH * width, number // COLUMNS * (height + CAPTION_HEIGHT)
        pen.text((left + 4, top + 1), str(number + 1), fill="black")
        for k in range(EACH):
            page.paste(Image.fromarray(samples[EACH * number + k]), (left + k * width, top + CAPTION_HEIGHT))
    return page


def distances(images: Tensor, training: Tensor) -> Tensor:
    """Root mean square differences (images by training images), the training images as they are or mirrored."""

    def apart(known: Tensor) -> Tensor:
        return torch.cdist(images.flatten(1).float(), known.flatten(1).float()) / (255 * known[0].numel() ** 0.5)

    return torch.minimum(apart(training), apart(training.flip(3)))


def measure(
    sampler: Sampler, encoder: SentenceEncoder, names: Sequence[dict[str, Name]], training: Tensor, count: int
) -> dict[str, Any]:
    """The figures, of `count` names in each language."""
    chosen = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))[:count].tolist()
    found: dict[str, float] = {}
    nearest: list[Tensor] = []
    for language in LANGUAGES:
        labels = [name[language].label.casefold() for name in names]
        with said(language):
            samples = draw(sampler, encoder, [names[place][language].label for place in chosen])
        apart = distances(torch.from_numpy(samples).permute(0, 3, 1, 2), training)
        best = apart.argmin(dim=1).tolist()
        found[language] = float(
            np.mean([labels[one] == labels[place] for one, place in zip(best, chosen, strict=True)])
        )
        nearest.append(apart.min(dim=1).values)
    others = distances(training[chosen], training)
    others[torch.arange(len(chosen)), torch.tensor(chosen)] = torch.inf
    return {
        "count": len(chosen),
        "found": found,
        "distance": float(torch.cat(nearest).median()),
        "distance_of_training_images": float(others.min(dim=1).values.median()),
    }


def remarks(figures: dict[str, Any]) -> str:
    """The figures, the prompts and what was seen, for the card."""
    head = ["language", "nearest training image has the prompt's name"]
    table = rows(
        head,
        [
            [f"{language}, held out" if language in HELD_OUT else language, f"{share:.0%}"]
            for language, share in figures["found"].items()
        ],
    )
    listed = rows(
        ["", "prompt", "what it is"],
        [[str(number), prompt, what] for number, (prompt, what) in enumerate(PROMPTS, start=1)],
    )
    return (
        f"Of samples for {figures['count']} names a language (`benchmarks/objects_quality.py`; by chance it would be "
        f"{1 / figures['images']:.1%}):\n\n{table}\nA sample lies {figures['distance']:.3f} from the nearest training "
        f"image in the median, a training image {figures['distance_of_training_images']:.3f} from the nearest other "
        "one (root mean square difference of levels from 0 to 1, mirrored or not).\n\n"
        f"`samples.png` has two samples of each of these prompts; no caption has the last {COMBINATIONS}:\n\n{listed}\n"
        f"{RECIPES[MODEL].remarks}"
    )


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--data", type=Path, required=True, help="where the packages of images and names are kept")
    options.add_argument("--folder", type=Path, default=SHIPPED, help="where the model's folder is")
    options.add_argument("--count", type=int, default=200)
    options.add_argument("--cards", action="store_true", help="write the figures into the model's card")
    given = options.parse_args()
    folder = given.folder / MODEL
    names = read_names(given.data)
    pictures = read_pictures(given.data, names)
    training = torch.from_numpy(np.stack(list(pictures.values())))
    model, encoder = load_model(folder), SentenceEncoder()
    started = time.perf_counter()
    measured = measure(model.sampler, encoder, [names[code] for code in pictures], training, given.count)
    pace = len(LANGUAGES) * measured["count"] / (time.perf_counter() - started)
    figures = {"machine": machine(), "images": len(training), **measured, "images_per_second": pace}
    sheet(model.sampler, encoder).save(folder / "samples.png", optimize=True)
    if given.cards:
        write_card(folder, model.about, measured, remarks(figures))
    keep("objects_quality", figures, remarks(figures))


if __name__ == "__main__":
    main()
