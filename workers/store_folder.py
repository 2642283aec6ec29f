"""A local folder as an object store."""

from __future__ import annotations

import errno
import math
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from workers.store import CHUNK, ChangedObjectError, MissingObjectError, ObjectInfo, StoreError, checked_key

_TEMPORARY = ".tmp-"
_FOLDER_TRIES = 10
"""How often the folder of a new object may be deleted, because its last object was, before there is a file in it."""


class FolderStore:
    """Objects are files. A write goes to a temporary name, is synced, and is renamed: whole or not at all."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.url = self.root.absolute().as_uri()

    def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> None:  # noqa: ARG002 - files have no type
        """Write a whole object."""
        with self._replacing(key) as file:
            file.write(data)

    def put_stream(self, key: str, source: IO[bytes], *, content_type: str = "application/octet-stream") -> int:  # noqa: ARG002 - files have no type
        """Write a whole object from a stream."""
        size = 0
        with self._replacing(key) as file:
            while block := source.read(CHUNK):
                size += file.write(block)
        return size

    def get(self, key: str, *, offset: int = 0, length: int | None = None, etag: str | None = None) -> bytes:
        """Bytes of an object."""
        with self._opened(key, etag) as file:
            file.seek(offset)
            return file.read() if length is None else file.read(length)

    def stream(self, key: str, *, etag: str | None = None, chunk: int = CHUNK) -> Iterator[bytes]:
        """All of an object, in chunks."""
        with self._opened(key, etag) as file:
            while block := file.read(chunk):
                yield block

    def head(self, key: str) -> ObjectInfo | None:
        """Size and version of an object, or None."""
        try:
            with self._opened(key, None) as file:
                return _info(os.fstat(file.fileno()))
        except MissingObjectError:
            return None

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below a prefix, in order."""
        try:
            for path in _files(self.root / prefix.rpartition("/")[0]):
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not path.name.startswith(_TEMPORARY):
                    yield key
        except OSError as error:
            raise self._failure("list", prefix, error) from error

    def delete(self, key: str) -> None:
        """Delete an object and the folders that this leaves empty."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.root:
                    break
                folder.rmdir()
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.ENOENT}:
                raise self._failure("delete", key, error) from error

    def forget_unfinished(self, *, older_than: float) -> int:
        """Delete the temporary files of writers that died."""
        oldest = time.time() - older_than
        forgotten = 0
        try:
            for path in _files(self.root):
                if path.name.startswith(_TEMPORARY) and _written_at(path) < oldest:
                    path.unlink(missing_ok=True)
                    forgotten += 1
        except OSError as error:
            raise self._failure("sweep", _TEMPORARY, error) from error
        return forgotten

    def check(self) -> None:
        """Raise StoreError unless the folder can be written to."""
        probe = f".check-{secrets.token_hex(4)}"
        self.put(probe, b"nightmill")
        self.delete(probe)

    def _path(self, key: str) -> Path:
        return self.root / checked_key(key)

    def _failure(self, action: str, key: str, error: OSError) -> StoreError:
        if error.errno == errno.ENOSPC:
            return StoreError(f"the disk of the store {self.url} is full: could not {action} {key}")
        return StoreError(f"store {self.url}: could not {action} {key}: {error.strerror or error}")

    @contextmanager
    def _replacing(self, key: str) -> Iterator[IO[bytes]]:
        path = self._path(key)
        temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
        try:
            with _created(temporary) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise self._failure("write", key, error) from error
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _opened(self, key: str, etag: str | None) -> Iterator[IO[bytes]]:
        try:
            with self._path(key).open("rb") as file:
                found = _info(os.fstat(file.fileno())).etag
                if etag is not None and found != etag:
                    raise ChangedObjectError(f"{self.url}/{key} changed: it is version {found}, and {etag} was planned")
                yield file
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingObjectError(f"there is no {key} in the store {self.url}") from error
        except OSError as error:
            raise self._failure("read", key, error) from error


def _info(status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(size=status.st_size, etag=f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}")


def _created(path: Path) -> IO[bytes]:
    """A new file, and the folders that it needs."""
    for tries_left in reversed(range(_FOLDER_TRIES)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("xb")
        except FileNotFoundError:
            if not tries_left:
                raise
    raise AssertionError("the last try either returns or raises")


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in order. What is deleted meanwhile may be left out."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in found:
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _files(path)
        elif entry.is_file():
            yield path


def _written_at(path: Path) -> float:
    """When a file was last written to, in seconds since the epoch; of one that is gone by now, never."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # its writer lives, and was done with it
        return math.inf


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk, or a power cut leaves the name without its object.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
