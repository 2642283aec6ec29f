"""What is looked at in a batch's file before anything runs: each line's frame, its id, its model.

Everything that is wrong is told, with its line, and not the first alone. What a request asks for within its body is
looked at where it runs, and is that line's own error: one bad request costs no other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import orjson

from orchestrator.openai.batch_views import BatchError
from orchestrator.row_blocks import MAX_ROW
from orchestrator.row_checks import MAX_ID
from orchestrator.uniqueness import Uniqueness
from workers.chat_requests import ChatError, checked_model
from workers.store import ObjectStore

MAX_ERRORS = 1000
"""So many are told of one file; one more says that there are others."""
METHOD = "POST"
_FIELDS = ("custom_id", "method", "url", "body")
_IDS_AT_ONCE = 4096
_MARK = b"\xef\xbb\xbf"
Json: TypeAlias = Any  # any JSON


@dataclass(frozen=True, slots=True)
class Limits:
    """How large the file of a batch may be."""

    requests: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """What a file holds."""

    total: int
    """Its requests."""
    model: str | None
    errors: tuple[BatchError, ...]
    """What is wrong; a batch runs only where this is empty."""


class Line(NamedTuple):
    """A line of a file that is not blank."""

    number: int
    """From 1."""
    data: bytes


def check_file(store: ObjectStore, key: str, *, endpoint: str, limits: Limits) -> CheckedFile:
    """Read a batch's file once, at constant memory, and tell everything that is wrong with it.

    Raises:
        StoreError: the store cannot be reached, or lost the file.
    """
    info = store.head(key)
    if info is not None and info.size > limits.bytes:
        message = (
            f"the file has {info.size:,} bytes, and a batch may have {limits.bytes:,}; divide it, or let "
            "NIGHTMILL_BATCH_MAX_BYTES of the service be more"
        )
        return CheckedFile(0, None, (BatchError(code="file_too_large", message=message),))
    with tempfile.TemporaryDirectory(prefix="nightmill-batch-") as scratch:
        reading = _Reading(endpoint, Uniqueness(Path(scratch)))
        for line in file_lines(store, key):
            if not reading.take(line):
                break
            if reading.total > limits.requests:
                message = (
                    f"the file has over {limits.requests:,} requests; divide it, or let NIGHTMILL_BATCH_MAX_REQUESTS "
                    "of the service be more"
                )
                reading.wrong(line.number, "too_many_requests", message)
                break
        else:
            reading.find_repeated(store, key)
        if not reading.total and not reading.errors:
            message = "the file has no requests; give one JSON object a line"
            reading.errors.append(BatchError(code="empty_file", message=message))
    return CheckedFile(reading.total, reading.model, tuple(sorted(reading.errors, key=lambda error: error.line or 0)))


def file_lines(store: ObjectStore, key: str) -> Iterator[Line]:
    """The lines of a file that are not blank. One that is too long for a row is cut short there.

    Raises:
        StoreError: the store cannot be reached, or lost the file.
    """
    number, rest = 0, b""
    for chunk in store.stream(key):
        *whole, rest = (rest + chunk).split(b"\n")
        for data in whole:
            number += 1
            data = data.removeprefix(_MARK) if number == 1 else data  # noqa: PLW2901 - some editors leave it there
            if data.strip():
                yield Line(number, data)
        if len(rest) > MAX_ROW:
            yield Line(number + 1, rest)
            return
    if rest.strip():
        yield Line(number + 1, rest.removeprefix(_MARK) if number == 0 else rest)


class _Reading:
    """One reading of one file."""

    def __init__(self, endpoint: str, ids: Uniqueness) -> None:
        self.total = 0
        self.model: str | None = None
        self.errors: list[BatchError] = []
        self._endpoint = endpoint
        self._ids = ids
        self._waiting: list[str] = []

    def take(self, line: Line) -> bool:
        """Check a line; False where no further line is to be looked at."""
        self.total += 1
        if len(line.data) > MAX_ROW:
            self.wrong(line.number, "line_too_long", f"the line is over {MAX_ROW >> 20} MiB long")
            return False
        try:
            row: Json = orjson.loads(line.data)
        except orjson.JSONDecodeError as error:
            reason = error.msg.partition(": line ")[0]
            message = f"the line is not valid JSON at column {error.colno}: {reason}"
            return self.wrong(line.number, "invalid_json_line", message)
        if not isinstance(row, dict):
            message = f"the line must be an object with {', '.join(_FIELDS)}"
            return self.wrong(line.number, "invalid_json_line", message)
        self._check_row(line.number, row)
        return len(self.errors) <= MAX_ERRORS

    def wrong(self, line: int, code: str, message: str, param: str | None = None) -> bool:
        """Note what is wrong; False where that is enough."""
        if len(self.errors) == MAX_ERRORS:
            message = f"more is wrong from here on; the first {MAX_ERRORS:,} errors are told"
            self.errors.append(BatchError(code="too_many_errors", line=line, message=message))
            return False
        self.errors.append(BatchError(code=code, line=line, message=message, param=param))
        return True

    def find_repeated(self, store: ObjectStore, key: str) -> None:
        """Tell of ids that two lines have."""
        self._ids.add(self._waiting)
        pairs = self._ids.candidates()
        wanted = {place for pair in pairs for place in pair}
        identified = enumerate(self._identified(store, key)) if wanted else ()
        found = {place: named for place, named in identified if place in wanted}
        for earlier, later in pairs:
            (before, first_line), (after, line) = found[earlier], found[later]
            if before == after:
                message = f"custom_id is {_shown(after)}, as on line {first_line}; each request needs one of its own"
                if not self.wrong(line, "duplicate_custom_id", message, "custom_id"):
                    return

    def _check_row(self, line: int, row: dict[str, Json]) -> None:
        for name in row:
            if name not in _FIELDS:
                message = f"{_shown(name)} is no field of a request; there are {', '.join(_FIELDS)}"
                self.wrong(line, "unknown_parameter", message, name[:MAX_ID])
        if _is_id(row.get("custom_id")):
            self._waiting.append(row["custom_id"])
            if len(self._waiting) >= _IDS_AT_ONCE:
                self._ids.add(self._waiting)
                self._waiting = []
        else:
            self._missing_or_wrong(line, row, "custom_id", f"must be a text of 1 to {MAX_ID} characters")
        if row.get("method") != METHOD:
            self._missing_or_wrong(line, row, "method", f"must be {METHOD!r}")
        if row.get("url") != self._endpoint:
            self._missing_or_wrong(line, row, "url", f"must be the batch's endpoint, {self._endpoint!r}")
        body = row.get("body")
        if isinstance(body, dict):
            self._check_model(line, body)
        else:
            self._missing_or_wrong(line, row, "body", "must be an object")

    def _check_model(self, line: int, body: dict[str, Json]) -> None:
        try:
            model = checked_model(body.get("model"))
        except ChatError as error:
            self.wrong(line, error.code, f"body.{error.message}", "body.model")
            return
        if self.model is None:
            self.model = model
        elif model != self.model:
            message = f"body.model is {_shown(model)}, and {_shown(self.model)} further up; a batch asks one model"
            self.wrong(line, "mismatched_model", message, "body.model")

    def _missing_or_wrong(self, line: int, row: dict[str, Json], name: str, right: str) -> None:
        if row.get(name) is None:
            self.wrong(line, "missing_parameter", f"{name} is missing; it {right}", name)
            return
        self.wrong(line, "invalid_value", f"{name} {right}, and is {_shown(row[name])}", name)

    def _identified(self, store: ObjectStore, key: str) -> Iterator[tuple[str, int]]:
        """Ids and their lines, in the order in which they were taken."""
        for line in file_lines(store, key):
            try:
                row = orjson.loads(line.data)
            except orjson.JSONDecodeError:
                continue
            if isinstance(row, dict) and _is_id(row.get("custom_id")):
                yield row["custom_id"], line.number


def _shown(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _is_id(value: Json) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_ID
