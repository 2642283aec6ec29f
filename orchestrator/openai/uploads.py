"""An upload of a file: out of a form, into the store, and then into SQL. What goes wrong leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from typing import IO, cast

from orchestrator.api.errors import TOO_LARGE, RequestError
from orchestrator.api.inputs import MAX_NAME, BodyReader
from orchestrator.api.services import Services
from orchestrator.openai.expiry import expires_after
from orchestrator.openai.files import UPLOADED, Files, FileView, content_key, new_file_id
from orchestrator.openai.multipart import Form, FormPart
from workers.store import StoreError

logger = logging.getLogger(__name__)
CONTENT_TYPE = "application/jsonl"
DAY_SECONDS = 86_400
_BUFFER = 1 << 20
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_FIELDS = ("purpose", _ANCHOR, _SECONDS)


def keep(body: BodyReader, content_type: str, services: Services) -> FileView:
    """Keep the file that a form holds. Blocks while the body arrives.

    Raises:
        RequestError: the form is not as it must be, or the file too long.
        StoreError: the store failed.
    """
    upload = _Upload(services)
    try:
        upload.read(Form(cast("IO[bytes]", io.BufferedReader(body, _BUFFER)), content_type))
        return upload.finish()
    except BaseException:
        upload.forget()
        raise


class _Upload:
    """One upload, as far as it has come."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._id = new_file_id(time.time())
        self._fields: dict[str, str] = {}
        self._filename: str | None = None
        self._size = 0
        self._sha256 = ""

    def read(self, form: Form) -> None:
        """Read the form to its end."""
        for part in form.parts():
            if part.name == "file" and part.filename is not None:
                self._take_file(part, part.filename)
            else:
                self._take_field(part)

    def finish(self) -> FileView:
        """Note the file in SQL."""
        _check_purpose(self._fields.get("purpose"))
        anchor, seconds = self._fields.get(_ANCHOR), self._fields.get(_SECONDS)
        kept = expires_after({"anchor": anchor, "seconds": seconds}) if anchor or seconds else None
        if self._filename is None:
            raise RequestError("the form has no file: send one in the field file", param="file", code="missing_file")
        days = self._services.settings.batch_file_days
        if kept is None and days:
            kept = round(days * DAY_SECONDS)
        return Files(self._services.engine).add(
            self._id,
            purpose=UPLOADED,
            filename=self._filename,
            size=self._size,
            sha256=self._sha256,
            expires_after=kept,
        )

    def forget(self) -> None:
        """Delete what is in the store already."""
        if self._filename is None:
            return
        try:
            self._services.store.delete(content_key(self._id))
        except StoreError as error:
            # Its caller is told what went wrong before; what stays is deleted as an orphan.
            logger.warning("%s was not finished, and its bytes stay for a day: %s", self._id, error)

    def _take_field(self, part: FormPart) -> None:
        if part.name == "file":
            message = "the field file holds a text; send a file in it, with a filename"
            raise RequestError(message, param="file", code="missing_file")
        if part.name not in _FIELDS:
            message = f"the field {part.name!r} is not known; known are file, {', '.join(_FIELDS)}"
            raise RequestError(message, param=part.name, code="unknown_parameter")
        if part.name in self._fields:
            raise RequestError(f"the field {part.name!r} is there twice", param=part.name, code="invalid_form")
        self._fields[part.name] = part.text()
        if part.name == "purpose":
            _check_purpose(self._fields["purpose"])  # before a file is sent in vain

    def _take_file(self, part: FormPart, filename: str) -> None:
        if self._filename is not None:
            raise RequestError("the form has two files; send one", param="file", code="invalid_form")
        self._filename = _checked_name(filename)
        source = _FileReader(part, self._services.settings.file_max_bytes)
        try:
            self._size = self._services.store.put_stream(
                content_key(self._id), cast("IO[bytes]", source), content_type=CONTENT_TYPE
            )
        except StoreError as error:
            if source.problem is not None:
                raise source.problem from error
            raise
        self._sha256 = source.sha256


class _FileReader:
    """A part of a form as a stream: hashed, and bounded.

    A store may wrap whatever its source raises, so what was wrong is remembered.
    """

    def __init__(self, part: FormPart, limit: int) -> None:
        self.problem: RequestError | None = None
        self._part = part
        self._limit = limit
        self._size = 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Digest of what has been read."""
        return self._digest.hexdigest()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        try:
            data = self._bounded(size)
        except RequestError as error:
            self.problem = error
            raise
        self._digest.update(data)
        return data

    def _bounded(self, size: int) -> bytes:
        data = self._part.read(size)
        self._size += len(data)
        if self._size > self._limit:
            message = f"the file is over {self._limit:,} bytes; NIGHTMILL_FILE_MAX_BYTES of the service bounds it"
            raise RequestError(message, status=TOO_LARGE, param="file", code="file_too_large")
        return data


def _check_purpose(purpose: str | None) -> None:
    if purpose is None:
        raise RequestError(f"purpose is missing; it must be {UPLOADED!r}", param="purpose", code="missing_parameter")
    if purpose != UPLOADED:
        message = f"purpose: {purpose!r} is not supported; files are kept for batches, as {UPLOADED!r}"
        raise RequestError(message, param="purpose", code="invalid_value")


def _checked_name(filename: str) -> str:
    # Some clients send the whole path; it is a name for people, and never one of the store.
    name = filename.replace("\\", "/").rpartition("/")[2]
    if not name or len(name) > MAX_NAME or not name.isprintable():
        message = f"{filename[:60]!r} is no name of a file: give it at most {MAX_NAME} characters that can be printed"
        raise RequestError(message, param="file", code="invalid_name")
    return name
