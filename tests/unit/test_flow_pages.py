"""The page that shows the items of a flow whole, and what a hostile text can do there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.flow_pages import flow_pages, shown_item
from tests.support.pages import EVIL, Tags


def record(index: int, **nodes: Any) -> dict[str, Any]:
    return {"index": index, "status": "ok", "nodes": {name: {"status": "ok", **made} for name, made in nodes.items()}}


def test_an_item_is_shown_with_all_that_its_nodes_made_and_runs_nothing(tmp_path: Path) -> None:
    pages = flow_pages(tmp_path, EVIL, 2)
    made = record(
        0,
        copy={"output": EVIL},
        facts={"output": {"title": EVIL}},
        ideas={"outputs": [{"text": "one"}, {"text": "two"}]},
        picture={"images": [{"key": "jobs/j/images/x/0-0.png"}, {"key": "jobs/j/images/x/0-1.png"}]},
        speech={"audio": [{"key": "jobs/j/audio/x/0.wav"}]},
    )
    pages.add(shown_item({**made, "custom_id": EVIL, "input": {EVIL: EVIL}}))
    failed = {"status": "failed", "error": {"code": "upstream_failed", "message": EVIL}}
    pages.add(shown_item({"index": 1, "status": "failed", "nodes": {"copy": failed, "speech": {"status": "expired"}}}))
    page = pages.finish()
    assert page == tmp_path / "index.html"
    seen = Tags(page.read_text())
    seen.check_harmless()
    assert seen.all("img", "src") == ["picture/images/0-0.png", "picture/images/0-1.png"]
    assert seen.all("audio", "src") == ["speech/audio/0.wav"]
    assert seen.text.count(EVIL) >= 6  # titles, id, input, both outputs, the error
    for expected in ("one", "two", "upstream_failed: ", "expired", "2 items"):
        assert expected in seen.text
