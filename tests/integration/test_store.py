"""Both object stores keep the same promises."""

from __future__ import annotations

import io
import os

import pytest

from workers.store import (
    ChangedObjectError,
    MissingObjectError,
    ObjectStore,
    StoreError,
    delete_prefix,
    open_store,
    open_uri,
)


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


def test_what_was_put_is_read_back(store: ObjectStore) -> None:
    store.put("jobs/a/manifest.json", b"0123456789")
    assert store.get("jobs/a/manifest.json") == b"0123456789"
    assert b"".join(store.stream("jobs/a/manifest.json", chunk=3)) == b"0123456789"


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 4, b"0123"), (4, None, b"456789"), (4, 3, b"456"), (8, 5, b"89"), (0, 0, b"")],
)
def test_a_range_is_read(store: ObjectStore, offset: int, length: int | None, expected: bytes) -> None:
    store.put("range", b"0123456789")
    assert store.get("range", offset=offset, length=length) == expected


def test_a_stream_larger_than_one_part_is_put_whole(store: ObjectStore) -> None:
    data = os.urandom(1 << 20) * 20
    assert store.put_stream("inputs/large.bin", io.BytesIO(data)) == len(data)
    info = store.head("inputs/large.bin")
    assert info is not None
    assert info.size == len(data)
    assert store.get("inputs/large.bin", offset=17 << 20, length=9) == data[17 << 20 : (17 << 20) + 9]


def test_a_missing_object_is_told_apart(store: ObjectStore) -> None:
    assert store.head("nothing") is None
    with pytest.raises(MissingObjectError, match="there is no nothing in the store"):
        store.get("nothing")
    with pytest.raises(MissingObjectError):
        list(store.stream("nothing"))


def test_a_version_that_changed_is_refused(store: ObjectStore) -> None:
    store.put("source.csv", b"a,b\n1,2\n")
    planned = store.head("source.csv")
    assert planned is not None
    assert store.get("source.csv", etag=planned.etag) == b"a,b\n1,2\n"
    store.put("source.csv", b"a,b\n3,4\n5,6\n")
    with pytest.raises(ChangedObjectError, match="planned"):
        store.get("source.csv", offset=2, length=3, etag=planned.etag)


def test_objects_are_listed_and_deleted_by_prefix(store: ObjectStore) -> None:
    for key in ("jobs/a/parts/2", "jobs/a/parts/1", "jobs/b/parts/1"):
        store.put(key, b"x")
    assert list(store.list("jobs/a/")) == ["jobs/a/parts/1", "jobs/a/parts/2"]
    assert delete_prefix(store, "jobs/a/") == 2
    assert list(store.list("jobs/")) == ["jobs/b/parts/1"]
    store.delete("jobs/a/parts/1")
    assert store.head("jobs/a/parts/1") is None


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../outside", "a/../../b", "a\0b"])
def test_no_key_leaves_the_store(store: ObjectStore, key: str) -> None:
    with pytest.raises(StoreError, match="not a key"):
        store.put(key, b"x")


def test_a_store_that_can_be_used_passes_its_check(store: ObjectStore) -> None:
    store.check()
    assert list(store.list("")) == []


def test_an_upload_and_an_s3_address_lead_to_their_objects(store: ObjectStore, s3_url: str) -> None:
    store.put("inputs/1/a.csv", b"x")
    own, key = open_uri("nightmill://inputs/1/a.csv", store)
    assert own.get(key) == b"x"
    elsewhere = open_store(s3_url)
    elsewhere.put("data.csv", b"y")
    other, key = open_uri(f"{s3_url}/data.csv", store)
    assert other.get(key) == b"y"


def test_a_store_that_cannot_be_reached_says_where() -> None:
    with pytest.raises(StoreError, match="could not write"):
        open_store("file:///proc/nightmill").check()


@pytest.mark.parametrize("url", ["", "/a/folder", "ftp://host/a", "s3://"])
def test_what_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="is not a store"):
        open_store(url)
