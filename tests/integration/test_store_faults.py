"""A store that fails: bounded tries, no half object under any key, and a message that says what and where."""

from __future__ import annotations

import errno
import io
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.faulty_http import FaultyProxy, faulty_proxy
from workers import store_folder, store_s3
from workers.store import ChangedObjectError, ObjectStore, StoreError, open_store
from workers.store_folder import FolderStore
from workers.store_s3 import ATTEMPTS, READ_TRIES, S3Store

DATA = os.urandom(100_000)
DAY = 86_400.0
CENTURY = 36_525 * DAY


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_server) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: FaultyProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A store behind the proxy, with a client of its own: the process's one keeps the address that it began with."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    monkeypatch.setattr(store_s3, "READ_SECONDS", 2)
    monkeypatch.setattr(store_s3, "PAUSE_SECONDS", 0.01)
    client = store_s3._cached_client.__wrapped__()
    monkeypatch.setattr(store_s3, "client", lambda: client)
    yield open_store(s3_url)
    client.close()


@pytest.mark.parametrize("fault", ["error", "slow_down", "drop", "hang", "cut_upload"])
def test_a_write_outlives_a_fault(store: ObjectStore, proxy: FaultyProxy, fault: str) -> None:
    proxy.faults.append(fault)
    store.put("jobs/1/parts/a", DATA)
    assert proxy.requests("PUT") == 2
    assert store.get("jobs/1/parts/a") == DATA


@pytest.mark.parametrize("fault", ["error", "slow_down", "drop", "hang", "cut_answer"])
def test_a_read_outlives_a_fault(store: ObjectStore, proxy: FaultyProxy, fault: str) -> None:
    store.put("a", DATA)
    proxy.faults.append(fault)
    assert store.get("a") == DATA
    proxy.faults.append(fault)
    assert b"".join(store.stream("a", chunk=1000)) == DATA
    proxy.faults.append(fault)
    assert store.get("a", offset=500, length=7000) == DATA[500:7500]
    assert proxy.requests("GET") == 6


@pytest.mark.parametrize("fault", ["error", "drop"])
def test_tries_are_bounded(store: ObjectStore, proxy: FaultyProxy, fault: str) -> None:
    proxy.faults.extend([fault] * 100)
    with pytest.raises(StoreError, match="could not write a"):
        store.put("a", DATA)
    assert proxy.requests("PUT") == ATTEMPTS
    with pytest.raises(StoreError, match="could not read a"):
        store.get("a")
    assert proxy.requests("GET") == ATTEMPTS
    with pytest.raises(StoreError, match="could not look for a"):
        store.head("a")
    with pytest.raises(StoreError, match="could not delete a"):
        store.delete("a")
    with pytest.raises(StoreError, match="could not list"):
        list(store.list(""))


def test_an_answer_that_always_breaks_off_before_anything_new_is_an_error(
    store: ObjectStore, proxy: FaultyProxy
) -> None:
    store.put("a", b"1")  # half of one byte is none
    proxy.faults.extend(["cut_answer"] * 100)
    with pytest.raises(StoreError, match="could not read a"):
        store.get("a")
    assert proxy.requests("GET") == READ_TRIES


def test_an_answer_that_breaks_off_again_and_again_is_read_to_its_end(store: ObjectStore, proxy: FaultyProxy) -> None:
    store.put("a", DATA)
    proxy.faults.extend(["cut_answer"] * (READ_TRIES + 2))
    assert b"".join(store.stream("a", chunk=1000)) == DATA
    assert proxy.requests("GET") == READ_TRIES + 3


def test_the_rest_of_an_answer_is_of_the_same_version(store: ObjectStore, proxy: FaultyProxy) -> None:
    store.put("a", DATA)
    proxy.faults.append("cut_answer")
    blocks = store.stream("a", chunk=10_000)
    first = next(blocks)
    store.put("a", DATA[::-1])
    with pytest.raises(ChangedObjectError):
        list(blocks)
    assert first == DATA[:10_000]


def test_an_upload_that_always_breaks_off_leaves_nothing(store: ObjectStore, proxy: FaultyProxy) -> None:
    proxy.method = "PUT"
    proxy.faults.extend(["cut_upload"] * ATTEMPTS)
    with pytest.raises(StoreError, match="could not write a"):
        store.put("a", DATA)
    assert store.head("a") is None
    assert list(store.list("")) == []


def test_an_upload_of_which_half_was_kept_is_noticed(store: ObjectStore, proxy: FaultyProxy) -> None:
    """By a server that checks neither length nor checksum, as the one of these tests."""
    proxy.method = "PUT"
    proxy.faults.append("keep_half")
    with pytest.raises(StoreError, match=r"was written with 100000 bytes, and 50000 bytes arrived"):
        store.put("a", DATA)
    store.put("a", DATA)
    assert store.get("a") == DATA


def test_a_large_upload_that_fails_leaves_nothing_that_is_seen(store: ObjectStore, proxy: FaultyProxy) -> None:
    proxy.method = "PUT"
    proxy.faults.extend(["pass", *["error"] * 100])
    with pytest.raises(StoreError, match="could not write large"):
        store.put_stream("large", io.BytesIO(bytes(40 << 20)))
    assert store.head("large") is None
    assert list(store.list("")) == []
    assert store.forget_unfinished(older_than=DAY) == 0


def test_a_listing_comes_in_pages(store: ObjectStore, proxy: FaultyProxy) -> None:
    assert isinstance(store, S3Store)
    keys = [f"jobs/{number}" for number in range(5)]
    for key in keys:
        store.put(key, b"x")

    def two_at_a_time(params: dict[str, Any], **_: object) -> None:
        params["MaxKeys"] = 2

    store._client.meta.events.register("provide-client-params.s3.ListObjectsV2", two_at_a_time)
    before = proxy.requests("GET")
    assert list(store.list("jobs/")) == keys
    assert proxy.requests("GET") - before == 3


def test_multipart_uploads_of_dead_writers_are_aborted(store: ObjectStore) -> None:
    assert isinstance(store, S3Store)
    client = store._client
    # The tests' server says of each that it began in 2010.
    client.create_multipart_upload(Bucket=store.bucket, Key=f"{store.prefix}inputs/half")
    elsewhere = client.create_multipart_upload(Bucket=store.bucket, Key="elsewhere/half")
    assert store.forget_unfinished(older_than=CENTURY) == 0
    assert store.forget_unfinished(older_than=DAY) == 1
    assert store.forget_unfinished(older_than=DAY) == 0
    client.abort_multipart_upload(Bucket=store.bucket, Key="elsewhere/half", UploadId=elsewhere["UploadId"])


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def test_temporary_files_of_dead_writers_are_deleted(folder: FolderStore) -> None:
    folder.put("jobs/1/parts/a", b"x")
    for name, age in (("old", 2 * DAY), ("young", DAY / 2)):
        path = folder.root / "jobs/1/parts" / f".tmp-{name}"
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    assert folder.forget_unfinished(older_than=DAY) == 1
    assert sorted(path.name for path in (folder.root / "jobs/1/parts").iterdir()) == [".tmp-young", "a"]
    assert list(folder.list("")) == ["jobs/1/parts/a"]


def test_a_full_disk_leaves_no_half_object_and_is_named(folder: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.put("jobs/1/parts/a", b"before")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store_folder.os, "fsync", full)
    for key in ("jobs/1/parts/a", "jobs/1/parts/b"):
        with pytest.raises(StoreError, match=f"the disk of the store file:///.* is full: could not write {key}"):
            folder.put(key, b"after")
    monkeypatch.undo()
    assert list(folder.list("")) == ["jobs/1/parts/a"]
    assert folder.get("jobs/1/parts/a") == b"before"
    assert [path.name for path in (folder.root / "jobs/1/parts").iterdir()] == ["a"]


def test_a_folder_that_goes_while_an_object_is_put_into_it_is_made_again(
    folder: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def gone(path: Path, **options: Any) -> None:
        mkdir(path, **options)
        monkeypatch.setattr(Path, "mkdir", mkdir)
        path.rmdir()  # as the deletion of its last object does

    monkeypatch.setattr(Path, "mkdir", gone)
    folder.put("jobs/1/parts/a", b"x")
    assert folder.get("jobs/1/parts/a") == b"x"


def test_objects_are_put_and_deleted_side_by_side(folder: FolderStore) -> None:
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        for _ in range(50):
            folder.put(f"jobs/1/parts/{number}", b"x")
            list(folder.list("jobs/"))
            folder.delete(f"jobs/1/parts/{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert list(folder.list("")) == []
