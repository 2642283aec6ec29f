"""Input images on the person's own machine: sent along inside the rows, since workers open no paths.

A job that names local files is turned into one whose rows hold the images themselves, in base64, written to one JSON
lines file that is then uploaded as its source. So they are kept for exactly as long as the source is: for every retry
and replay of the job, and for no other.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from orchestrator.image_spec import path_in, with_absolute_paths
from orchestrator.planning import PlannedShard, Staging, plan
from orchestrator.row_blocks import MAX_ROW
from orchestrator.source_files import open_local
from orchestrator.spec import JobSpec
from orchestrator.spec_error import SpecError
from workers.contracts import Row
from workers.sources import read_rows
from workers.store_folder import FolderStore

MAX_FILE = (MAX_ROW // 4 - 4096) * 3
"""Bytes of a row's images: in base64 they must fit the row."""


@contextmanager
def sent_along(spec: JobSpec) -> Iterator[JobSpec]:
    """A job whose local images are in its rows, in a file that lasts as long as the context; else the job as it was.

    Raises:
        SpecError: a file is not there, cannot be read, or is too large.
    """
    if not spec.input_fields or (spec.source.file is not None and "://" in spec.source.file):
        yield spec
        return
    with tempfile.TemporaryDirectory(prefix="nightmill-images-") as folder:
        path = Path(folder) / "rows-with-images.jsonl"
        sent = 0
        with path.open("wb") as file:
            for number, row in enumerate(_rows(spec), start=1):
                filled = _filled(spec, row, number)
                sent += filled is not row
                file.write(orjson.dumps(filled) + b"\n")
        if not sent:
            yield spec
            return
        source = spec.source.model_copy(update={"file": str(path), "items": None, "format": "jsonl", "delimiter": None})
        yield spec.model_copy(update={"source": source})


def _rows(spec: JobSpec) -> Iterator[Row]:
    """A job's rows, with absolute paths."""
    if spec.source.file is None:
        yield from spec.source.items or ()
        return
    folder = Path(spec.source.file).parent
    with tempfile.TemporaryDirectory(prefix="nightmill-plan-") as scratch:
        staging = Staging(FolderStore(scratch), "input")
        shards: list[PlannedShard] = []
        plan(spec, open_local(spec), staging, on_shards=shards.extend)
        size = spec.source.grid_size
        source = open_local(spec)
        for shard in shards:
            if shard.first % size:
                continue  # a row whose items fill several shards stands in each of them; the first is enough
            uri = getattr(shard.source, "uri", "input")
            store = staging.store if source is None or uri.startswith("input") else source.store
            for row in read_rows(shard.source, store):
                yield with_absolute_paths(spec, row, folder)


def _filled(spec: JobSpec, row: Row, number: int) -> Row:
    filled = dict(row)
    room = MAX_FILE
    for name in spec.input_fields:
        path = path_in(row.get(name))
        if path is None:
            continue
        try:
            data = Path(path).expanduser().read_bytes()
        except OSError as error:
            raise SpecError(
                f"row {number}: {name} is {path}, which cannot be read: {error.strerror or error}",
                file=spec.source.file,
                param=name,
                code="invalid_source",
            ) from error
        room -= len(data)
        if room < 0:
            raise SpecError(
                f"row {number}: {name} is {path}, and a row's images may have {MAX_FILE >> 20} MiB when they are sent "
                "along; put large ones into S3 and name them by s3://bucket/key",
                file=spec.source.file,
                param=name,
                code="invalid_source",
            )
        filled[name] = base64.b64encode(data).decode()
    return filled if room < MAX_FILE else row
