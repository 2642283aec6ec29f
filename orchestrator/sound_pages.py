"""A folder of sounds as a person listens to it: texts, and a player beside each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.pages import Pages

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


def sound_pages(folder: Path, title: str, total: int) -> Pages[Heard]:
    """The pages of a folder below which `total` items' sounds lie."""
    return Pages(folder, template="audio.html.jinja", stem="audio", title=title, total=total, size=PAGE_ITEMS)
