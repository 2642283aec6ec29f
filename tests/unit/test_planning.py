"""Planning: shards, grids, ids, samples, staging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.spec import Message
from orchestrator.planning import SHARD_BATCH, PlannedShard, PlanSummary, Staging, default_shard_size, plan, plan_here
from orchestrator.shard_cuts import MAX_SHARD_BYTES, Cutter, shard_size
from orchestrator.source_files import open_local
from orchestrator.spec import parse_job
from orchestrator.spec_error import SpecError
from orchestrator.uniqueness import Uniqueness
from workers.contracts import CountRange, SourceRange
from workers.sources import read_rows
from workers.store_folder import FolderStore


def planned(folder: Path, size: int | None = None, **job: Any) -> tuple[PlanSummary, list[PlannedShard]]:
    spec = parse_job({"model": "echo", "prompt": "x", **job})
    shards: list[PlannedShard] = []
    staging = Staging(FolderStore(folder), "jobs/1/input")
    return plan(spec, open_local(spec), staging, on_shards=shards.extend, items_per_shard=size), shards


def test_a_plan_says_what_the_source_holds(tmp_path: Path) -> None:
    path = tmp_path / "products.tsv"
    path.write_text("sku\tname\n1\ttent\n2\tstove\n")
    source = {"file": str(path), "custom_id": "sku", "grid": {"tone": ["warm", "bold"]}}
    summary, shards = planned(tmp_path, prompt="{{ tone }} {{ name }}", source=source, system="Hello")
    assert (summary.items, summary.rows, summary.shards) == (4, 2, 1)
    assert summary.columns == ("sku", "name")
    assert summary.fields == ("name", "tone")
    assert summary.custom_id == "sku"
    assert summary.bytes == path.stat().st_size
    assert summary.samples == (
        (Message("system", "Hello"), Message("user", "warm tent")),
        (Message("system", "Hello"), Message("user", "bold stove")),
    )
    assert [(shard.first, shard.count) for shard in shards] == [(0, 4)]


def test_ids_are_found_by_their_usual_name(tmp_path: Path) -> None:
    summary, _ = planned(tmp_path, source={"items": [{"custom_id": "a"}, {"custom_id": "b"}]})
    assert summary.custom_id == "custom_id"
    summary, _ = planned(tmp_path, source={"items": [{"id": "a"}]})
    assert summary.custom_id is None


def test_items_of_the_job_itself_are_staged(tmp_path: Path) -> None:
    _, shards = planned(tmp_path, 1, source={"items": [{"a": 1}, {"a": [2, "é"]}]})
    store = FolderStore(tmp_path)
    assert [list(read_rows(shard.source, store)) for shard in shards] == [[{"a": 1}], [{"a": [2, "é"]}]]
    assert list(store.list("")) == ["jobs/1/input/items.jsonl"]


def test_numbered_rows_are_cut_without_reading_anything(tmp_path: Path) -> None:
    summary, shards = planned(tmp_path, 1000, prompt="Story {{ index }}", source={"count": 2_500})
    assert [shard.source for shard in shards] == [
        CountRange(start=start, count=min(625, 2500 - start)) for start in range(0, 2500, 625)
    ]
    assert summary.samples[1] == (Message("user", "Story 1"),)


def test_a_grid_alone_is_one_row(tmp_path: Path) -> None:
    source = {"grid": {"a": [1, 2, 3], "b": list(range(20))}}
    summary, shards = planned(tmp_path, 7, prompt="{{ a }}{{ b }}", source=source)
    assert (summary.rows, summary.items) == (1, 60)
    assert sum(shard.count for shard in shards) == 60
    assert all(shard.source == CountRange(start=0, count=1) for shard in shards)


def test_a_field_that_a_template_asks_for_first_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"name": "a", "price": 5}\n{"name": "b"}\n')
    prompt = "{{ name }}{% if price is defined %} for {{ price }}{% endif %} {{ colour | default('any') }}"
    summary, _ = planned(tmp_path, prompt=prompt, source={"file": str(path)})
    assert [messages[0].content for messages in summary.samples] == ["a for 5 any", "b any"]


def test_shards_come_in_batches(tmp_path: Path) -> None:
    spec = parse_job({"model": "echo", "prompt": "x", "source": {"count": 3 * SHARD_BATCH + 1}})
    sizes: list[int] = []
    staging = Staging(FolderStore(tmp_path), "s")
    plan(spec, None, staging, on_shards=lambda shards: sizes.append(len(shards)), items_per_shard=1)
    assert sizes == [SHARD_BATCH, SHARD_BATCH, SHARD_BATCH, 1]


def test_planning_here_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a\n1\n")
    spec = parse_job({"model": "smollm2-135m", "prompt": "{{ a }}", "source": {"file": str(path)}})
    assert plan_here(spec).items == 1
    assert list(tmp_path.iterdir()) == [path]
    assert (
        default_shard_size(spec),
        default_shard_size(parse_job({"kind": "echo", "prompt": "x", "source": {"count": 1}})),
    ) == (32, 5000)


def bytes_range(start: int, end: int) -> SourceRange:
    return CountRange(start=start, count=end - start)


@given(
    lengths=st.lists(st.integers(1, MAX_SHARD_BYTES // 2), min_size=1, max_size=80),
    size=st.integers(1, 40),
    grid=st.integers(1, 60),
    block=st.integers(1, 20),
    known=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_any_rows_are_cut_without_gap_or_overlap(
    lengths: list[int], size: int, grid: int, block: int, known: bool
) -> None:
    ends = np.cumsum(np.array(lengths, np.int64)) + 7
    cutter = Cutter(size, grid, bytes_range, rows=len(lengths) if known else None)
    shards: list[PlannedShard] = []
    for start in range(0, len(ends), block):
        begins = 7 if start == 0 else int(ends[start - 1])
        shards.extend(cutter.feed(begins, ends[start : start + block]))
    shards.extend(cutter.finish())
    item = 0
    edges = [7, *ends.tolist()]
    for number, shard in enumerate(shards):
        assert (shard.number, shard.first) == (number, item)
        item += shard.count
        first, last = shard.first // grid, (item - 1) // grid
        assert shard.source == CountRange(start=edges[first], count=edges[last + 1] - edges[first])
        assert shard.count <= size or last == first
        assert shard.source.count <= MAX_SHARD_BYTES or last == first
    assert item == len(lengths) * grid
    assert cutter.number == len(shards)
    if item >= 32:
        assert len(shards) >= 4


def test_a_small_job_is_shared_by_several_workers() -> None:
    assert [shard_size(5000, items) for items in (1, 31, 32, 33, 20_000, 20_001)] == [5000, 5000, 8, 9, 5000, 5000]


@pytest.mark.parametrize("buffer", [3, 1000])
def test_equal_ids_are_found_in_memory_and_on_disk(buffer: int, tmp_path: Path) -> None:
    ids = Uniqueness(tmp_path, buffer=buffer)
    ids.add(["a", "b", "c", "d"])
    ids.add(["e", "b"])
    ids.add(["f", "a", "g", "b"])
    assert ids.rows == 10
    assert ids.candidates() == [(1, 5), (0, 7), (5, 9)]
    ids.close()
    assert list(tmp_path.iterdir()) == []


def test_distinct_ids_have_no_candidates(tmp_path: Path) -> None:
    ids = Uniqueness(tmp_path, buffer=100)
    for start in range(0, 1000, 50):
        ids.add([str(number) for number in range(start, start + 50)])
    assert ids.candidates() == []
    assert Uniqueness(tmp_path).candidates() == []


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ({"grid": {"tone": ["warm", "bold"]}}, "row 1"),
        ({"items": [{"a": 1}], "grid": {"tone": ["warm", "bold"]}}, "item 1"),
        ({"count": 500, "grid": {"tone": ["warm", "bold"]}}, "row 2"),
    ],
)
def test_every_combination_of_a_grid_is_tried(source: dict[str, Any], where: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="adjective") as refused:
        planned(tmp_path, prompt="{% if tone == 'bold' %}{{ adjective }}{% endif %}", source=source)
    assert where in str(refused.value)


def test_a_branch_that_only_late_numbers_take_is_tried(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"row 401.*missing"):
        planned(tmp_path, prompt="{% if index == 400 %}{{ missing }}{% endif %}", source={"count": 500})
