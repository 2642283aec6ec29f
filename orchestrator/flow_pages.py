"""A flow's items as a person looks at them: texts, pictures and sounds of one item side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from orchestrator.pages import Pages

PAGE_ITEMS = 200


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
    # A list of files has the name of the folder in which its node's results hold them.
    return tuple(f"{node}/{files}/{Path(file['key']).name}" for file in record.get(files, ()))


def flow_pages(folder: Path, title: str, total: int) -> Pages[ShownItem]:
    """The pages of a folder below which the nodes' results for `total` items lie, each in a folder of its own."""
    return Pages(folder, template="flow.html.jinja", stem="index", title=title, total=total, size=PAGE_ITEMS)
