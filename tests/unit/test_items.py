"""From a shard's rows to its record lines."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from models.spec import ItemError, Message, ModelInfo, Output, TextRequest, TextResult, Usage
from workers.contracts import CountRange, Counts, Row, ShardTask, Work
from workers.records import BrokenPartError, EarlierRecord, earlier_records, item_seed, read_part
from workers.text_items import TextItems

INFO = ModelInfo(
    model="small", revision="sha256:0", engine="vllm", context_length=64, reproducible="seeded", shards_in_flight=1
)


def shard(first: int = 0, count: int = 3, **work: Any) -> ShardTask:
    settings: dict[str, Any] = {"messages": (Message("user", "Describe {{ name }}."),), **work}
    return ShardTask(
        job="job_1",
        shard=0,
        token=1,
        first=first,
        count=count,
        source=CountRange(start=0, count=count),
        work=Work(model="small", engine="auto", sampling={}, seed=7, **settings),
    )


def rows(*names: str) -> list[Row]:
    return [{"name": name, "sku": f"sku-{name}", "limit": "12"} for name in names]


def answer(request: TextRequest, text: str | None = None, reason: str = "stop") -> TextResult:
    outputs = tuple(
        Output(text if text is not None else request.messages[-1].content, reason, request.seed + k)  # type: ignore[arg-type]
        for k in range(request.n)
    )
    return TextResult(index=request.index, outputs=outputs, usage=Usage(3, 5))


def answered(task: ShardTask, source: list[Row], text: str | None = None, reason: str = "stop") -> list[dict[str, Any]]:
    items = TextItems(task, INFO, source, {})
    for request in reversed(items.requests):
        items.settle(answer(request, text, reason))
    return [orjson.loads(line) for line in items.join().splitlines()]


def test_what_has_ended_can_be_had_before_the_rest() -> None:
    before = answered(shard(), rows("a", "b", "c"))
    earlier = {2: EarlierRecord(ok=False, attempts=1, line=orjson.dumps(before[2]), usage=Usage(1, 1))}
    items = TextItems(shard(), INFO, rows("a", "b", "c"), earlier)
    items.settle(answer(items.requests[1]))
    data, counts, usage = items.join_ended()
    assert [orjson.loads(line) for line in data.splitlines()] == before[1:]
    assert (counts, usage) == (Counts(1, 1), Usage(4, 6))


def test_records_come_in_item_order_whatever_order_the_answers_came_in() -> None:
    records = answered(shard(), rows("a", "b", "c"))
    assert [record["index"] for record in records] == [0, 1, 2]
    assert [record["output"] for record in records] == ["Describe a.", "Describe b.", "Describe c."]


def test_a_record_says_all_that_users_are_promised() -> None:
    [record] = answered(shard(count=1, custom_id="sku"), rows("a"))
    assert record == {
        "index": 0,
        "custom_id": "sku-a",
        "status": "ok",
        "output": "Describe a.",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 5},
        "model": "small",
        "model_revision": "sha256:0",
        "seed": item_seed(7, 0),
        "reproducible": "seeded",
        "attempts": 1,
        "schema_version": 1,
    }


def test_a_seed_depends_on_the_job_and_the_item_alone() -> None:
    whole = TextItems(shard(0, 4), INFO, rows("a", "b", "c", "d"), {})
    half = TextItems(shard(2, 2), INFO, rows("c", "d"), {})
    assert [request.seed for request in whole.requests[2:]] == [request.seed for request in half.requests]
    assert len({item_seed(seed, index, attempt) for seed in (1, 2) for index in (0, 1) for attempt in (1, 2)}) == 8


def test_a_grid_is_crossed_with_every_row_and_split_anywhere() -> None:
    work: dict[str, Any] = {
        "grid": {"tone": ("warm", "bold"), "length": (1, 2)},
        "messages": (Message("user", "{{ name }} {{ tone }} {{ length }}"),),
        "custom_id": "sku",
        "keep": ("tone", "length"),
    }
    records = answered(shard(3, 4, **work), rows("a", "b"))
    assert [record["output"] for record in records] == ["a bold 2", "b warm 1", "b warm 2", "b bold 1"]
    assert [record["custom_id"] for record in records] == ["sku-a/3", "sku-b/0", "sku-b/1", "sku-b/2"]
    assert records[0]["input"] == {"tone": "bold", "length": 2}


def test_several_outputs_are_one_record() -> None:
    [record] = answered(shard(count=1, n=2), rows("a"), text="x")
    assert [output["text"] for output in record["outputs"]] == ["x", "x"]
    assert "output" not in record


def test_with_a_schema_the_output_is_the_object() -> None:
    schema = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    [record] = answered(shard(count=1, schema=schema), rows("a"), text='{"title": "A"}')
    assert record["output"] == {"title": "A"}


@pytest.mark.parametrize(
    ("text", "reason", "code"),
    [
        ('{"title": 5}', "stop", "invalid_output"),
        ("not json", "stop", "invalid_output"),
        ('{"title": "A', "length", "output_truncated"),
    ],
)
def test_an_output_that_breaks_the_schema_fails_its_item(text: str, reason: str, code: str) -> None:
    schema = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    [record] = answered(shard(count=1, schema=schema), rows("a"), text=text, reason=reason)
    assert record["status"] == "failed"
    assert record["error"]["code"] == code


def test_an_item_of_the_models_own_failure_fails_alone() -> None:
    items = TextItems(shard(count=2), INFO, rows("a", "b"), {})
    items.settle(TextResult(index=0, error=ItemError("context_length_exceeded", "too long")))
    items.settle(answer(items.requests[1]))
    failed, good = (orjson.loads(line) for line in items.join().splitlines())
    assert failed == {
        "index": 0,
        "status": "failed",
        "error": {"code": "context_length_exceeded", "message": "too long"},
        "attempts": 1,
        "schema_version": 1,
    }
    assert good["status"] == "ok"
    assert items.counts == Counts(1, 1)


@pytest.mark.parametrize("limit", ["12", 12])
def test_a_row_may_bound_its_own_output(limit: object) -> None:
    items = TextItems(shard(count=1, max_tokens_field="limit"), INFO, [{"name": "a", "limit": limit}], {})
    assert items.requests[0].max_tokens == 12


@pytest.mark.parametrize("limit", ["many", None, 0, 10**9])
def test_a_row_with_a_bad_bound_fails_alone(limit: object) -> None:
    source = [{"name": "a", "limit": limit}, {"name": "b", "limit": 3}]
    items = TextItems(shard(count=2, max_tokens_field="limit"), INFO, source, {})
    assert [request.index for request in items.requests] == [1]
    assert items.counts == Counts(0, 1)


def test_an_earlier_attempts_good_records_are_carried_over_as_they_were() -> None:
    items = TextItems(shard(), INFO, rows("a", "b", "c"), {})
    items.settle(answer(items.requests[0]))
    items.settle(TextResult(index=1, error=ItemError("invalid_output", "bad")))
    items.settle(answer(items.requests[2]))
    before = items.join()

    again = TextItems(shard(), INFO, rows("a", "b", "c"), earlier_records(before))
    assert [request.index for request in again.requests] == [1]
    assert again.requests[0].seed != items.requests[1].seed
    again.settle(answer(again.requests[0]))
    lines = again.join().splitlines()
    assert [lines[0], lines[2]] == [before.splitlines()[0], before.splitlines()[2]]
    assert orjson.loads(lines[1])["attempts"] == 2
    assert again.counts == Counts(3, 0)


def test_no_part_is_made_with_an_item_missing_or_answered_twice() -> None:
    items = TextItems(shard(), INFO, rows("a", "b", "c"), {})
    items.settle(answer(items.requests[0]))
    with pytest.raises(AssertionError, match="2 items of 3 have no record"):
        items.join()
    with pytest.raises(AssertionError, match="answered twice"):
        items.settle(answer(items.requests[0]))


def test_a_source_with_fewer_rows_than_planned_is_refused() -> None:
    with pytest.raises(AssertionError, match="1 before the shard's end"):
        TextItems(shard(), INFO, rows("a", "b"), {})


def whole_part() -> bytes:
    items = TextItems(shard(5, 3), INFO, rows("a", "b", "c"), {})
    for request in items.requests[:2]:
        items.settle(answer(request))
    items.settle(TextResult(index=7, error=ItemError("invalid_output", "bad"), usage=Usage(1, 1)))
    return items.join()


def test_a_part_is_read_back_with_its_counts() -> None:
    part = read_part("key", whole_part(), first=5, count=3)
    assert part.counts == Counts(2, 1)
    assert part.usage == Usage(7, 11)
    assert part.bytes == len(whole_part())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "holds 3 of 3"),
        (lambda data: data[: data.rindex(b"\n", 0, -1) + 1], "holds 2 of 3"),
        (lambda data: data + data, "stands where item 8 should be"),
        (lambda data: data[:-20], "line 3 is not a record"),
        (lambda data: b"", "holds 0 of 3"),
    ],
)
def test_a_part_that_is_not_whole_is_not_adopted(damage: Any, message: str) -> None:
    with pytest.raises(BrokenPartError, match=message):
        read_part("key", damage(whole_part()), first=5, count=3)
