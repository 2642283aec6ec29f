"""Draws a small set of pictures to train on: `python examples/shapes.py` makes examples/shapes/CLASS/NUMBER.png."""

from __future__ import annotations

import colorsys
import random
from pathlib import Path

from PIL import Image, ImageDraw

FOLDER = Path(__file__).parent / "shapes"
CLASSES = ("circle", "square", "triangle")
COUNT = 120
"""Pictures of a class."""
SIDE = 64


def draw(name: str, chance: random.Random) -> Image.Image:
    """One shape, somewhere in the middle, in a colour of its own."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(picture)
    red, green, blue = colorsys.hsv_to_rgb(chance.random(), 0.8, 0.8)
    colour = (round(255 * red), round(255 * green), round(255 * blue))
    x, y = (SIDE / 2 + chance.uniform(-8, 8) for _ in range(2))
    reach = chance.uniform(12, 22)
    box = (x - reach, y - reach, x + reach, y + reach)
    if name == "circle":
        pen.ellipse(box, fill=colour)
    elif name == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([(x, y - reach), (x - reach, y + reach), (x + reach, y + reach)], fill=colour)
    return picture


def main() -> None:
    """Make the folder; the same pictures every time."""
    chance = random.Random(1)  # noqa: S311 - it guards nothing
    for name in CLASSES:
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
        for number in range(COUNT):
            draw(name, chance).save(FOLDER / name / f"{number:03}.png")


if __name__ == "__main__":
    main()
