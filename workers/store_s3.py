"""S3, and whatever speaks it, through boto3.

The usual `AWS_*` variables apply: credentials, region, `AWS_ENDPOINT_URL_S3`, and for older servers
`AWS_REQUEST_CHECKSUM_CALCULATION=when_required`.
"""

from __future__ import annotations

import io
import secrets
import threading
from collections.abc import Iterator
from functools import cache
from typing import IO, TYPE_CHECKING

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from workers.store import CHUNK, ChangedObjectError, MissingObjectError, ObjectInfo, StoreError, checked_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MISSING = {"404", "NoSuchKey", "NotFound"}
_CHANGED = {"412", "PreconditionFailed"}
# A part of a multipart upload, in bytes: at 10,000 parts this allows objects of 156 GiB at 16 MiB of memory each.
_TRANSFER = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=2)
_client_lock = threading.Lock()


@cache
def _cached_client() -> S3Client:
    return boto3.client(
        "s3",
        config=Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 5},
            max_pool_connections=32,
        ),
    )


def client() -> S3Client:
    """The process's one S3 client (boto3's clients may be shared by threads, their creation may not)."""
    with _client_lock:
        return _cached_client()


class S3Store:
    """Objects below `prefix` in `bucket`."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._client = client()

    def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> None:
        """Write a whole object."""
        self.put_stream(key, io.BytesIO(data), content_type=content_type)

    def put_stream(self, key: str, source: IO[bytes], *, content_type: str = "application/octet-stream") -> int:
        """Write a whole object from a stream; a large one in parts, which are aborted where it fails."""
        counted = _Counted(source)
        try:
            self._client.upload_fileobj(
                counted,  # type: ignore[arg-type] # it needs no more than read
                self.bucket,
                self._full(key),
                ExtraArgs={"ContentType": content_type},
                Config=_TRANSFER,
            )
        except Exception as error:
            # s3transfer wraps some of boto's errors in classes of its own, which share no base but Exception.
            raise self._failure("write", key, error) from error
        return counted.size

    def get(self, key: str, *, offset: int = 0, length: int | None = None, etag: str | None = None) -> bytes:
        """Bytes of an object."""
        if length == 0:
            return b""
        end = "" if length is None else str(offset + length - 1)
        wanted = None if offset == 0 and length is None else f"bytes={offset}-{end}"
        try:
            return self._open(key, etag, wanted).read()
        except (BotoCoreError, ClientError) as error:
            raise self._failure("read", key, error) from error

    def stream(self, key: str, *, etag: str | None = None, chunk: int = CHUNK) -> Iterator[bytes]:
        """All of an object, in chunks."""
        try:
            body = self._open(key, etag, None)
            while block := body.read(chunk):
                yield block
        except (BotoCoreError, ClientError) as error:
            raise self._failure("read", key, error) from error

    def head(self, key: str) -> ObjectInfo | None:
        """Size and version of an object, or None."""
        try:
            answer = self._client.head_object(Bucket=self.bucket, Key=self._full(key))
        except (BotoCoreError, ClientError) as error:
            failure = self._failure("look for", key, error)
            if isinstance(failure, MissingObjectError):
                return None
            raise failure from error
        return ObjectInfo(size=answer["ContentLength"], etag=answer["ETag"])

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below a prefix, in order."""
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(self.prefix)
        except (BotoCoreError, ClientError) as error:
            raise self._failure("list", prefix, error) from error

    def delete(self, key: str) -> None:
        """Delete an object."""
        try:
            self._client.delete_object(Bucket=self.bucket, Key=self._full(key))
        except (BotoCoreError, ClientError) as error:
            raise self._failure("delete", key, error) from error

    def check(self) -> None:
        """Raise StoreError unless the bucket can be reached and written to."""
        probe = f".check-{secrets.token_hex(4)}"
        self.put(probe, b"nightmill")
        self.delete(probe)

    def _full(self, key: str) -> str:
        return self.prefix + checked_key(key)

    def _open(self, key: str, etag: str | None, byte_range: str | None) -> IO[bytes]:
        conditions: dict[str, str] = {}
        if etag is not None:
            conditions["IfMatch"] = etag
        if byte_range is not None:
            conditions["Range"] = byte_range
        answer = self._client.get_object(Bucket=self.bucket, Key=self._full(key), **conditions)  # type: ignore[arg-type] # the stubs want each keyword spelt out
        return answer["Body"]  # type: ignore[return-value] # botocore's StreamingBody reads like a binary file

    def _failure(self, action: str, key: str, error: Exception) -> StoreError:
        code = error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""
        if code in _MISSING:
            return MissingObjectError(f"there is no {key} in the store {self.url}")
        if code in _CHANGED:
            return ChangedObjectError(f"{self.url}/{key} is no longer the version that was planned")
        return StoreError(f"store {self.url} at {self._client.meta.endpoint_url}: could not {action} {key}: {error}")


class _Counted:
    """A stream that counts what was read of it; boto3 tells no size."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        block = self._source.read(size)
        self.size += len(block)
        return block
