"""The images of a training job, looked at before it runs: a folder here, an archive or a prefix elsewhere."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.removals import UPLOADS_PREFIX
from orchestrator.spec import JobSpec
from orchestrator.spec_error import SpecError
from workers.store import UPLOAD_SCHEME, MissingObjectError, ObjectStore, open_uri
from workers.training_data import (
    ARCHIVE_SUFFIX,
    MAX_FILE,
    MAX_IMAGES,
    MAX_TOTAL,
    is_archive,
    is_image_name,
    is_taken_name,
)

PARAM = "data.folder"
S3 = "s3://"
_MODE = 0o644


def is_local_folder(spec: JobSpec) -> bool:
    """Whether a job trains on a folder of this machine."""
    return spec.data is not None and spec.data.folder is not None and "://" not in spec.data.folder


def check_data_uri(spec: JobSpec) -> None:
    """Check that a submitted job's images can be reached from another machine, and are no file of the worker's.

    Raises:
        SpecError: they are named by a path, or by a URI that Nightmill does not read.
    """
    uri = None if spec.data is None else spec.data.folder
    if uri is None:
        return
    if uri.startswith(UPLOAD_SCHEME + UPLOADS_PREFIX):
        if not is_archive(uri):
            raise _invalid(f"must be a tar archive whose name ends with {ARCHIVE_SUFFIX}", uri)
        return
    if uri.startswith(S3):
        return
    if "://" in uri:
        raise _invalid("is not read; give s3://bucket/prefix/, or upload a tar archive with PUT /v1/inputs/{name}", uri)
    raise _invalid(
        "is a path on your machine, which the service cannot read; upload a tar archive of it with PUT "
        "/v1/inputs/{name}, or submit with `nightmill submit`, which does so",
        uri,
    )


def pin_data(spec: JobSpec, own: ObjectStore) -> str | None:
    """See that a submitted job's images are there; the version of an archive that can change, else None.

    Raises:
        SpecError: they are not.
        StoreError: the store cannot be reached.
    """
    check_data_uri(spec)
    uri = None if spec.data is None else spec.data.folder
    if uri is None:
        return None
    try:
        store, key = open_uri(uri, own)
        if not is_archive(uri):
            if not any(is_image_name(found) for found in store.list(f"{key.rstrip('/')}/" if key else "")):
                raise _invalid("holds no images", uri)
            return None
        info = store.head(key)
    except MissingObjectError:
        info = None
    if info is None:
        raise _invalid("there is no such object", uri)
    return info.etag if uri.startswith(S3) else None


def check_local_folder(folder: Path) -> None:
    """Check a folder of images before it is sent: there are some, and not more than can be trained on.

    Raises:
        SpecError: there are none, too many, or too large ones; or the folder cannot be read.
    """
    count = total = 0
    for path, size in _files(folder):
        if size > MAX_FILE:
            raise _invalid(f"{path.name} has {size:,} bytes; a file may have {MAX_FILE:,}", str(folder))
        count += is_image_name(path.name)
        total += size
        if count > MAX_IMAGES or total > MAX_TOTAL:
            raise _invalid(
                f"holds more than {MAX_IMAGES:,} images or {MAX_TOTAL >> 30} GiB; train on a part of it", str(folder)
            )
    if not count:
        raise _invalid("holds no images (.png, .jpg, .webp, …)", str(folder))


@contextmanager
def packed(folder: Path) -> Iterator[Path]:
    """A folder's images and captions as one archive, which lasts as long as the context. The same make the same bytes.

    Raises:
        SpecError: a file cannot be read.
    """
    with TemporaryDirectory(prefix="nightmill-images-") as home:
        archive = Path(home) / f"{folder.resolve().name or 'images'}{ARCHIVE_SUFFIX}"
        with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
            for path, size in _files(folder):
                member = tarfile.TarInfo(path.relative_to(folder).as_posix())
                member.size, member.mode = size, _MODE  # its times and owner stay at nothing
                try:
                    with path.open("rb") as file:
                        tar.addfile(member, file)
                except OSError as error:
                    raise _invalid(f"{path}: {error.strerror or error}", str(folder)) from error
        yield archive


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Every image below a folder and its captions, in the order of their names, with sizes in bytes."""
    if not folder.is_dir():
        raise _invalid(
            "is a file; give a folder of images" if folder.exists() else "there is no such folder", str(folder)
        )
    for home, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(home) / name
            if is_taken_name(path.relative_to(folder).as_posix()) and path.is_file():
                yield path, path.stat().st_size


def _invalid(message: str, file: str) -> SpecError:
    return SpecError(message, file=file, param=PARAM, code="invalid_source")
