"""Which files of an ended job's items are named by no record, and never will be: those of executions that lost.

They are images, sounds and blocks of tables. A record may name files of an earlier execution, even of another shard's:
a retry carries over what was ok, and so does each half of a shard that was split. So a file is judged by its item, not
by its folder: the shard that holds the item now, and the parts that it has or is to carry over, say what is named.

Kept is, beside what is named, whatever a later part could name, for the reasons that `orchestrator.collector` gives for
parts: all of a shard that has no part, unless its job was cancelled; and whatever is of an attempt that this database
does not know. As there, SQL is asked with the job's generation before anything is deleted: a retry that begins after
that look carries over a part that was looked at, and writes its own files under higher tokens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec
from sqlalchemy import Engine, Select, func, select

from orchestrator import database
from orchestrator.lifecycle import JOB_TERMINAL, JobStatus
from orchestrator.tables import Job, Shard
from workers.keys import audio_prefix, images_prefix, tables_prefix
from workers.store import MissingObjectError, ObjectStore

_TERMINAL = [status.value for status in sorted(JOB_TERMINAL)]
_FILE = re.compile(r"((\d{6,})-(\d{4,})-[0-9A-Z]+)/(\d+)(?:-\d+)?\.[a-z]{3,7}")


@dataclass(frozen=True, slots=True)
class FileName:
    """What the key of an item's file says."""

    key: str
    folder: str
    shard: int
    token: int
    index: int


class _File(msgspec.Struct):
    key: str


class _Names(msgspec.Struct):
    """As much of a record as it takes to know which files it names."""

    index: int
    images: tuple[_File, ...] = ()
    audio: tuple[_File, ...] = ()
    table: _File | None = None

    @property
    def files(self) -> tuple[_File, ...]:
        return (*self.images, *self.audio, *(() if self.table is None else (self.table,)))


_names = msgspec.json.Decoder(_Names)


def files_prefixes(job_id: str) -> tuple[str, ...]:
    """Where the files of a job's items lie."""
    return images_prefix(job_id), audio_prefix(job_id), tables_prefix(job_id)


def file_name_of(job_id: str, key: str) -> FileName | None:
    """What a key says; None where it is not that of a file of the job's items."""
    prefix = next((prefix for prefix in files_prefixes(job_id) if key.startswith(prefix)), None)
    match = None if prefix is None else _FILE.fullmatch(key.removeprefix(prefix))
    return None if match is None else FileName(key, match[1], int(match[2]), int(match[3]), int(match[4]))


def losing_files(
    engine: Engine, store: ObjectStore, job_id: str, generation: int, keys: Sequence[str]
) -> Sequence[str]:
    """Those of the keys that no record can ever name; none where the job went on since.

    Raises:
        StoreError: the store cannot be reached.
    """
    names = [name for key in keys if (name := file_name_of(job_id, key)) is not None]
    losing: list[str] = []
    for _, group in groupby(names, key=lambda name: name.folder):
        losing += _losing(engine, store, job_id, generation, list(group))
    return losing


def shards_holding(
    job_id: str, generation: int, first: int, last: int
) -> Select[int, int, int, int, str | None, str | None, str]:
    """The shards that hold items `first` to `last`, if the job still stands as it stood."""
    start = select(func.max(Shard.first)).where(Shard.job_id == job_id, Shard.first <= first).scalar_subquery()
    return (
        select(
            Shard.number,
            Shard.first,
            Shard.count.label("items"),  # a row has a method `count`
            Shard.token,
            Shard.part_key,
            Shard.carry_from,
            Job.status.label("job_status"),
        )
        .join(Job, Job.id == Shard.job_id)
        .where(Shard.job_id == job_id, Shard.first >= start, Shard.first <= last)
        .where(Job.generation == generation, Job.status.in_(_TERMINAL))
    )


def _losing(
    engine: Engine, store: ObjectStore, job_id: str, generation: int, names: Sequence[FileName]
) -> Sequence[str]:
    """Of the files of one folder."""
    indexes = [name.index for name in names]
    with database.reading(engine) as connection:
        shards = connection.execute(shards_holding(job_id, generation, min(indexes), max(indexes))).all()
    losing: list[str] = []
    for shard in shards:
        held = [name for name in names if shard.first <= name.index < shard.first + shard.items]
        if shard.part_key is None and shard.job_status != JobStatus.CANCELLED:
            continue
        held = [name for name in held if name.shard != shard.number or name.token <= shard.token]
        named = _named(store, [key for key in (shard.part_key, shard.carry_from) if key], {name.index for name in held})
        if named is not None:
            losing += [name.key for name in held if name.key not in named]
    return losing


def _named(store: ObjectStore, parts: Sequence[str], indexes: Collection[int]) -> set[str] | None:
    """The files that parts name for some items; None where a part is gone, so that nobody knows."""
    named: set[str] = set()
    for key in parts if indexes else ():
        try:
            data = store.get(key)
        except MissingObjectError:
            return None
        for line in data.splitlines():
            record = _names.decode(line)
            if record.index in indexes:
                named.update(file.key for file in record.files)
    return named
