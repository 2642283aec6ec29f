"""The data of a training job, brought to this machine: images out of an archive or from below a prefix in S3, rows.

An archive is read as a stream, and nothing of it is trusted: only images and their captions, in regular files, are
taken, under names that stay inside their folder, up to a number and a size.
"""

from __future__ import annotations

import hashlib
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO, Final, cast

from models.errors import FailureKind, ModelError
from models.spec import Message
from models.training.settings import CAPTION_FILES
from workers.contracts import TrainWork, TuneWork
from workers.prompts import PromptError, PromptTemplate
from workers.sources import read_rows
from workers.store import CHUNK, ObjectStore, open_uri

IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
ARCHIVE_SUFFIX = ".tar"
MAX_IMAGES = 500_000
MAX_FILE = 64 << 20
"""Bytes of one image's file."""
MAX_TOTAL = 32 << 30
LONGEST_NAME = 200
"""Bytes of one part of a path."""
_THREADS = 8


class FetchStoppedError(Exception):
    """It was told to stop."""


def is_archive(uri: str) -> bool:
    """Whether a URI names an archive, not a prefix."""
    return uri.endswith(ARCHIVE_SUFFIX)


def is_image_name(name: str) -> bool:
    """Whether a file is taken for an image by its name."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def is_taken_name(name: str) -> bool:
    """Whether a file is an image or holds captions, by its name."""
    return is_image_name(name) or name in CAPTION_FILES


def fetch_images(work: TrainWork, store: ObjectStore, folder: Path, stop: threading.Event) -> str:
    """Bring a job's images below `folder`, in sub-folders as they were; returns a digest of what they are.

    Raises:
        ModelError: kind MODEL, code `training_data_unreadable`.
        ChangedObjectError: the archive is not the one that was planned.
        StoreError: a store cannot be reached.
        FetchStoppedError: `stop` was set.
    """
    folder.mkdir(parents=True)
    if work.uri is None:
        return f"dataset:{work.dataset}"
    objects, key = open_uri(work.uri, store)
    taken = _Taken(folder, work.name, stop)
    if is_archive(work.uri):
        digest = hashlib.sha256(f"{work.uri}\n{work.etag}".encode()).hexdigest()
        try:
            _unpack(objects.stream(key, etag=work.etag), taken)
        except (tarfile.TarError, EOFError) as error:
            raise _unreadable(f"{work.name} is not a whole tar archive: {error}") from error
        return f"archive:{digest}"
    return f"prefix:{_download(objects, key, taken)}"


def fetch_rows(
    tune: TuneWork, store: ObjectStore, stop: threading.Event, name: str
) -> tuple[list[tuple[Message, ...]], str]:
    """The messages of each row, the completion last; and a digest of them all.

    Raises:
        ModelError: kind MODEL, code `training_data_unreadable`: a row makes no prompt; it is named.
        StoreError: a store cannot be reached, or the rows changed since they were planned.
        SourceError: the rows are not those that were planned.
        FetchStoppedError: `stop` was set.
    """
    template = PromptTemplate(tune.messages)
    rows: list[tuple[Message, ...]] = []
    whole = hashlib.sha256()
    for source in tune.rows:
        for row in read_rows(source, store):
            if stop.is_set():
                raise FetchStoppedError
            try:
                messages = template.render(row)
            except PromptError as error:
                raise _unreadable(f"{name}, row {len(rows) + 1}: {error.message}") from error
            for message in messages:
                whole.update(f"{message.role}\0{message.content}\0".encode())
            rows.append(messages)
    return rows, f"rows:{whole.hexdigest()}"


class _Taken:
    """Files taken so far, within the bounds."""

    def __init__(self, folder: Path, name: str, stop: threading.Event) -> None:
        self._folder = folder
        self._name = name
        self._stop = stop
        self._count = 0
        self._bytes = 0

    def path(self, name: str, size: int) -> Path | None:
        """Where a file goes; None for one that is not taken."""
        if self._stop.is_set():
            raise FetchStoppedError
        name = str(PurePosixPath(name))  # an archive of `.` calls its files ./…
        if not is_taken_name(name):
            return None
        parts = PurePosixPath(name).parts
        if any(part in {"..", "/"} or not part.isprintable() or len(part.encode()) > LONGEST_NAME for part in parts):
            raise _unreadable(f"{self._name}: {name[:LONGEST_NAME]!r} is no name of a file that is taken")
        if size > MAX_FILE:
            raise _unreadable(f"{self._name}: {name} has {size:,} bytes; an image's file may have {MAX_FILE:,}")
        self._count += 1
        self._bytes += size
        if self._count > MAX_IMAGES or self._bytes > MAX_TOTAL:
            raise _unreadable(
                f"{self._name} holds more than {MAX_IMAGES:,} images or {MAX_TOTAL >> 30} GiB; train on a part of it"
            )
        path = self._folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _unpack(chunks: Iterator[bytes], taken: _Taken) -> None:
    with tarfile.open(fileobj=cast("IO[bytes]", _Stream(chunks)), mode="r|") as archive:
        for member in archive:
            if not member.isreg():
                continue  # links and devices are nothing to train on
            path = taken.path(member.name, member.size)
            source = None if path is None else archive.extractfile(member)
            if path is None or source is None:
                continue
            with path.open("wb") as file:
                while block := source.read(CHUNK):
                    file.write(block)


def _download(objects: ObjectStore, prefix: str, taken: _Taken) -> str:
    prefix = f"{prefix.rstrip('/')}/" if prefix else ""
    whole = hashlib.sha256()

    def fetch(key: str) -> bytes:
        name = key.removeprefix(prefix)
        info = objects.head(key)
        path = None if info is None else taken.path(name, info.size)
        if path is None or info is None:
            return b""
        data = objects.get(key, etag=info.etag)
        path.write_bytes(data)
        return name.encode() + b"\0" + hashlib.sha256(data).digest()

    keys = sorted(key for key in objects.list(prefix) if is_taken_name(key.removeprefix(prefix)))
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(fetch, keys):
            whole.update(found)
    return whole.hexdigest()


class _Stream:
    """Chunks as a file that is read once, as tarfile wants it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        """The next bytes; fewer than `size` only at the end."""
        blocks = [self._rest]
        have = len(self._rest)
        while have < size and (chunk := next(self._chunks, None)) is not None:
            blocks.append(chunk)
            have += len(chunk)
        joined = b"".join(blocks)
        self._rest = joined[size:]
        return joined[:size]


def _unreadable(message: str) -> ModelError:
    return ModelError(FailureKind.MODEL, "training_data_unreadable", message)
