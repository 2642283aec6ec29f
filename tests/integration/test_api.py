"""The HTTP API on both databases and both stores, with a real Redis."""

from __future__ import annotations

import csv
import hashlib
import io
import time
from collections.abc import Iterator
from typing import Any

import orjson
import psycopg.errors
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from orchestrator.api.app import create_app
from orchestrator.api.errors import is_full
from orchestrator.api.services import Services
from orchestrator.finalize import Finaliser
from orchestrator.settings import Settings
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.shards import Outbox, apply, execution_id, finished, planned_job, report, take

ECHO = {"kind": "echo", "prompt": "say {{ index }}", "source": {"count": 3}}


class Api:
    """The app in this process, and what stands behind it."""

    def __init__(self, settings: Settings) -> None:
        self.services = Services.open(settings)
        self.http = TestClient(create_app(self.services), raise_server_exceptions=False)

    def job(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        answer = self.http.request(method, path, **given)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def error(self, method: str, path: str, **given: Any) -> tuple[int, dict[str, Any]]:
        answer = self.http.request(method, path, **given)
        body = answer.json()
        assert set(body["error"]) == {"message", "type", "param", "code"}
        return answer.status_code, body["error"]

    def finished_job(self, *, shards: int = 3, failed: tuple[int, ...] = (), leave: int = 0, **fields: Any) -> str:
        """A job whose shards are done, but for the last `leave`; it has ended if none is left."""
        engine = self.services.engine
        job = planned_job(engine, time.time, shards=shards, **fields)
        tasks = take(engine, job, time.time)
        for task in tasks[: shards - leave]:
            execution = execution_id()
            done = finished(task, execution, store=self.services.store, failed=failed)
            apply(engine, time.time, report(task, "started", execution), done)
        Finaliser(engine, self.services.store, Outbox(), clock=time.time).step()
        return job


@pytest.fixture
def settings(database_url: str, store_url: str, redis_url: str) -> Settings:
    return Settings(database_url=database_url, store_url=store_url, redis_url=redis_url)


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    made = Api(settings)
    with made.http:
        yield made


@pytest.fixture
def light(sqlite_url: str, folder_url: str, redis_url: str) -> Iterator[Api]:
    """On SQLite and a folder alone, for what does not depend on them."""
    made = Api(Settings(database_url=sqlite_url, store_url=folder_url, redis_url=redis_url))
    with made.http:
        yield made


def test_a_job_is_submitted_once_for_a_key(api: Api) -> None:
    headers = {"Idempotency-Key": "nightly"}
    first = api.job("POST", "/v1/jobs", json=ECHO, headers=headers)
    assert (first["status"], first["model"]) == ("validating", "echo")
    assert api.job("POST", "/v1/jobs", json=ECHO, headers=headers)["id"] == first["id"]
    status, error = api.error("POST", "/v1/jobs", json={**ECHO, "seed": 1}, headers=headers)
    assert (status, error["type"]) == (409, "conflict_error")
    assert first["id"] in error["message"]
    assert [job["id"] for job in api.job("GET", "/v1/jobs")["data"]] == [first["id"]]
    assert api.services.hints.wait(PATIENCE_SECONDS)


def test_jobs_are_listed_newest_first_in_pages(api: Api) -> None:
    made = [api.job("POST", "/v1/jobs", json={**ECHO, "seed": seed})["id"] for seed in range(3)]
    page = api.job("GET", "/v1/jobs?limit=2")
    assert ([job["id"] for job in page["data"]], page["has_more"]) == (sorted(made, reverse=True)[:2], True)
    rest = api.job("GET", f"/v1/jobs?limit=2&after={page['data'][-1]['id']}")
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (sorted(made)[:1], False)
    assert api.job("GET", "/v1/jobs?status=completed")["data"] == []


def test_a_job_is_steered(api: Api) -> None:
    job = planned_job(api.services.engine, time.time)
    assert api.job("POST", f"/v1/jobs/{job}/pause")["status"] == "paused"
    assert api.job("POST", f"/v1/jobs/{job}/resume")["status"] == "in_progress"
    status, error = api.error("POST", f"/v1/jobs/{job}/retry")
    assert (status, error["code"]) == (409, "conflict")
    assert api.job("POST", f"/v1/jobs/{job}/cancel")["status"] == "cancelling"
    assert api.services.hints.stopped_jobs([job]) == {job: "the job was cancelled"}


def test_a_retry_takes_the_stop_back(api: Api) -> None:
    job = api.finished_job(failed=(1,))
    api.services.hints.stop_job(job, "an older reason")
    assert api.job("POST", f"/v1/jobs/{job}/retry")["status"] == "in_progress"
    assert api.services.hints.stopped_jobs([job]) == {}


def test_results_come_in_order_as_pages_and_as_files(api: Api) -> None:
    job = api.finished_job(failed=(4,))
    assert api.job("GET", f"/v1/jobs/{job}")["status"] == "completed"
    first = api.job("GET", f"/v1/jobs/{job}/results?limit=4")
    assert ([record["index"] for record in first["data"]], first["has_more"]) == ([0, 1, 2, 3], True)
    rest = api.job("GET", f"/v1/jobs/{job}/results?after={first['next_after']}")
    assert ([record["index"] for record in rest["data"]], rest["has_more"]) == ([4, 5], False)
    assert [record["index"] for record in api.job("GET", f"/v1/jobs/{job}/errors")["data"]] == [4]

    lines = api.http.get(f"/v1/jobs/{job}/results/content").content.splitlines()
    assert [orjson.loads(line) for line in lines] == first["data"] + rest["data"]
    table = api.http.get(f"/v1/jobs/{job}/results/content?format=csv")
    assert table.headers["content-disposition"] == 'attachment; filename="results.csv"'
    rows = list(csv.DictReader(io.StringIO(table.text, newline="")))
    assert [(row["index"], row["status"]) for row in rows[3:5]] == [("3", "ok"), ("4", "failed")]
    parquet = api.http.get(f"/v1/jobs/{job}/results/content?format=parquet").content
    assert pq.read_table(io.BytesIO(parquet)).column("output").to_pylist() == [
        "say 0", "say 1", "say 2", "say 3", None, "say 5",
    ]  # fmt: skip


def test_a_running_job_gives_what_it_has(api: Api) -> None:
    job = api.finished_job(leave=1)
    page = api.job("GET", f"/v1/jobs/{job}/results")
    assert ([record["index"] for record in page["data"]], page["has_more"]) == ([0, 1, 2, 3], True)
    again = api.job("GET", f"/v1/jobs/{job}/results?after={page['next_after']}")
    assert (again["data"], again["next_after"], again["has_more"]) == ([], None, True)


def test_events_end_with_the_job(api: Api) -> None:
    job = api.finished_job()
    with api.http.stream("GET", f"/v1/jobs/{job}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert lines[0] == "event: job"
    assert orjson.loads(lines[1].removeprefix("data: "))["status"] == "completed"
    assert api.error("GET", "/v1/jobs/none/events")[0] == 404


def test_an_upload_streams_into_the_store(api: Api) -> None:
    body = b"name\n" + b"x" * 3_000_000
    answer = api.job("PUT", "/v1/inputs/my%20products.csv", content=body)
    assert (answer["bytes"], answer["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    assert answer["uri"].startswith("nightmill://inputs/")
    assert answer["uri"].endswith("/my products.csv")
    assert api.services.store.get(answer["uri"].removeprefix("nightmill://")) == body


@pytest.mark.parametrize("name", ["%2e%2e", "a%5cb.csv", "a%0ab.csv", "x" * 201])
def test_an_upload_needs_a_plain_name(light: Api, name: str) -> None:
    status, error = light.error("PUT", f"/v1/inputs/{name}", content=b"x")
    assert (status, error["param"]) in {(400, "filename"), (404, None)}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({**ECHO, "promt": "x"}, "promt", "did you mean 'prompt'?"),
        ({**ECHO, "source": {"file": "/etc/passwd"}}, "source.file", "upload"),
        ({**ECHO, "source": {"file": "file:///etc/passwd"}}, "source.file", "s3://"),
        ({**ECHO, "prompt": "{{ index "}, "prompt", ""),
        ({**ECHO, "kind": "text", "model": "smollm"}, "model", "smollm2-135m"),
        ({**ECHO, "deadline": "2001-01-01T00:00:00Z"}, "deadline", ""),
        ({**ECHO, "sampling": {"max_tokens": 0}}, "sampling.max_tokens", ""),
        ({**ECHO, "options": {"fail_rate": 1}}, "options", "NIGHTMILL_ALLOW_FAULTS"),
    ],
)
def test_bad_jobs_are_refused_and_leave_nothing(light: Api, body: dict[str, Any], param: str, message: str) -> None:
    status, error = light.error("POST", "/v1/jobs", json=body)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert message in error["message"]
    assert light.job("GET", "/v1/jobs")["data"] == []


def test_bodies_that_are_no_jobs(light: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    assert light.error("POST", "/v1/jobs", content=b'{"')[1]["code"] == "invalid_json"
    assert light.error("POST", "/v1/jobs", content=b"[]")[0] == 400
    monkeypatch.setattr("orchestrator.api.jobs.MAX_BODY", 10)
    status, error = light.error("POST", "/v1/jobs", json=ECHO)
    assert (status, error["code"]) == (413, "body_too_large")


def test_what_does_not_exist_is_said(light: Api) -> None:
    assert light.error("GET", "/v1/jobs/none")[1]["code"] == "job_not_found"
    assert light.error("GET", "/v1/jobs/none/results")[0] == 404
    assert light.error("GET", "/v1/jobs/none/results/content?format=csv")[0] == 404
    assert light.error("GET", "/v1/nothing")[0] == 404
    assert light.error("GET", "/v1/jobs?limit=0") == (
        400,
        {
            "message": "limit: Input should be greater than or equal to 1",
            "type": "invalid_request_error",
            "param": "limit",
            "code": "invalid_parameter",
        },
    )
    assert light.error("DELETE", "/v1/jobs")[0] == 405


def test_a_key_is_asked_for_where_one_is_set(sqlite_url: str, folder_url: str, redis_url: str) -> None:
    api = Api(Settings(database_url=sqlite_url, store_url=folder_url, redis_url=redis_url, api_key="s3cret-é"))
    with api.http:
        for given in (None, "Bearer wrong", "Basic s3cret-é", "s3cret-é"):
            headers = {} if given is None else {"Authorization": given.encode()}
            for path in ("/v1/jobs", "/v1/models", "/metrics", "/v1/jobs/x/events"):
                assert api.http.get(path, headers=headers).status_code == 401, (path, given)
        assert api.error("GET", "/v1/jobs")[1]["code"] == "invalid_api_key"
        assert api.http.get("/v1/jobs", headers={"Authorization": "Bearer s3cret-é".encode()}).status_code == 200
        assert [api.http.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]


def test_the_service_says_what_it_is(api: Api) -> None:
    assert api.job("GET", "/readyz") == {"status": "ok"}
    models = api.job("GET", "/v1/models")["data"]
    assert {"smollm2-135m", "echo"} <= {model["id"] for model in models}
    assert all(model["object"] == "model" for model in models)
    api.finished_job(failed=(0,))
    figures = api.http.get("/metrics").text.splitlines()
    assert {
        'nightmill_jobs{status="completed"} 1.0',
        'nightmill_shards{status="done"} 3.0',
        'nightmill_items{status="ok"} 5.0',
        'nightmill_items{status="failed"} 1.0',
        'nightmill_tokens{kind="completion"} 15.0',
    } <= set(figures)


def test_an_unreachable_redis_refuses_jobs_and_is_named_without_its_password(sqlite_url: str, folder_url: str) -> None:
    api = Api(Settings(database_url=sqlite_url, store_url=folder_url, redis_url="redis://:hush@127.0.0.1:1/0"))
    with api.http:
        for method, path in (("POST", "/v1/jobs"), ("GET", "/readyz")):
            answer = api.http.request(method, path, json=ECHO)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (503, "redis_unavailable")
            assert "redis://:***@127.0.0.1:1/0" in error["message"]
            assert "hush" not in answer.text
        assert api.job("GET", "/v1/jobs")["data"] == []


def test_an_unreachable_database_is_named_without_its_password(folder_url: str, redis_url: str) -> None:
    url = "postgresql://nightmill:hush@127.0.0.1:1/nightmill"
    api = Api(Settings(database_url=url, store_url=folder_url, redis_url=redis_url))
    with api.http:
        for path in ("/v1/jobs", "/readyz"):
            answer = api.http.get(path)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "database_unavailable"
            assert "127.0.0.1:1/nightmill" in answer.text
            assert "hush" not in answer.text


def test_a_store_that_cannot_be_used_is_named(sqlite_url: str, redis_url: str) -> None:
    api = Api(Settings(database_url=sqlite_url, store_url="file:///proc/nightmill", redis_url=redis_url))
    with api.http:
        status, error = api.error("PUT", "/v1/inputs/a.csv", content=b"x")
        assert (status, error["code"]) == (503, "store_unavailable")
        assert "file:///proc/nightmill" in error["message"]
        assert api.http.get("/readyz").json()["problems"].keys() == {"store"}


def test_a_full_disk_is_told_from_a_store_that_is_away() -> None:
    wrapped = RuntimeError("could not write")
    wrapped.__cause__ = OSError(28, "No space left on device")
    assert is_full(wrapped)
    assert is_full(OperationalError("INSERT", {}, psycopg.errors.DiskFull()))
    assert not is_full(OSError(13, "Permission denied"))


def test_the_openapi_document_is_whole(light: Api) -> None:
    document = light.job("GET", "/openapi.json")
    names = {operation["operationId"] for methods in document["paths"].values() for operation in methods.values()}
    assert {"create_job", "get_job", "watch_job", "download_results", "upload_input"} <= names
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas

    def references(part: object) -> Iterator[str]:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                yield part["$ref"]
            for value in part.values():
                yield from references(value)
        elif isinstance(part, list):
            for value in part:
                yield from references(value)

    assert {name.rpartition("/")[2] for name in references(document)} <= set(schemas)


def test_what_breaks_inside_is_not_shown(light: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a secret")

    monkeypatch.setattr("orchestrator.api.jobs.check_static", broken)
    answer = light.http.post("/v1/jobs", json=ECHO)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in answer.text
