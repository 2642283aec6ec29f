"""The page that a person listens to, and what a hostile text can do there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import sound_pages as pages_module
from orchestrator.sound_pages import heard_item, sound_pages
from tests.support.pages import EVIL, Tags


def record(index: int, **fields: Any) -> dict[str, Any]:
    return {"index": index, "status": "ok", "prompt": f"tent {index}\n", "audio": [{"seconds": 1.25}], **fields}


def test_a_page_has_a_player_beside_each_text_and_runs_nothing(tmp_path: Path) -> None:
    pages = sound_pages(tmp_path, EVIL, 3)
    pages.add(heard_item(record(0, prompt=EVIL), ["audio/0.wav"]))
    pages.add(heard_item(record(1, custom_id=EVIL), ["audio/1.wav"]))
    failed = {"index": 2, "status": "failed", "error": {"code": "unspeakable", "message": EVIL}}
    pages.add(heard_item(failed, []))
    page = pages.finish()
    assert page == tmp_path / "audio.html"
    seen = Tags(page.read_text())
    seen.check_harmless()
    assert seen.all("audio", "src") == ["audio/0.wav", "audio/1.wav"]
    assert all("controls" in attributes for tag, attributes in seen.found if tag == "audio")
    for expected in (EVIL, "tent 1", "1.2 s", "unspeakable: ", "2 spoken · 1 failed"):
        assert expected in seen.text


def test_many_items_fill_several_pages_that_link_to_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_module, "PAGE_ITEMS", 2)
    pages = sound_pages(tmp_path, "many", 5)
    for index in range(5):
        pages.add(heard_item(record(index), [f"audio/{index}.wav"]))
    pages.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audio-002.html", "audio-003.html", "audio.html"]
    seen = Tags((tmp_path / "audio-002.html").read_text())
    assert seen.all("a", "href") == ["audio.html", "audio-003.html"]


def test_a_job_without_items_has_an_empty_page(tmp_path: Path) -> None:
    assert "0 spoken" in sound_pages(tmp_path, "none", 0).finish().read_text()
