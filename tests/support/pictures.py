"""Pictures drawn for tests: shaded balls on a table, with lettering."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from models.images import Pixels

BALLS = ((180, 270, 110, (210, 50, 40)), (360, 300, 80, (40, 120, 70)), (300, 390, 50, (230, 180, 40)))


def scene(width: int = 256, height: int = 256) -> Pixels:
    """A picture with soft shading and hard edges."""
    rows, columns = np.mgrid[0:512, 0:512].astype(np.float32)
    wall = np.stack([200 - 60 * rows / 512, 190 - 40 * rows / 512, 170 + 20 * columns / 512], -1)
    grain = np.sin(columns / 9 + 3 * np.sin(rows / 40))
    table = np.stack([150 + 25 * grain, 105 + 18 * grain, 70 + 10 * grain], -1)
    picture = np.where((rows > 330)[:, :, None], table, wall)
    for x, y, radius, colour in BALLS:
        across, down = (columns - x) / radius, (rows - y) / radius
        towards = np.sqrt(np.clip(1 - across**2 - down**2, 0, 1))
        light = np.clip(0.62 * towards - 0.5 * across - 0.6 * down, 0, 1)[:, :, None]
        shaded = np.array(colour, np.float32) * (0.25 + 0.75 * light) + 120 * light**30
        picture = np.where((across**2 + down**2 < 1)[:, :, None], shaded, picture)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.rectangle((40, 30, 200, 110), fill=(245, 240, 230))
    draw.text((55, 50), "SALE", fill=(30, 30, 90), font_size=44)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def balls(width: int = 256, height: int = 256) -> Pixels:
    """Where the scene's balls are: 255, elsewhere 0. Height by width."""
    image = Image.new("L", (512, 512))
    draw = ImageDraw.Draw(image)
    for x, y, radius, _ in BALLS:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def psnr(one: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio in decibels."""
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))
