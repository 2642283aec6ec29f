"""Pages of HTML about the items of a job, which open without any server.

They hold no script and nothing from elsewhere. Memory stays at one page, whatever the size of the job.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Generic, TypeVar

import jinja2

Item = TypeVar("Item")


class Pages(Generic[Item]):
    """Writes the pages of a folder as items come in.

    Args:
        folder: Where they go; the files that items name lie below it already.
        template: File of the template, beside this module: a child of page.html.jinja.
        stem: Of the first page's name.
        title: Of the pages.
        total: Number of items that will come, so that the first page can link to the last.
        size: Items of a page.
    """

    def __init__(self, folder: Path, *, template: str, stem: str, title: str, total: int, size: int) -> None:
        self._folder = folder
        self._title = title
        self._size = size
        self._names = [page_name(stem, number) for number in range(max(1, math.ceil(total / size)))]
        self._page = 0
        self._items: list[Item] = []
        # Texts are the client's own words, or a model's: whatever they hold, they are text.
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
        )
        self._template = environment.get_template(template)

    def add(self, item: Item) -> None:
        """Take an item, in order."""
        self._items.append(item)
        if len(self._items) == self._size:
            self._write()

    def finish(self) -> Path:
        """Write what is left; returns the first page."""
        if self._items or not self._page:
            self._write()
        return self._folder / self._names[0]

    def _write(self) -> None:
        text = self._template.render(title=self._title, items=self._items, page=self._page, pages=self._names)
        (self._folder / self._names[self._page]).write_text(text, encoding="utf-8")
        self._items = []
        self._page += 1


def page_name(stem: str, number: int) -> str:
    """The file of a page, counted from 0."""
    return f"{stem}.html" if number == 0 else f"{stem}-{number + 1:03d}.html"
