"""`/v1/batches` with the unmodified `openai` client, from the file to its output."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import IO, Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from models.backends.echo import EchoBackend
from models.spec import EchoOptions
from orchestrator import planning
from orchestrator.finalize import Finaliser
from orchestrator.openai import admission
from orchestrator.openai.admission import job_of
from orchestrator.openai.batch_checks import MAX_ERRORS
from orchestrator.openai.batcher import Batcher
from orchestrator.openai.batches import batch_row, move
from orchestrator.openai.files import content_key, remove_gone
from orchestrator.openai.statuses import BATCH_TRANSITIONS, BatchStatus, IllegalBatchTransitionError, check_batch
from orchestrator.settings import Settings
from orchestrator.speeds import shape_of
from tests.support.batch_house import CHAT, BatchHouse, batch_house, lines, request
from tests.support.shards import Outbox
from workers.store import StoreError
from workers.store_folder import FolderStore


@pytest.fixture
def anywhere(database_url: str, store_url: str, redis_url: str) -> Iterator[BatchHouse]:
    with batch_house(Settings(database_url=database_url, store_url=store_url, redis_url=redis_url)) as house:
        yield house


@pytest.fixture
def house(sqlite_url: str, folder_url: str, redis_url: str) -> Iterator[BatchHouse]:
    """On SQLite and a folder alone, for what does not depend on them."""
    settings = Settings(
        database_url=sqlite_url,
        store_url=folder_url,
        redis_url=redis_url,
        batch_max_requests=2000,
        batch_max_bytes=1 << 20,
    )
    with batch_house(settings) as house:
        yield house


def test_a_batch_runs_from_its_file_to_its_output(anywhere: BatchHouse) -> None:
    rows = [request("first", "one two three"), request("second", n=2, max_tokens=1), request("third", logprobs=True)]
    batch_id = anywhere.create(rows, metadata={"team": "night"})
    batch = anywhere.batch(batch_id)
    assert (batch.object, batch.status, batch.endpoint, batch.completion_window) == ("batch", "validating", CHAT, "24h")
    assert (batch.metadata, batch.expires_at) == ({"team": "night"}, batch.created_at + 86_400)
    assert (batch.errors, batch.output_file_id, batch.error_file_id, batch.in_progress_at) == (None, None, None, None)

    anywhere.batcher.step()
    batch = anywhere.batch(batch_id)
    assert (batch.status, batch.model) == ("in_progress", "echo")
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 3, "completed": 0, "failed": 0}
    anywhere.plan()
    anywhere.run(anywhere.take(batch_id))
    assert anywhere.batch(batch_id).request_counts.to_dict() == {"total": 3, "completed": 2, "failed": 1}  # type: ignore[union-attr]
    anywhere.settle()

    batch = anywhere.batch(batch_id)
    assert (batch.status, batch.errors) == ("completed", None)
    assert None not in {batch.in_progress_at, batch.finalizing_at, batch.completed_at}
    assert {batch.failed_at, batch.expired_at, batch.cancelling_at, batch.cancelled_at} == {None}
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (5, 5, 10)

    output = anywhere.client.files.retrieve(str(batch.output_file_id))
    assert (output.purpose, output.filename) == ("batch_output", f"{batch_id}_output.jsonl")
    first, second = anywhere.file(batch.output_file_id)
    assert output.bytes == len(anywhere.client.files.content(output.id).read())
    assert set(first) == {"id", "custom_id", "response", "error"}
    assert (first["custom_id"], first["error"], first["response"]["status_code"]) == ("first", None, 200)
    answer = ChatCompletion.model_validate(first["response"]["body"], strict=True)
    assert (answer.object, answer.model, answer.system_fingerprint) == ("chat.completion", "echo", "echo-1")
    assert abs(answer.created - time.time()) < 60
    assert [choice.message.content for choice in answer.choices] == ["one two three"]
    assert (answer.choices[0].finish_reason, answer.choices[0].message.role) == ("stop", "assistant")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 3, 6)
    two = ChatCompletion.model_validate(second["response"]["body"], strict=True)
    assert [(choice.index, choice.message.content, choice.finish_reason) for choice in two.choices] == [
        (0, "say", "length"),
        (1, "say", "length"),
    ]
    assert len({line["id"] for line in (first, second)} | {answer.id, two.id}) == 4

    [refused] = anywhere.file(batch.error_file_id)
    assert (refused["custom_id"], refused["error"], refused["response"]["status_code"]) == ("third", None, 400)
    error = refused["response"]["body"]["error"]
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        "logprobs",
        "unsupported_parameter",
    )


async def test_the_async_client_does_the_same(house: BatchHouse) -> None:
    file_id = house.upload([request("a")])
    async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as client:
        batch = await client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h")
        assert (await client.batches.retrieve(batch.id)).status == "validating"
        assert [each.id async for each in client.batches.list()] == [batch.id]
        assert (await client.batches.cancel(batch.id)).status == "cancelled"
        models = [model.id async for model in client.models.list()]
        assert "echo" in models
        assert (await client.models.retrieve("echo")).object == "model"
        with pytest.raises(openai.NotFoundError, match="there is no model 'nobody/has-it'"):
            await client.models.retrieve("nobody/has-it")


def test_batches_are_listed_in_pages(house: BatchHouse) -> None:
    file_id = house.upload([request("a")])
    batches = house.client.batches
    made = [batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h").id for _ in range(5)]
    assert [batch.id for batch in batches.list(limit=2)] == made[::-1]
    page = batches.list(limit=2, after=made[1])
    assert ([batch.id for batch in page.data], page.has_more) == ([made[0]], False)
    with pytest.raises(openai.NotFoundError, match="there is no batch 'x'"):
        batches.list(after="x")
    for ask in (batches.retrieve, batches.cancel):
        with pytest.raises(openai.NotFoundError, match="there is no batch 'batch_x'"):
            ask("batch_x")


def test_what_a_batch_cannot_be_made_of_is_refused(house: BatchHouse) -> None:
    file_id = house.upload([request("a")])
    good = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    assert house.refused(**{**good, "input_file_id": "file-x"})[:2] == (404, "input_file_id")
    assert house.refused(**{**good, "endpoint": "/v1/embeddings"})[:2] == (400, "endpoint")
    assert house.refused(**{**good, "completion_window": "soon"})[:2] == (400, "completion_window")
    assert house.refused(**{**good, "completion_window": "0h"})[:2] == (400, "completion_window")
    assert house.refused(**good, metadata={str(number): "" for number in range(17)})[:2] == (400, "metadata")
    assert house.refused(**good, metadata={"a": "b" * 513})[0] == 400
    assert house.refused(**good, output_expires_after={"anchor": "now"})[:2] == (400, "output_expires_after.anchor")
    assert house.refused(**good, window="24h")[:2] == (400, "window")
    assert house.refused(endpoint=CHAT, completion_window="24h")[:2] == (400, "input_file_id")
    house.client.files.delete(file_id)
    assert house.refused(**good)[:2] == (404, "input_file_id")
    assert list(house.client.batches.list()) == []


def test_everything_that_is_wrong_with_a_file_is_told(house: BatchHouse) -> None:
    rows: list[Any] = [
        request("a"),
        {**request("b"), "method": "GET"},
        request("a"),
        {**request("c"), "url": "/v1/embeddings"},
        {"custom_id": "d", "method": "POST", "url": CHAT},
        {**request("e"), "colour": "red"},
        {**request(""), "body": []},
        {**request("f"), "body": {"messages": []}},
        request("g", model="another"),
        ["h"],
        request("a"),
    ]
    batch_id = house.create(lines(rows[:1]) + b"\n{broken\n" + lines(rows[1:]))
    house.batcher.step()
    batch = house.batch(batch_id)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert batch.errors.object == "list"
    found = [(error.line, error.code, error.param) for error in batch.errors.data or ()]
    assert found == [
        (3, "invalid_json_line", None),
        (4, "invalid_value", "method"),
        (5, "duplicate_custom_id", "custom_id"),
        (6, "invalid_value", "url"),
        (7, "missing_parameter", "body"),
        (8, "unknown_parameter", "colour"),
        (9, "invalid_value", "custom_id"),
        (9, "invalid_value", "body"),
        (10, "missing_parameter", "body.model"),
        (11, "mismatched_model", "body.model"),
        (12, "invalid_json_line", None),
        (13, "duplicate_custom_id", "custom_id"),
    ]
    told = [error.message for error in batch.errors.data or ()]
    assert told[2] == "custom_id is 'a', as on line 1; each request needs one of its own"
    assert house.http.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_file"),
        (b"\n \n", "empty_file"),
        (lines([request(str(number)) for number in range(2001)]), "too_many_requests"),
        (b" " * (1 << 20) + b"\n", "file_too_large"),
        (lines([request("a", model="realesrgan-x4plus")]), None),
    ],
)
def test_a_file_as_a_whole_can_be_wrong(house: BatchHouse, data: bytes, code: str | None) -> None:
    batch_id = house.create(data)
    house.batcher.step()
    errors = house.batch(batch_id).errors
    assert errors is not None
    [error] = errors.data or ()
    assert code is None or error.code == code
    assert error.message


def test_of_too_many_errors_the_first_are_told(house: BatchHouse) -> None:
    batch_id = house.create(b"{\n" * (MAX_ERRORS + 7))
    house.batcher.step()
    errors = house.batch(batch_id).errors
    assert errors is not None
    assert len(errors.data or ()) == MAX_ERRORS + 1
    assert (errors.data or [])[-1].code == "too_many_errors"


def test_who_asks_is_told_at_once(house: BatchHouse) -> None:
    def create(rows: list[Any]) -> openai.types.Batch:
        return house.client.batches.create(
            input_file_id=house.upload(rows),
            endpoint=CHAT,
            completion_window="24h",
            extra_query={"validate": "sync"},
        )

    bad = create([request("a"), request("a")])
    assert (bad.status, bad.errors and [error.line for error in bad.errors.data or ()]) == ("failed", [2])
    good = create([request("a")])
    assert good.status == "in_progress"
    assert house.through(good.id).status == "completed"


def test_a_cancelled_batch_keeps_what_was_finished(house: BatchHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "ECHO_SHARD", 2)
    batch_id = house.create([request(str(number)) for number in range(6)])
    house.batcher.step()
    house.plan()
    house.run(house.take(batch_id)[:1])
    batch = house.client.batches.cancel(batch_id)
    assert (batch.status, batch.output_file_id) == ("cancelling", None)
    assert house.client.batches.cancel(batch_id).status == "cancelling"
    house.settle()
    batch = house.batch(batch_id)
    assert batch.status == "cancelled"
    assert None not in {batch.cancelling_at, batch.cancelled_at}
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 6, "completed": 2, "failed": 0}
    assert [line["custom_id"] for line in house.file(batch.output_file_id)] == ["0", "1"]
    left = house.file(batch.error_file_id)
    assert [line["custom_id"] for line in left] == ["2", "3", "4", "5"]
    assert [(line["response"], line["error"]["code"]) for line in left] == [(None, "batch_cancelled")] * 4
    assert house.client.batches.cancel(batch_id).status == "cancelled"


def test_an_expired_batch_keeps_what_was_finished(house: BatchHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "ECHO_SHARD", 2)
    batch_id = house.create([request(str(number)) for number in range(4)], completion_window="90m")
    house.batcher.step()
    house.plan()
    tasks = house.take(batch_id, 1)
    house.run(tasks)
    house.later = 5401
    house.settle()
    batch = house.batch(batch_id)
    assert (batch.status, batch.cancelled_at, batch.completed_at) == ("expired", None, None)
    assert batch.expired_at is not None
    assert [line["custom_id"] for line in house.file(batch.output_file_id)] == ["0", "1"]
    assert [(line["custom_id"], line["error"]["code"]) for line in house.file(batch.error_file_id)] == [
        ("2", "batch_expired"),
        ("3", "batch_expired"),
    ]


@pytest.mark.parametrize("way", ["cancelled", "expired"])
def test_a_batch_whose_job_was_never_planned_tells_of_every_request(house: BatchHouse, way: str) -> None:
    batch_id = house.create([request("a"), request("b")], completion_window="1h")
    house.batcher.step()
    if way == "cancelled":
        house.client.batches.cancel(batch_id)
    else:
        house.later = 3601
    house.settle()
    batch = house.batch(batch_id)
    assert (batch.status, batch.output_file_id) == (way, None)
    assert [(line["custom_id"], line["error"]["code"]) for line in house.file(batch.error_file_id)] == [
        ("a", f"batch_{way}"),
        ("b", f"batch_{way}"),
    ]


def test_a_batch_that_is_not_looked_at_in_time_expires(house: BatchHouse) -> None:
    batch_id = house.create([request("a")], completion_window="1m")
    house.later = 61
    house.batcher.step()
    batch = house.batch(batch_id)
    assert (batch.status, batch.error_file_id) == ("expired", None)


def test_a_batch_is_cancelled_by_way_of_its_job(house: BatchHouse) -> None:
    batch_id = house.create([request("a")])
    house.batcher.step()
    job = house.batch(batch_id).model_extra["job_id"]  # type: ignore[index]
    house.http.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    house.settle()
    assert house.batch(batch_id).status == "cancelled"


def test_requests_that_fail_are_told_from_those_that_were_wrong(house: BatchHouse) -> None:
    batch_id = house.create([request("a"), request("b", temperature=3)])
    batch = house.through(batch_id, EchoBackend(EchoOptions(fail_on=(0,))))
    assert (batch.status, batch.output_file_id) == ("completed", None)
    found = house.file(batch.error_file_id)
    assert [(line["custom_id"], line["response"]["status_code"]) for line in found] == [("a", 500), ("b", 400)]
    errors = [line["response"]["body"]["error"] for line in found]
    assert [(error["type"], error["param"], error["code"]) for error in errors] == [
        ("server_error", None, "echo_failure"),
        ("invalid_request_error", "temperature", "invalid_value"),
    ]
    assert house.client.batches.retrieve(batch_id).request_counts.to_dict() == {"total": 2, "completed": 0, "failed": 2}  # type: ignore[union-attr]
    with pytest.raises(openai.ConflictError, match="is completed, and cannot be cancelled"):
        house.client.batches.cancel(batch_id)


def test_a_file_that_is_deleted_stays_as_long_as_a_batch_reads_it(house: BatchHouse) -> None:
    batch_id = house.create([request("a")])
    file_id = house.batch(batch_id).input_file_id
    house.client.files.delete(file_id)
    assert remove_gone(house.services.engine, now=time.time()) == 0
    assert house.through(batch_id).status == "completed"
    house.batcher.step()
    assert remove_gone(house.services.engine, now=time.time()) == 0  # the batcher has let go of it
    assert house.store.head(content_key(file_id)) is not None  # until the collector comes by
    assert house.batch(batch_id).input_file_id == file_id


def test_output_files_are_kept_as_long_as_was_asked(house: BatchHouse) -> None:
    kept = {"anchor": "created_at", "seconds": 7200}
    batch = house.through(house.create([request("a")], output_expires_after=kept))
    output = house.client.files.retrieve(str(batch.output_file_id))
    assert output.expires_at is not None
    assert abs(output.expires_at - output.created_at - 7200) <= 1


def test_a_batch_whose_key_somebody_else_has_used_fails_alone(house: BatchHouse) -> None:
    batch_id = house.create([request("a")])
    job = {"kind": "echo", "prompt": "x", "source": {"count": 1}}
    house.http.post("/v1/jobs", json=job, headers={"Idempotency-Key": batch_id}).raise_for_status()
    house.batcher.step()
    errors = house.batch(batch_id).errors
    assert errors is not None
    assert [error.code for error in errors.data or ()] == ["conflict"]


def test_an_admission_that_broke_off_is_taken_up_with_its_job(house: BatchHouse) -> None:
    batch_id = house.create([request("a")])
    row = batch_row(house.services.engine, batch_id)
    spec = job_of(row, "echo").model_copy(update={"priority": "low"})  # as another version might have written it
    assert shape_of(spec) == "requests"  # no job of another kind is taken to be as fast
    job = house.services.jobs.create(spec, idempotency_key=batch_id)
    house.batcher.step()
    batch = house.batch(batch_id)
    assert (batch.status, batch.model_extra and batch.model_extra["job_id"]) == ("in_progress", job.id)
    assert len(house.services.jobs.list()) == 1


def test_a_job_that_was_made_as_its_batch_was_cancelled_is_cancelled(
    house: BatchHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = house.create([request("a")])
    check = admission.check_file

    def cancelled_meanwhile(*given: Any, **named: Any) -> Any:
        house.client.batches.cancel(batch_id)
        return check(*given, **named)

    monkeypatch.setattr(admission, "check_file", cancelled_meanwhile)
    house.batcher.step()
    assert house.batch(batch_id).status == "cancelled"
    [job] = house.services.jobs.list()
    assert job.status == "cancelling"


def test_requests_are_no_field_of_a_job_that_clients_write(house: BatchHouse) -> None:
    job = {"model": "echo", "requests": "chat", "source": {"items": [{"body": {}}]}}
    error = house.http.post("/v1/jobs", json=job).json()["error"]
    assert (error["param"], "POST /v1/batches" in error["message"]) == ("requests", True)


def test_a_batch_whose_job_was_removed_fails(house: BatchHouse) -> None:
    batch_id = house.create([request("a")])
    house.batcher.step()
    with house.services.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM jobs")
    house.settle()
    batch = house.batch(batch_id)
    assert (batch.status, batch.errors and [error.code for error in batch.errors.data or ()]) == (
        "failed",
        ["job_not_found"],
    )


def test_a_retry_that_begins_while_the_output_is_written_is_waited_for(house: BatchHouse) -> None:
    batch_id = house.create([request("a"), request("b")])
    house.batcher.step()
    house.plan()
    house.run(house.take(batch_id), EchoBackend(EchoOptions(fail_on=(1,))))
    for _ in range(3):
        Finaliser(house.services.engine, house.store, Outbox(), clock=house.clock).step()
    house.batcher.step()
    assert house.batch(batch_id).status == "finalizing"
    job = house.batch(batch_id).model_extra["job_id"]  # type: ignore[index]
    house.http.post(f"/v1/jobs/{job}/retry").raise_for_status()
    house.batcher.step()
    assert house.batch(batch_id).status == "finalizing"
    house.run(house.take(batch_id))
    house.settle()
    batch = house.batch(batch_id)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    assert [line["custom_id"] for line in house.file(batch.output_file_id)] == ["a", "b"]


def test_a_file_is_checked_and_its_output_written_at_constant_memory(
    sqlite_url: str, folder_url: str, redis_url: str
) -> None:
    settings = Settings(database_url=sqlite_url, store_url=folder_url, redis_url=redis_url)
    text = "word " * 100
    with batch_house(settings) as house:
        batch_id = house.create([request(str(number), text) for number in range(20_000)])
        assert traced(house.batcher.step) < 8 << 20
        assert house.batch(batch_id).status == "in_progress"
        house.plan()
        house.run(house.take(batch_id))
        Finaliser(house.services.engine, house.store, Outbox(), clock=house.clock).step()
        Finaliser(house.services.engine, house.store, Outbox(), clock=house.clock).step()
        house.batcher.step()
        assert house.batch(batch_id).status == "finalizing"
        assert traced(house.batcher.step) < 8 << 20
        batch = house.batch(batch_id)
        assert batch.status == "completed"
        assert house.client.files.retrieve(str(batch.output_file_id)).bytes > 15 << 20


def traced(step: Callable[[], int]) -> int:
    """The most memory that Python held during a step, beyond what it held before."""
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_store_that_is_away_costs_a_batch_time_alone(house: BatchHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (house.create([request("a")]) for _ in range(2))
    house.batcher.step()
    house.plan()
    house.run([*house.take(first), *house.take(second)])
    for _ in range(3):
        Finaliser(house.services.engine, house.store, Outbox(), clock=house.clock).step()
    house.batcher.step()
    put_stream = FolderStore.put_stream
    tried: list[str] = []

    def away(store: FolderStore, key: str, source: IO[bytes], *, content_type: str = "") -> int:
        tried.append(key)
        if len(tried) == 1:
            raise StoreError("the store is away")
        return put_stream(store, key, source, content_type=content_type)

    monkeypatch.setattr(FolderStore, "put_stream", away)
    with pytest.raises(StoreError, match="is away"):
        house.batcher.step()
    assert (house.batch(first).status, house.batch(second).status) == ("finalizing", "completed")
    house.batcher.step()
    assert house.batch(first).status == "completed"


def test_a_batch_whose_results_are_lost_fails(anywhere: BatchHouse) -> None:
    batch_id = anywhere.create([request("a")])
    anywhere.batcher.step()
    anywhere.plan()
    anywhere.run(anywhere.take(batch_id))
    job = anywhere.batch(batch_id).model_extra["job_id"]  # type: ignore[index]
    for key in list(anywhere.store.list(f"jobs/{job}/parts/")):
        anywhere.store.delete(key)
    anywhere.settle()
    batch = anywhere.batch(batch_id)
    assert (batch.status, batch.output_file_id) == ("failed", None)
    assert batch.errors is not None
    assert [error.code for error in batch.errors.data or ()] == ["results_lost"]


def test_of_two_schedulers_one_ends_a_batch(house: BatchHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = house.create([request("a"), request("b", tools=[{}])])
    house.batcher.step()
    house.plan()
    house.run(house.take(batch_id))
    for _ in range(3):
        Finaliser(house.services.engine, house.store, Outbox(), clock=house.clock).step()
    house.batcher.step()
    other = Batcher(house.services.engine, house.store, house.services.settings, clock=time.time)
    put_stream = FolderStore.put_stream
    written: dict[str, bytes] = {}

    def overtaken(store: FolderStore, key: str, source: IO[bytes], *, content_type: str = "") -> int:
        if not written:
            written[key] = b""
            other.step()
        size = put_stream(store, key, source, content_type=content_type)
        written[key] = store.get(key)
        return size

    monkeypatch.setattr(FolderStore, "put_stream", overtaken)
    house.batcher.step()
    batch = house.batch(batch_id)
    assert batch.status == "completed"
    files = {batch.input_file_id, batch.output_file_id, batch.error_file_id}
    assert set(house.store.list("files/")) == {content_key(str(file_id)) for file_id in files}
    assert len(written) == 4
    assert len(set(written.values())) == 2  # both have written the same
    assert not move(house.services.engine, batch_id, BatchStatus.FINALIZING, BatchStatus.COMPLETED)


def test_every_pair_of_statuses() -> None:
    for old in BatchStatus:
        for new in BatchStatus:
            if new in BATCH_TRANSITIONS[old]:
                check_batch(old, new)
            else:
                with pytest.raises(IllegalBatchTransitionError, match=f"from {old.value} to {new.value}"):
                    check_batch(old, new)
