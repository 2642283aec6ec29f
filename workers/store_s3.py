"""S3, and whatever speaks it, through boto3.

The usual `AWS_*` variables apply: credentials, region, `AWS_ENDPOINT_URL_S3`, and for older servers
`AWS_REQUEST_CHECKSUM_CALCULATION=when_required`.

What is retried, and for how long: botocore's `standard` mode repeats a request that was answered with 429, 500, 502,
503, 504 or a code such as SlowDown, that timed out, or whose connection broke; up to `ATTEMPTS` times in all, after
random pauses that double: at most 0.05, 0.1 and 0.2 s, or 1, 2 and 4 s where the server asks for less. A budget that
the whole process shares stops all retries while nearly everything fails. So a call fails within some seconds where the
server answers, and within `ATTEMPTS` time-outs where it does not. An answer that breaks off in its middle is not
botocore's to repeat: it is taken up again here, where it broke off.
"""

from __future__ import annotations

import io
import random
import secrets
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import IO, TYPE_CHECKING

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError
from urllib3.exceptions import HTTPError

from workers.store import CHUNK, ChangedObjectError, MissingObjectError, ObjectInfo, StoreError, checked_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

_MISSING = {"404", "NoSuchKey", "NotFound"}
_CHANGED = {"412", "PreconditionFailed"}
# A part of a multipart upload, in bytes: at 10,000 parts this allows objects of 156 GiB at 16 MiB of memory each.
_TRANSFER = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=2)
ATTEMPTS = 4
CONNECT_SECONDS = 5
READ_SECONDS = 30
"""How long a server may say nothing."""
READ_TRIES = 4
"""How often in a row an answer may break off before it has brought anything new."""
PAUSE_SECONDS = 0.5
"""Longest pause before an answer that broke off is asked for again; it doubles with each in a row."""
_client_lock = threading.Lock()


@cache
def _cached_client() -> S3Client:
    return boto3.client(
        "s3",
        config=Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
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
        # A server or a proxy that checks neither length nor checksum may have kept less than it was sent.
        written = self.head(key)
        if written is None or written.size != counted.size:
            there = "nothing" if written is None else f"{written.size} bytes"
            raise StoreError(f"store {self.url}: {key} was written with {counted.size} bytes, and {there} arrived")
        return counted.size

    def get(self, key: str, *, offset: int = 0, length: int | None = None, etag: str | None = None) -> bytes:
        """Bytes of an object."""
        return b"".join(self._blocks(key, etag, offset, length, CHUNK))

    def stream(self, key: str, *, etag: str | None = None, chunk: int = CHUNK) -> Iterator[bytes]:
        """All of an object, in chunks."""
        return self._blocks(key, etag, 0, None, chunk)

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

    def forget_unfinished(self, *, older_than: float) -> int:
        """Abort the multipart uploads of writers that died."""
        oldest = datetime.now(UTC) - timedelta(seconds=older_than)
        forgotten = 0
        try:
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=self.prefix
            )
            for page in pages:
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"] < oldest:
                        self._abort(upload["Key"], upload["UploadId"])
                        forgotten += 1
        except (BotoCoreError, ClientError) as error:
            raise self._failure("list unfinished uploads below", self.prefix, error) from error
        return forgotten

    def check(self) -> None:
        """Raise StoreError unless the bucket can be reached and written to."""
        probe = f".check-{secrets.token_hex(4)}"
        self.put(probe, b"nightmill")
        self.delete(probe)

    def _full(self, key: str) -> str:
        return self.prefix + checked_key(key)

    def _blocks(
        self, key: str, etag: str | None, offset: int, length: int | None, chunk: int
    ) -> Generator[bytes, None, None]:
        """Bytes `offset` to `offset + length` in chunks; an answer that breaks off is taken up where it did."""
        position = offset
        end = None if length is None else offset + length
        tries = 0
        while end is None or position < end:
            try:
                answer = self._open(key, etag, position, end)
            except (BotoCoreError, ClientError) as error:
                raise self._failure("read", key, error) from error
            etag = etag or answer["ETag"]  # the rest must be of the same version
            try:
                with closing(answer["Body"]) as body:
                    while block := body.read(chunk):
                        position += len(block)
                        tries = 0
                        yield block
            except FlexibleChecksumError as error:
                # What was read is wrong, and has been given out: the caller must begin anew.
                raise self._failure("read", key, error) from error
            except (BotoCoreError, HTTPError) as error:
                tries += 1
                if tries == READ_TRIES:
                    raise self._failure("read", key, error) from error
                time.sleep(random.uniform(0, PAUSE_SECONDS * 2 ** (tries - 1)))  # noqa: S311 - it guards nothing
            else:
                return

    def _open(self, key: str, etag: str | None, position: int, end: int | None) -> GetObjectOutputTypeDef:
        conditions: dict[str, str] = {}
        if etag is not None:
            conditions["IfMatch"] = etag
        if position > 0 or end is not None:
            conditions["Range"] = f"bytes={position}-{'' if end is None else end - 1}"
        return self._client.get_object(Bucket=self.bucket, Key=self._full(key), **conditions)  # type: ignore[arg-type] # the stubs want each keyword spelt out

    def _abort(self, key: str, upload: str) -> None:
        try:
            self._client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "NoSuchUpload":  # it ended just now
                raise

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
