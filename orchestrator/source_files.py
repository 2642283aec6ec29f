"""A job's source file: where it is, which format it has, and a seekable copy of it where it is compressed."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple, TypeAlias, cast

import msgspec
import pyarrow as pa

from orchestrator.spec import JobSpec
from orchestrator.spec_error import SpecError, nearest
from workers.store import (
    CHUNK,
    UPLOAD_SCHEME,
    ChangedObjectError,
    MissingObjectError,
    ObjectStore,
    StoreError,
    open_uri,
)
from workers.store_folder import FolderStore

Format: TypeAlias = Literal["csv", "jsonl", "parquet"]
_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_MAGIC = ((b"\x1f\x8b", "gzip", ".gz"), (b"\x28\xb5\x2f\xfd", "zstd", ".zst"))
_KNOWN = ".csv, .tsv, .jsonl or .parquet, with .gz or .zst after it where it is compressed"


class Staging(NamedTuple):
    """Where a job's own copies of its input go: keys below `prefix` of Nightmill's store."""

    store: ObjectStore
    prefix: str


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """An object that holds a job's rows."""

    store: ObjectStore
    key: str
    uri: str
    """As ranges name it."""
    name: str
    """As its owner calls it."""
    etag: str | None
    """Its version, where it can change under the job; None for Nightmill's own, which never do."""
    size: int
    format: Format
    compression: str | None = None
    delimiter: str | None = None

    def stream(self, chunk: int = CHUNK) -> Iterator[bytes]:
        """All of the object.

        Raises:
            SpecError: it is gone, or changed since planning began.
            StoreError: the store cannot be reached.
        """
        with pinned(self):
            yield from self.store.stream(self.key, etag=self.etag, chunk=chunk)


@contextmanager
def pinned(source: SourceFile) -> Iterator[None]:
    """Says it in the user's words where a source is no longer what planning began with."""
    try:
        yield
    except ChangedObjectError as error:
        raise SpecError(
            "the file changed while it was being read; submit the job again once it is complete",
            file=source.name,
            param="source.file",
            code="source_changed",
        ) from error
    except MissingObjectError as error:
        raise _invalid("there is no such file any more", source.name) from error


def open_source(spec: JobSpec, own: ObjectStore) -> SourceFile | None:
    """The file of a submitted job, pinned to its version; None for a job without one.

    Args:
        spec: The job. Its file is an `s3://` or `nightmill://` URI.
        own: Nightmill's own store.

    Raises:
        SpecError: the file is a path, does not exist, or is of no known format.
        StoreError: the store cannot be reached.
    """
    uri = spec.source.file
    if uri is None:
        return None
    check_uri(uri)
    name = shown_name(uri)
    try:
        store, key = open_uri(uri, own)
        if not key or key.endswith("/"):
            raise _invalid("is a folder; give the URI of one file", name)
        info = store.head(key)
    except MissingObjectError:
        info = None
    if info is None:
        raise _invalid("there is no such object" if uri.startswith("s3://") else "there is no such upload", name)
    kind, compression = file_format(key, spec.source.format, name)
    return SourceFile(
        store=store,
        key=key,
        uri=uri,
        name=name,
        etag=None if uri.startswith(UPLOAD_SCHEME) else info.etag,
        size=info.size,
        format=kind,
        compression=compression,
        delimiter=_delimiter(spec, key),
    )


def open_local(spec: JobSpec) -> SourceFile | None:
    """The local file of a job, read where it is, for planning without a stack; None for a job without a file.

    Raises:
        SpecError: it does not exist, is a directory, cannot be read, or is of no known format.
    """
    if spec.source.file is None:
        return None
    path = Path(spec.source.file)
    check_local(path)
    kind, compression = file_format(path.name, spec.source.format, str(path))
    folder = FolderStore(path.absolute().parent)
    info = folder.head(path.name)
    if info is None:
        raise _invalid("there is no such file", str(path))
    return SourceFile(
        store=folder,
        key=path.name,
        uri=path.name,
        name=str(path),
        etag=info.etag,
        size=info.size,
        format=kind,
        compression=compression,
        delimiter=_delimiter(spec, path.name),
    )


def check_local(path: Path) -> None:
    """Check that a local source can be read, before it is uploaded or planned.

    Raises:
        SpecError: it does not exist, is a directory or something else that is no file, is empty, or cannot be opened.
    """
    name = str(path)
    try:
        if path.is_dir():
            raise _invalid("is a directory; give one file, such as products.csv", name)
        if not path.exists():
            close = _neighbours(path)
            raise _invalid(f"there is no such file{close}", name)
        if not path.is_file():
            raise _invalid("is neither a file nor a link to one", name)
        with path.open("rb") as file:
            if not file.read(1):
                raise _invalid("is empty", name)
    except OSError as error:
        raise _invalid(f"cannot be read: {error.strerror or error}", name) from error


def check_uri(uri: str) -> None:
    """Check that a submitted job's file can be reached from another machine.

    Raises:
        SpecError: it is a path, or a URI that Nightmill does not read.
    """
    if uri.startswith(("s3://", UPLOAD_SCHEME)):
        return
    if "://" in uri:
        scheme = uri.partition("://")[0]
        raise _invalid(f"{scheme}:// is not read; give s3://bucket/key, or upload the file", uri)
    raise _invalid(
        "is a path on your machine, which the service cannot read; upload it first with PUT /v1/inputs/{name}, or"
        " submit with `nightmill submit`, which does so",
        uri,
    )


def shown_name(uri: str) -> str:
    """A file as its owner calls it: of an upload, its last name."""
    return uri.rpartition("/")[2] if uri.startswith(UPLOAD_SCHEME) else uri


def file_format(name: str, given: Format | None, shown: str) -> tuple[Format, str | None]:
    """Format and compression of a file, by its name.

    Raises:
        SpecError: the name says neither, and the job does not say the format.
    """
    path = Path(name)
    compression = _COMPRESSIONS.get(path.suffix.lower())
    if compression is not None:
        path = path.with_suffix("")
    suffix = path.suffix.lower()
    kind = given or _FORMATS.get(suffix)
    if kind is None:
        hint = {
            ".json": "; JSON is read one object a line: write it so and call it .jsonl",
            ".xlsx": "; save the sheet as CSV (UTF-8)",
            ".xls": "; save the sheet as CSV (UTF-8)",
            ".zip": "; unpack it, or compress it with gzip or zstd",
        }.get(suffix, "; or say source.format: csv, jsonl or parquet")
        what = f"has the unknown ending {suffix!r}" if suffix else "has no ending that tells its format"
        raise _invalid(f"{what}; known are {_KNOWN}{hint}", shown)
    if kind == "parquet" and compression is not None:
        raise _invalid("is Parquet inside of another compression, and Parquet compresses by itself; unpack it", shown)
    return kind, compression


def check_start(start: bytes, kind: Format, shown: str) -> None:
    """Refuse a file whose first bytes say that it is of another format than its name does.

    Raises:
        SpecError: it is.
    """
    if not start:
        raise _invalid("is empty", shown)
    for magic, name, suffix in _MAGIC:
        if start.startswith(magic):
            raise _invalid(f"is compressed with {name}; call it {Path(shown).name}{suffix}", shown)
    if start.startswith(b"PK\x03\x04"):
        raise _invalid("is a ZIP archive or a spreadsheet; save it as CSV (UTF-8)", shown)
    if kind != "parquet" and start.startswith(b"PAR1"):
        raise _invalid("is a Parquet file; call it .parquet, or say source.format: parquet", shown)
    if kind == "parquet" and not start.startswith(b"PAR1"):
        raise _invalid("is not a Parquet file: it does not begin with PAR1", shown)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _invalid("is UTF-16 text; save it as UTF-8", shown)
    if kind == "jsonl" and start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        raise _invalid("is one JSON array; write one object a line instead", shown)


def stage(source: SourceFile, staging: Staging) -> SourceFile:
    """An uncompressed copy of a compressed source in Nightmill's store: ranges need seeking.

    Raises:
        SpecError: the compressed data is broken or cut off.
        StoreError: the store failed.
    """
    key = f"{staging.prefix}/source.{source.format}"
    reader = io.BufferedReader(ChunkReader(source.stream()))
    plain: gzip.GzipFile | pa.NativeFile
    if source.compression == "gzip":
        plain = gzip.GzipFile(fileobj=reader)
    else:
        plain = pa.CompressedInputStream(pa.PythonFile(reader, mode="r"), "zstd")
    with plain:
        size = put_checked(staging.store, key, _Decompressed(plain, source).read)
    return msgspec.structs.replace(
        source, store=staging.store, key=key, uri=key, etag=None, size=size, compression=None
    )


def put_checked(store: ObjectStore, key: str, read: Callable[[int], bytes]) -> int:
    """Write an object from data that may turn out to be wrong; returns its size in bytes.

    A store may wrap whatever its source raises. What is wrong with the data is told as it is, all the same.

    Raises:
        SpecError: `read` raised it.
        StoreError: the store failed.
    """
    attentive = _Attentive(read)
    try:
        return store.put_stream(key, cast("IO[bytes]", attentive))
    except StoreError as error:
        if attentive.problem is not None:
            raise attentive.problem from error
        raise


class _Attentive:
    """A stream that remembers what was wrong with its data."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.problem: SpecError | None = None
        self._read = read

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        try:
            return self._read(size)
        except SpecError as error:
            self.problem = error
            raise


class ChunkReader(io.RawIOBase):
    """An iterator of bytes as a stream to read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # typeshed wants any buffer, and gives this one
        """Fill the buffer with what comes next."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class _Decompressed:
    """Decompressed data whose errors are told apart from those of the store that it is written to."""

    def __init__(self, plain: gzip.GzipFile | pa.NativeFile, source: SourceFile) -> None:
        self._plain = plain
        self._source = source

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        try:
            return bytes(self._plain.read(CHUNK if size < 0 else size))
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            raise _broken(self._source, error) from error


def _broken(source: SourceFile, error: Exception) -> SpecError:
    cut = isinstance(error, EOFError) or "runcated" in str(error)
    what = "ends too early: it was not copied or compressed completely" if cut else f"cannot be decompressed ({error})"
    return _invalid(f"{what}; test it with `{'gzip -t' if source.compression == 'gzip' else 'zstd -t'}`", source.name)


def _delimiter(spec: JobSpec, name: str) -> str | None:
    if spec.source.delimiter is not None:
        return spec.source.delimiter
    return "\t" if ".tsv" in Path(name).suffixes else None


def _neighbours(path: Path) -> str:
    try:
        close = nearest(path.name, [other.name for other in path.parent.iterdir()])
    except OSError:
        # The folder is missing, too, or closed to us: there is no better name to offer.
        return ""
    return "" if close is None else f"; did you mean {path.with_name(close)}?"


def _invalid(message: str, file: str) -> SpecError:
    return SpecError(message, file=file, param="source.file", code="invalid_source")
