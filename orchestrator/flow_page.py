"""A flow's items as a person looks at them: texts, pictures and sounds of one item side by side, without any server.

Pages hold no script and nothing from elsewhere. Memory stays at one page, whatever the size of the flow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import orjson

PAGE_ITEMS = 200
_FOLDERS = {"images": "images", "audio": "audio"}
"""Of a record's lists of files, the folder in which its node's results hold them."""


@dataclass(frozen=True, slots=True)
class Made:
    """What one node made of an item."""

    node: str
    texts: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    """Paths, relative to the page."""
    sounds: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ShownItem:
    """An item as the page shows it."""

    index: int
    caption: str
    given: str
    """The fields of its row that its record keeps."""
    made: tuple[Made, ...]


def shown_item(record: Mapping[str, Any]) -> ShownItem:  # a flow's record: any JSON
    """A flow's record as the page shows it."""
    return ShownItem(
        index=record["index"],
        caption=str(record.get("custom_id") or f"item {record['index']}"),
        given=", ".join(f"{key}: {value}" for key, value in (record.get("input") or {}).items()),
        made=tuple(_made(node, own) for node, own in record["nodes"].items()),
    )


def _made(node: str, record: Mapping[str, Any]) -> Made:  # a record: any JSON
    error = record.get("error")
    if record["status"] != "ok":
        return Made(node, error=record["status"] if error is None else f"{error['code']}: {error['message']}")
    outputs = [record["output"]] if "output" in record else [each["text"] for each in record.get("outputs", ())]
    return Made(
        node,
        texts=tuple(each if isinstance(each, str) else _indented(each) for each in outputs),
        images=_paths(node, record, "images"),
        sounds=_paths(node, record, "audio"),
    )


def _indented(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _paths(node: str, record: Mapping[str, Any], files: str) -> tuple[str, ...]:  # a record: any JSON
    return tuple(f"{node}/{_FOLDERS[files]}/{Path(file['key']).name}" for file in record.get(files, ()))


class FlowPages:
    """Writes the pages of a folder as items come in, in order; `total` is the number of items that will."""

    def __init__(self, folder: Path, title: str, total: int) -> None:
        self._folder = folder
        self._title = title
        self._pages = max(1, math.ceil(total / PAGE_ITEMS))
        self._page = 0
        self._items: list[ShownItem] = []
        # Outputs and captions are others' words: whatever they hold, they are text.
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        source = Path(__file__).with_name("flow.html.jinja").read_text(encoding="utf-8")
        self._template = environment.from_string(source)

    def add(self, record: Mapping[str, Any]) -> None:  # a flow's record: any JSON
        """Take an item's record."""
        self._items.append(shown_item(record))
        if len(self._items) == PAGE_ITEMS:
            self._write()

    def finish(self) -> Path:
        """Write what is left; returns the first page."""
        if self._items or not self._page:
            self._write()
        return self._folder / page_name(0)

    def _write(self) -> None:
        pages = [page_name(number) for number in range(self._pages)]
        text = self._template.render(title=self._title, items=self._items, page=self._page, pages=pages)
        (self._folder / page_name(self._page)).write_text(text, encoding="utf-8")
        self._items = []
        self._page += 1


def page_name(number: int) -> str:
    """The file of a page, counted from 0."""
    return "index.html" if number == 0 else f"page-{number + 1:03d}.html"
