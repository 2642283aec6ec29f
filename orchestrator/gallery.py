"""A folder of images as a person looks at it: contact sheets and pages.

Memory stays at one page and one sheet, whatever the size of the job.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from orchestrator.pages import Pages

SHEET_IMAGES = 100
THUMB = 128
"""Pixels of a picture on a sheet, at most, in each direction."""
CAPTION = 16
PAGE_ITEMS = 500
_GROUND = (24, 24, 27)
_INK = (212, 212, 216)


@dataclass(frozen=True, slots=True)
class Shown:
    """An item as the gallery shows it."""

    index: int
    caption: str
    prompt: str
    files: tuple[str, ...]
    """Paths of its images, relative to the gallery's folder."""
    width: int
    height: int
    error: str | None


def shown_item(record: Mapping[str, Any], files: Sequence[str]) -> Shown:  # a record: any JSON
    """A record as the gallery shows it."""
    error = record.get("error")
    images = record.get("images") or ({"width": 1, "height": 1},)
    prompt = str(record.get("prompt", ""))
    return Shown(
        index=record["index"],
        caption=str(record.get("custom_id", "")) or prompt or f"item {record['index']}",
        prompt=prompt,
        files=tuple(files),
        width=images[0]["width"],
        height=images[0]["height"],
        error=None if error is None else f"{error.get('code', record['status'])}: {error.get('message', '')}",
    )


class Gallery:
    """Writes the pages and sheets of a folder as items come in.

    Args:
        folder: Where they go; the images lie below it already.
        title: Of the pages.
        total: Number of items that will come.
    """

    def __init__(self, folder: Path, title: str, total: int) -> None:
        self._folder = folder
        self._pages: Pages[Shown] = Pages(
            folder, template="gallery.html.jinja", stem="gallery", title=title, total=total, size=PAGE_ITEMS
        )
        self._sheet: list[tuple[str, str]] = []
        self.sheets = 0

    def add(self, item: Shown) -> None:
        """Take an item, in order."""
        for number, file in enumerate(item.files):
            name = str(item.index) if len(item.files) == 1 else f"{item.index}-{number}"
            self._sheet.append((file, name))
            if len(self._sheet) == SHEET_IMAGES:
                self._write_sheet()
        self._pages.add(item)

    def finish(self) -> Path:
        """Write what is left; returns the first page."""
        if self._sheet:
            self._write_sheet()
        return self._pages.finish()

    def _write_sheet(self) -> None:
        self.sheets += 1
        sheet = contact_sheet([(self._folder / file, name) for file, name in self._sheet])
        sheet.save(self._folder / f"contact-{self.sheets:03d}.png", compress_level=3)
        self._sheet = []


def contact_sheet(pictures: Sequence[tuple[Path, str]]) -> Image.Image:
    """Small copies of pictures side by side, each with its name below it."""
    columns = min(10, math.ceil(math.sqrt(len(pictures))))
    rows = math.ceil(len(pictures) / columns)
    gap = 6
    sheet = Image.new("RGB", (columns * (THUMB + gap) + gap, rows * (THUMB + CAPTION + gap) + gap), _GROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for place, (path, name) in enumerate(pictures):
        left = gap + place % columns * (THUMB + gap)
        top = gap + place // columns * (THUMB + CAPTION + gap)
        with Image.open(path) as picture:
            small = _fitted(picture)
        at = (left + (THUMB - small.width) // 2, top + (THUMB - small.height) // 2)
        sheet.paste(small, at, small if small.mode == "RGBA" else None)
        draw.text((left + THUMB // 2, top + THUMB + CAPTION // 2), name, fill=_INK, font=font, anchor="mm")
    return sheet


def _fitted(picture: Image.Image) -> Image.Image:
    """A picture as large as its place: small ones grow by whole pixels, so that they are seen as they are."""
    picture.draft("RGB", (THUMB, THUMB))
    own = picture.convert("RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB")
    if max(own.size) > THUMB:
        own.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
        return own
    times = THUMB // max(own.size)
    return own.resize((own.width * times, own.height * times), Image.Resampling.NEAREST)
