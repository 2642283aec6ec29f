"""The folder that a person looks at: sheets, pages, and what a hostile caption can do there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator import gallery
from orchestrator.gallery import THUMB, Gallery, contact_sheet, shown_item
from orchestrator.pages import page_name
from tests.support.pages import EVIL, Tags


def record(index: int, **fields: Any) -> dict[str, Any]:
    images = [{"width": 40, "height": 30}]
    return {"index": index, "status": "ok", "prompt": f"shoe {index}", "images": images, **fields}


def paint(folder: Path, name: str, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> str:
    (folder / "images").mkdir(exist_ok=True)
    Image.new(mode, size, "red").save(folder / "images" / name)
    return f"images/{name}"


def test_a_page_shows_every_item_and_runs_nothing(tmp_path: Path) -> None:
    made = Gallery(tmp_path, EVIL, 3)
    made.add(shown_item(record(0, prompt=EVIL), [paint(tmp_path, "0.png")]))
    made.add(shown_item(record(1, custom_id=EVIL), [paint(tmp_path, "1-0.png"), paint(tmp_path, "1-1.png")]))
    failed = {"index": 2, "status": "failed", "error": {"code": "content_filtered", "message": EVIL}}
    made.add(shown_item(failed, []))
    page = made.finish()
    text = page.read_text()
    tags = Tags(text)
    images = [attributes for tag, attributes in tags.found if tag == "img"]
    assert [image["src"] for image in images] == ["images/0.png", "images/1-0.png", "images/1-1.png"]
    assert all(image["loading"] == "lazy" for image in images)
    assert all((tmp_path / str(image["src"])).is_file() for image in images)
    tags.check_harmless()
    assert tags.text.count(EVIL) >= 3
    assert "content_filtered" in tags.text
    # Nothing is fetched from elsewhere.
    assert "http:" not in text
    assert "https:" not in text
    assert (tmp_path / "contact-001.png").is_file()


def test_many_items_make_pages_that_lead_to_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "PAGE_ITEMS", 2)
    monkeypatch.setattr(gallery, "SHEET_IMAGES", 3)
    made = Gallery(tmp_path, "t", 5)
    for index in range(5):
        made.add(shown_item(record(index), [paint(tmp_path, f"{index}.png")]))
    assert made.finish() == tmp_path / "gallery.html"
    pages = [page_name("gallery", number) for number in range(3)]
    for name in pages:
        links = {attributes.get("href") for tag, attributes in Tags((tmp_path / name).read_text()).found if tag == "a"}
        assert set(pages) - {name} <= links
    assert sorted(path.name for path in tmp_path.glob("contact-*.png")) == ["contact-001.png", "contact-002.png"]


def test_a_job_without_a_record_has_a_page(tmp_path: Path) -> None:
    assert "0 items" in Gallery(tmp_path, "t", 0).finish().read_text()


def test_a_sheet_shows_small_pictures_large_and_large_ones_whole(tmp_path: Path) -> None:
    paths = [
        tmp_path / paint(tmp_path, "small.png", size=(28, 28)),
        tmp_path / paint(tmp_path, "wide.png", size=(900, 300)),
        tmp_path / paint(tmp_path, "clear.png", "RGBA", (64, 64)),
        tmp_path / paint(tmp_path, "grey.png", "L", (64, 64)),
    ]
    sheet = np.asarray(contact_sheet([(path, path.stem) for path in paths]))
    red = (sheet[..., 0] > 200) & (sheet[..., 1] < 60)
    # 28 grows by four; 900 by 300 shrinks to the place's width; 64 grows by two.
    assert red.sum() == pytest.approx(112 * 112 + THUMB * 43 + 128 * 128, rel=0.02)
