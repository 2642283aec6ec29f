"""Files of OpenAI's API: their rows in SQL. Their bytes are written before the row, and deleted after it.

A file that is deleted, or whose time is over, is gone for its clients at once. Its bytes stay as long as a batch that
has not ended reads them; then a removal is committed with the end of the row, and the collector empties its prefix.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, Select, delete, insert, or_, select, update
from ulid import ULID

from orchestrator import database
from orchestrator.openai.statuses import BATCH_OPEN
from orchestrator.tables import Batch, File, Removal

FILES_PREFIX = "files/"
FILE_ID = "file-"
UPLOADED = "batch"
PRODUCED = "batch_output"
DEFAULT_TENANT = "default"
ORPHAN_GRACE_SECONDS = 3600.0
_AT_ONCE = 100
_ID = re.compile(rf"{FILE_ID}[0-9A-Z]{{26}}")
_DELETED = 0.0
"""When a file expired that was deleted: long ago, by anybody's clock."""


class UnknownFileError(Exception):
    """There is no file of this id, or not any more; `param` names the field that named it."""

    def __init__(self, file_id: str, param: str = "file_id") -> None:
        super().__init__(f"there is no file {file_id!r}")
        self.param = param


class FileView(msgspec.Struct, frozen=True, kw_only=True):
    """A file as OpenAI's API shows it. Times are whole seconds since the epoch."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: str | None = None


def new_file_id(now: float) -> str:
    """An id for a file; ids sort by time."""
    return f"{FILE_ID}{ULID.from_timestamp(now)}"


def file_prefix(file_id: str) -> str:
    """Where everything of a file lies in the store."""
    return f"{FILES_PREFIX}{file_id}/"


def content_key(file_id: str) -> str:
    """Where the bytes of a file lie in the store."""
    return f"{file_prefix(file_id)}content.jsonl"


class Files:
    """All files of one tenant. `clock` gives seconds since the epoch."""

    def __init__(self, engine: Engine, *, tenant: str = DEFAULT_TENANT, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._tenant = tenant
        self._clock = clock

    def add(
        self, file_id: str, *, purpose: str, filename: str, size: int, sha256: str, expires_after: float | None
    ) -> FileView:
        """Note a file whose bytes are in the store. `expires_after` is in seconds."""
        values = file_values(
            file_id,
            tenant=self._tenant,
            purpose=purpose,
            filename=filename,
            size=size,
            sha256=sha256,
            created_at=self._clock(),
            expires_after=expires_after,
        )
        database.write(self._engine, lambda connection: connection.execute(insert(File), [values]))
        return self.get(file_id)

    def get(self, file_id: str, param: str = "file_id") -> FileView:
        """A file.

        Raises:
            UnknownFileError: there is none of this id, or not any more.
        """
        if _ID.fullmatch(file_id) is None:
            raise UnknownFileError(file_id, param)
        statement = _views().where(File.id == file_id, *self._there())
        with database.reading(self._engine) as connection:
            row = connection.execute(statement).first()
        if row is None:
            raise UnknownFileError(file_id, param)
        return _view(row._mapping)

    def list(
        self, *, purpose: str | None, after: str | None, limit: int, ascending: bool
    ) -> tuple[Sequence[FileView], bool]:
        """Files behind the one of id `after`, at most `limit`, and whether more follow.

        Raises:
            UnknownFileError: `after` is the id of no file.
        """
        if after is not None and _ID.fullmatch(after) is None:
            raise UnknownFileError(after, "after")
        if purpose not in {None, UPLOADED, PRODUCED}:
            return [], False
        statement = listed(self._tenant, after=after, ascending=ascending).where(*self._there()).limit(limit + 1)
        if purpose is not None:
            statement = statement.where(File.purpose == purpose)
        with database.reading(self._engine) as connection:
            rows = connection.execute(statement).all()
        return [_view(row._mapping) for row in rows[:limit]], len(rows) > limit

    def delete(self, file_id: str) -> None:
        """Take a file away from its clients.

        Raises:
            UnknownFileError: there is none of this id, or not any more.
        """
        if _ID.fullmatch(file_id) is None:
            raise UnknownFileError(file_id)
        statement = update(File).where(File.id == file_id, *self._there()).values(expires_at=_DELETED)
        if not database.write(self._engine, lambda connection: connection.execute(statement).rowcount):
            raise UnknownFileError(file_id)

    def _there(self) -> tuple[ColumnElement[bool], ...]:
        alive = or_(File.expires_at.is_(None), File.expires_at > self._clock())
        return File.tenant == self._tenant, alive


def file_values(
    file_id: str,
    *,
    tenant: str,
    purpose: str,
    filename: str,
    size: int,
    sha256: str,
    created_at: float,
    expires_after: float | None,
) -> dict[str, Any]:  # a row of `files`
    """A new file as a row."""
    return {
        "id": file_id,
        "tenant": tenant,
        "purpose": purpose,
        "filename": filename,
        "bytes": size,
        "sha256": sha256,
        "created_at": created_at,
        "expires_at": None if expires_after is None else created_at + expires_after,
    }


def listed(
    tenant: str, *, after: str | None = None, ascending: bool = False
) -> Select[str, int, float, float | None, str, str]:
    """A tenant's files behind the one of id `after`, the newest first or last, those that are gone among them."""
    statement = _views().where(File.tenant == tenant).order_by(File.id if ascending else File.id.desc())
    if after is None:
        return statement
    return statement.where(File.id > after if ascending else File.id < after)


def remove_gone(engine: Engine, *, now: float) -> int:
    """Let go of files that are deleted or over, and that no open batch reads; returns how many."""
    with database.reading(engine) as connection:
        found = list(connection.scalars(gone(now)))

    def work(connection: Connection) -> int:
        removed = 0
        for file_id in found:
            # Asked again within the write: a batch may have been created since, while the file was still there.
            if connection.execute(delete(File).where(File.id == file_id, _is_gone(now), ~_is_read())).rowcount:
                _remove(connection, file_id, decided_at=now, due_at=now)
                removed += 1
        return removed

    return database.write(engine, work) if found else 0


def gone(now: float) -> Select[str]:
    """Files that are deleted or over, and that no open batch reads."""
    return select(File.id).where(_is_gone(now), ~_is_read()).limit(_AT_ONCE)


def remove_orphans(engine: Engine, file_ids: Collection[str], *, now: float) -> int:
    """Let go of the bytes of files that have no row, as their writer died; returns how many."""

    def work(connection: Connection) -> int:
        known = set(connection.scalars(select(File.id).where(File.id.in_(file_ids))))
        removed = 0
        for file_id in sorted(set(file_ids) - known):
            removed += _remove(connection, file_id, decided_at=now, due_at=now + ORPHAN_GRACE_SECONDS)
        return removed

    return database.write(engine, work)


def _remove(connection: Connection, file_id: str, *, decided_at: float, due_at: float) -> bool:
    prefix = file_prefix(file_id)
    if connection.execute(select(Removal.prefix).where(Removal.prefix == prefix)).first() is not None:
        return False
    connection.execute(insert(Removal), [{"prefix": prefix, "decided_at": decided_at, "due_at": due_at}])
    return True


def _is_gone(now: float) -> ColumnElement[bool]:
    return File.expires_at <= now


def _is_read() -> ColumnElement[bool]:
    open_ones = [status.value for status in sorted(BATCH_OPEN)]
    return select(Batch.id).where(Batch.input_file == File.id, Batch.status.in_(open_ones)).exists()


def _views() -> Select[str, int, float, float | None, str, str]:
    return select(File.id, File.bytes, File.created_at, File.expires_at, File.filename, File.purpose)


def _view(row: Any) -> FileView:  # noqa: ANN401 - a row's mapping
    expires_at = row["expires_at"]
    return FileView(
        id=row["id"],
        bytes=row["bytes"],
        created_at=int(row["created_at"]),
        expires_at=None if expires_at is None else int(expires_at),
        filename=row["filename"],
        purpose=row["purpose"],
    )
