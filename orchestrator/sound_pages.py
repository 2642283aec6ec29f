"""A folder of sounds as a person listens to it: pages of HTML with texts and players, which open without any server.

Pages hold no script and nothing from elsewhere. Memory stays at one page, whatever the size of the job.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

PAGE_ITEMS = 200
"""Players of a page: more are slow in browsers."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An item as a page shows it."""

    index: int
    name: str
    """The client's id of the item, where it has one."""
    text: str
    file: str | None
    """Path of its sound, relative to the page's folder."""
    seconds: float
    error: str | None


def heard_item(record: Mapping[str, Any], files: Sequence[str]) -> Heard:  # a record: any JSON
    """A record as a page shows it."""
    error = record.get("error")
    sounds = record.get("audio") or ({"seconds": 0.0},)
    return Heard(
        index=record["index"],
        name=str(record.get("custom_id", "")),
        text=str(record.get("prompt", "")).strip(),
        file=files[0] if files else None,
        seconds=sounds[0]["seconds"],
        error=f"{error.get('code', '')}: {error.get('message', '')}" if error is not None else None,
    )


class SoundPages:
    """Writes the pages of a folder as items come in.

    Args:
        folder: Where they go; the sounds lie below it already.
        title: Of the pages.
        total: Number of items that will come, so that the first page can link to the last.
    """

    def __init__(self, folder: Path, title: str, total: int) -> None:
        self._folder = folder
        self._title = title
        self._pages = max(1, math.ceil(total / PAGE_ITEMS))
        self._page = 0
        self._items: list[Heard] = []
        # Texts are the client's own words: whatever they hold, they are text.
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        source = Path(__file__).with_name("audio.html.jinja").read_text(encoding="utf-8")
        self._template = environment.from_string(source)

    def add(self, item: Heard) -> None:
        """Take an item, in order."""
        self._items.append(item)
        if len(self._items) == PAGE_ITEMS:
            self._write_page()

    def finish(self) -> Path:
        """Write what is left; returns the first page."""
        if self._items or not self._page:
            self._write_page()
        return self._folder / page_name(0)

    def _write_page(self) -> None:
        text = self._template.render(
            title=self._title,
            items=self._items,
            failed=sum(item.error is not None for item in self._items),
            page=self._page,
            pages=[page_name(number) for number in range(self._pages)],
        )
        (self._folder / page_name(self._page)).write_text(text, encoding="utf-8")
        self._items = []
        self._page += 1


def page_name(number: int) -> str:
    """The file of a page, counted from 0."""
    return "audio.html" if number == 0 else f"audio-{number + 1:03d}.html"
