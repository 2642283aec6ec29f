"""The page that a person listens to, and what a hostile text can do there."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from orchestrator import sound_pages
from orchestrator.sound_pages import SoundPages, heard_item

EVIL = "<script>alert('x')</script>\"><audio src=x onerror=y> & {{ 7 * 7 }}"


def record(index: int, **fields: Any) -> dict[str, Any]:
    return {"index": index, "status": "ok", "prompt": f"tent {index}\n", "audio": [{"seconds": 1.25}], **fields}


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_has_a_player_beside_each_text_and_runs_nothing(tmp_path: Path) -> None:
    pages = SoundPages(tmp_path, EVIL, 3)
    pages.add(heard_item(record(0, prompt=EVIL), ["audio/0.wav"]))
    pages.add(heard_item(record(1, custom_id=EVIL), ["audio/1.wav"]))
    failed = {"index": 2, "status": "failed", "error": {"code": "unspeakable", "message": EVIL}}
    pages.add(heard_item(failed, []))
    page = pages.finish()
    assert page == tmp_path / "audio.html"
    seen = Tags(page.read_text())
    players = [attributes for tag, attributes in seen.found if tag == "audio"]
    assert [player["src"] for player in players] == ["audio/0.wav", "audio/1.wav"]
    assert all("controls" in player for player in players)
    assert not [tag for tag, _ in seen.found if tag == "script"]
    assert not [name for _, attributes in seen.found for name in attributes if name.startswith("on")]
    for expected in (EVIL, "tent 1", "1.2 s", "unspeakable: ", "2 spoken · 1 failed"):
        assert expected in seen.text


def test_many_items_fill_several_pages_that_link_to_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound_pages, "PAGE_ITEMS", 2)
    pages = SoundPages(tmp_path, "many", 5)
    for index in range(5):
        pages.add(heard_item(record(index), [f"audio/{index}.wav"]))
    pages.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audio-002.html", "audio-003.html", "audio.html"]
    seen = Tags((tmp_path / "audio-002.html").read_text())
    assert [attributes["href"] for tag, attributes in seen.found if tag == "a"] == ["audio.html", "audio-003.html"]


def test_a_job_without_items_has_an_empty_page(tmp_path: Path) -> None:
    assert "0 spoken" in SoundPages(tmp_path, "none", 0).finish().read_text()
