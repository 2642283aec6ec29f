"""The object store: a local folder, or S3 through boto3. Keys are relative to the store's root.

Only what every store can do is asked of it: whole writes, ranged reads, HEAD, listing for clean-up. No conditional
writes, no user metadata. An object is visible whole or not at all.

A store retries by itself what passes within seconds: an error of the server, a connection that broke, an answer that
was cut off. What lasts longer is a StoreError, and its caller's to wait for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Protocol
from urllib.parse import unquote, urlsplit

import msgspec

UPLOAD_SCHEME = "nightmill://"
CHUNK = 1 << 20


class StoreError(Exception):
    """The store could not do what was asked; the message names the store, without any secret."""


class MissingObjectError(StoreError):
    """There is no object of this key."""


class ChangedObjectError(StoreError):
    """The object is no longer the version that was asked for."""


class ObjectInfo(msgspec.Struct, frozen=True):
    """Size in bytes and version of an object."""

    size: int
    etag: str


class ObjectStore(Protocol):
    """What Nightmill needs of an object store. Every method may raise StoreError."""

    url: str

    def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> None:
        """Write a whole object; durable when this returns."""
        ...

    def put_stream(self, key: str, source: IO[bytes], *, content_type: str = "application/octet-stream") -> int:
        """Write a whole object from a stream at constant memory; returns its size in bytes."""
        ...

    def get(self, key: str, *, offset: int = 0, length: int | None = None, etag: str | None = None) -> bytes:
        """Bytes `offset` to `offset + length` of an object (to its end where length is None).

        Raises:
            MissingObjectError: there is none.
            ChangedObjectError: its version is not `etag`.
        """
        ...

    def stream(self, key: str, *, etag: str | None = None, chunk: int = CHUNK) -> Iterator[bytes]:
        """All of an object in chunks of at most `chunk` bytes; raises as `get` does."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """Size and version of an object, or None where there is none."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below a prefix, in order. For clean-up alone: a listing may lag behind what was written."""
        ...

    def delete(self, key: str) -> None:
        """Delete an object; no error where there is none."""
        ...

    def forget_unfinished(self, *, older_than: float) -> int:
        """Drop what is left of writes that began more than `older_than` seconds ago and never ended; returns how many.

        Nobody sees them, but they take up space.
        """
        ...

    def check(self) -> None:
        """Raise StoreError unless the store can be reached and written to."""
        ...


def delete_prefix(store: ObjectStore, prefix: str) -> int:
    """Delete every object below a prefix that is listed; returns how many there were."""
    deleted = 0
    for keys in listed(store, prefix):
        for key in keys:
            store.delete(key)
        deleted += len(keys)
    return deleted


def listed(store: ObjectStore, prefix: str, size: int = 500) -> Iterator[tuple[str, ...]]:
    """Keys below a prefix in order, at most `size` at a time."""
    keys = store.list(prefix)
    while batch := tuple(itertools.islice(keys, size)):
        yield batch


def open_store(url: str) -> ObjectStore:
    """The store at `file:///folder` or `s3://bucket/prefix`.

    Raises:
        StoreError: the URL is of neither form.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        from workers.store_folder import FolderStore  # noqa: PLC0415 - each store loads what it needs, when it is used

        return FolderStore(unquote(parts.path))
    if parts.scheme == "s3" and parts.netloc:
        from workers.store_s3 import S3Store  # noqa: PLC0415 - boto3 takes a third of a second to import

        return S3Store(parts.netloc, parts.path.strip("/"))
    raise StoreError(f"{url!r} is not a store: give file:///a/folder or s3://bucket/prefix")


def open_uri(uri: str, own: ObjectStore) -> tuple[ObjectStore, str]:
    """The store and key that a source's URI means: `s3://bucket/key`, `nightmill://key`, or a key of our own store."""
    if uri.startswith(UPLOAD_SCHEME):
        return own, checked_key(uri.removeprefix(UPLOAD_SCHEME))
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        return open_store(f"s3://{parts.netloc}"), parts.path.lstrip("/")
    return own, checked_key(uri)


def checked_key(key: str) -> str:
    """A key that stays inside its store.

    Raises:
        StoreError: it is empty, absolute, or climbs out with `..`.
    """
    path = PurePosixPath(key)
    if not key or path.is_absolute() or ".." in path.parts or "\0" in key:
        raise StoreError(f"{key!r} is not a key of the store")
    return key
