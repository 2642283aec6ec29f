"""`/v1/files` with the unmodified `openai` client, and with what no client sends."""

from __future__ import annotations

import io
import os
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from orchestrator.api.services import Services
from orchestrator.openai.files import Files, content_key, file_prefix, new_file_id, remove_gone, remove_orphans
from orchestrator.removals import due
from orchestrator.settings import Settings
from tests.support.clocks import ManualClock
from tests.support.http_service import http_service

LINES = b'{"custom_id": "a"}\n{"custom_id": "b"}\n'


class Service:
    """A service, its client, and what stands behind it."""

    def __init__(self, services: Services, url: str) -> None:
        self.services = services
        self.url = url
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self.http = httpx.Client(base_url=url, timeout=30)

    def upload(self, data: bytes = LINES, name: str = "requests.jsonl", **fields: Any) -> openai.types.FileObject:
        return self.client.files.create(file=(name, data), purpose="batch", **fields)

    def refused(self, **given: Any) -> tuple[int, str | None, str]:
        answer = self.http.post("/v1/files", **given)
        error = answer.json()["error"]
        return answer.status_code, error["param"], error["message"]

    def close(self) -> None:
        self.client.close()
        self.http.close()


@contextmanager
def running(settings: Settings) -> Iterator[Service]:
    services = Services.open(settings)
    with http_service(services) as url:
        made = Service(services, url)
        yield made
        made.close()


@pytest.fixture
def anywhere(database_url: str, store_url: str, redis_url: str) -> Iterator[Service]:
    with running(Settings(database_url=database_url, store_url=store_url, redis_url=redis_url)) as made:
        yield made


@pytest.fixture
def light(sqlite_url: str, folder_url: str, redis_url: str) -> Iterator[Service]:
    """On SQLite and a folder alone, for what does not depend on them."""
    settings = Settings(database_url=sqlite_url, store_url=folder_url, redis_url=redis_url, file_max_bytes=4 << 20)
    with running(settings) as made:
        yield made


def test_a_file_is_kept_shown_read_and_deleted(anywhere: Service) -> None:
    client = anywhere.client
    made = anywhere.upload(name="C:\\night\\größe.jsonl", expires_after={"anchor": "created_at", "seconds": 7200})
    assert (made.object, made.purpose, made.status, made.filename) == ("file", "batch", "processed", "größe.jsonl")
    assert (made.bytes, made.expires_at) == (len(LINES), made.created_at + 7200)
    assert client.files.retrieve(made.id) == made
    assert client.files.wait_for_processing(made.id, poll_interval=0.01) == made
    assert client.files.content(made.id).read() == LINES

    deleted = client.files.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "file")
    for ask in (client.files.retrieve, client.files.delete, client.files.content):
        with pytest.raises(openai.NotFoundError, match="there is no file"):
            ask(made.id)
    assert list(client.files.list()) == []


async def test_the_async_client_does_the_same(light: Service) -> None:
    async with openai.AsyncOpenAI(base_url=f"{light.url}/v1", api_key="none", max_retries=0) as client:
        made = await client.files.create(file=io.BytesIO(LINES), purpose="batch")
        assert await client.files.retrieve(made.id) == made
        assert (await client.files.content(made.id)).read() == LINES
        assert [file.id async for file in client.files.list(limit=1)] == [made.id]
        assert (await client.files.delete(made.id)).deleted


def test_files_are_listed_in_pages(light: Service) -> None:
    made = [light.upload(name=f"{number}.jsonl").id for number in range(5)]
    files = light.client.files
    assert [file.id for file in files.list(limit=2)] == made[::-1]  # the client asks for page after page
    assert [file.id for file in files.list(limit=2, order="asc")] == made
    page = files.list(limit=2, after=made[3])
    assert ([file.id for file in page.data], page.has_more) == ([made[2], made[1]], True)
    last = files.list(limit=2, after=made[1])
    assert ([file.id for file in last.data], last.has_more) == ([made[0]], False)
    assert files.list(purpose="batch_output").data == []
    raw = light.http.get("/v1/files", params={"limit": 2}).json()
    assert (raw["object"], raw["first_id"], raw["last_id"]) == ("list", made[4], made[3])
    with pytest.raises(openai.BadRequestError, match="limit"):
        files.list(limit=0)
    with pytest.raises(openai.NotFoundError, match="there is no file 'x'"):
        files.list(after="x")


@pytest.mark.parametrize(
    ("asked", "status", "told", "data"),
    [
        (None, 200, None, LINES),
        ("bytes=0-4", 206, "bytes 0-4/38", LINES[:5]),
        ("bytes=5-", 206, "bytes 5-37/38", LINES[5:]),
        ("bytes=-7", 206, "bytes 31-37/38", LINES[-7:]),
        ("bytes=30-900", 206, "bytes 30-37/38", LINES[30:]),
        ("bytes=-900", 206, "bytes 0-37/38", LINES),
        ("bytes=38-", 416, "bytes */38", None),
        ("bytes=-0", 416, "bytes */38", None),
        ("bytes=0-1,4-5", 200, None, LINES),
        ("bytes=9-3", 200, None, LINES),
        ("lines=1-2", 200, None, LINES),
    ],
)
def test_a_range_of_a_file_is_read(light: Service, asked: str | None, status: int, told: str, data: bytes) -> None:
    made = light.upload()
    answer = light.http.get(f"/v1/files/{made.id}/content", headers={} if asked is None else {"Range": asked})
    assert (answer.status_code, answer.headers.get("Content-Range")) == (status, told)
    if data is not None:
        assert answer.content == data
        assert (answer.headers["Accept-Ranges"], answer.headers["Content-Length"]) == ("bytes", str(len(data)))


def test_a_range_of_another_version_is_the_whole_file(light: Service) -> None:
    made = light.upload()
    etag = light.http.get(f"/v1/files/{made.id}/content").headers["ETag"]
    for given, status in ((etag, 206), ('"another"', 200)):
        headers = {"Range": "bytes=0-4", "If-Range": given}
        assert light.http.get(f"/v1/files/{made.id}/content", headers=headers).status_code == status


def test_a_form_that_is_none_leaves_nothing_behind(light: Service) -> None:
    file = ("requests.jsonl", LINES)
    refused = light.refused
    assert refused(json={})[:2] == (400, None)
    assert refused(data={"purpose": "batch"}, files={"attached": file})[:2] == (400, "attached")
    assert refused(data={"purpose": "batch"}, files={"nothing": ("x", b"")})[:2] == (400, "nothing")
    assert refused(files={"file": file})[:2] == (400, "purpose")
    assert refused(files={"purpose": (None, "batch"), "file": (None, "text")})[:2] == (400, "file")
    status, param, message = refused(data={"purpose": "fine-tune"}, files={"file": file})
    assert (status, param) == (400, "purpose")
    assert "'fine-tune' is not supported" in message
    late = [("file", file), ("purpose", (None, "vision"))]
    assert refused(files=late)[:2] == (400, "purpose")  # known only once the file is in the store
    for anchor, seconds, param in (
        ("created_at", "x", "expires_after.seconds"),
        ("created_at", "1", "expires_after.seconds"),
        ("now", "7200", "expires_after.anchor"),
    ):
        data = {"purpose": "batch", "expires_after[anchor]": anchor, "expires_after[seconds]": seconds}
        assert refused(data=data, files={"file": file})[:2] == (400, param)
    assert refused(data={"purpose": "batch"}, files=[("file", file), ("file", file)])[:2] == (400, "file")
    assert refused(data={"purpose": "batch"}, files={"file": ("a" * 201, LINES)})[:2] == (400, "file")
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    whole = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + LINES
    assert "cut off" in refused(content=whole, headers=kind)[2]
    assert "broken" in refused(content=b"--y\r\n", headers=kind)[2]
    assert list(light.client.files.list()) == []
    assert list(light.services.store.list("files/")) == []


def test_a_file_that_is_too_long_is_refused_as_it_arrives(light: Service) -> None:
    status, param, message = light.refused(
        data={"purpose": "batch"}, files={"file": ("long.jsonl", b"x" * ((4 << 20) + 1))}
    )
    assert (status, param) == (413, "file")
    assert "NIGHTMILL_FILE_MAX_BYTES" in message
    assert list(light.services.store.list("files/")) == []


def test_an_upload_takes_constant_memory(sqlite_url: str, folder_url: str, redis_url: str) -> None:
    size = 48 << 20

    def form() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="long.jsonl"\r\n\r\n'
        block = os.urandom(1 << 20)
        for _ in range(size >> 20):
            yield block
        yield b"\r\n--x--\r\n"

    with running(Settings(database_url=sqlite_url, store_url=folder_url, redis_url=redis_url)) as made:
        tracemalloc.start()
        try:
            answer = made.http.post(
                "/v1/files", content=form(), headers={"Content-Type": "multipart/form-data; boundary=x"}
            )
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert answer.json()["bytes"] == size
        assert peak < 16 << 20


@pytest.mark.parametrize("name", ["file-x", "file-%00", f"file-{26 * '0'}", "%00"])
def test_what_can_be_no_id_is_no_file(anywhere: Service, name: str) -> None:
    for path in (f"/v1/files/{name}", f"/v1/files/{name}/content"):
        assert anywhere.http.get(path).status_code == 404
    assert anywhere.http.delete(f"/v1/files/{name}").status_code == 404
    assert anywhere.http.get("/v1/files", params={"purpose": "\0"}).json()["data"] == []


def test_the_client_sends_the_key_of_the_service(sqlite_url: str, folder_url: str, redis_url: str) -> None:
    settings = Settings(database_url=sqlite_url, store_url=folder_url, redis_url=redis_url, api_key="night")
    with running(settings) as service:
        for ask in (service.client.files.list, service.client.batches.list, service.client.models.list):
            with pytest.raises(openai.AuthenticationError, match="asks for a key"):
                ask()
        with service.client.with_options(api_key="night") as client:
            assert list(client.files.list()) == []
            assert list(client.batches.list()) == []
            assert "echo" in [model.id for model in client.models.list()]


def test_a_file_whose_time_is_over_is_gone(sqlite_url: str, folder_url: str, redis_url: str) -> None:
    services = Services.open(Settings(database_url=sqlite_url, store_url=folder_url, redis_url=redis_url))
    clock = ManualClock()
    files = Files(services.engine, clock=clock)
    kept, short = (new_file_id(clock() + number) for number in range(2))
    for file_id, seconds in ((kept, None), (short, 60)):
        services.store.put(content_key(file_id), LINES)
        files.add(file_id, purpose="batch", filename="a", size=38, sha256="", expires_after=seconds)
    assert remove_gone(services.engine, now=clock()) == 0
    clock.advance(60)
    found, _ = files.list(purpose=None, after=None, limit=10, ascending=False)
    assert [file.id for file in found] == [kept]
    assert remove_gone(services.engine, now=clock()) == 1
    assert [removal.prefix for removal in due(services.engine, now=clock())] == [file_prefix(short)]
    services.close()


def test_bytes_without_a_row_are_let_go(sqlite_url: str, folder_url: str, redis_url: str) -> None:
    services = Services.open(Settings(database_url=sqlite_url, store_url=folder_url, redis_url=redis_url))
    now = time.time()
    known, orphan = new_file_id(now), new_file_id(now)
    Files(services.engine).add(known, purpose="batch", filename="a", size=0, sha256="", expires_after=None)
    assert remove_orphans(services.engine, [known, orphan], now=now) == 1
    assert remove_orphans(services.engine, [known, orphan], now=now) == 0
    assert due(services.engine, now=now) == []
    assert [removal.prefix for removal in due(services.engine, now=now + 3600)] == [file_prefix(orphan)]
    services.close()
