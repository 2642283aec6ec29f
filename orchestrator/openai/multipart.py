"""A form with a file in it (RFC 7578), read part by part as it arrives: nothing of it is kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from orchestrator.api.errors import RequestError

CHUNK = 1 << 18
MAX_FIELD = 64 << 10
"""Bytes of a field that is no file."""
MAX_PARTS = 64


class FormPart:
    """One part of a form. It is read to its end, or skipped, before the next is there."""

    def __init__(self, form: Form, name: str, filename: str | None) -> None:
        self.name = name
        self.filename = filename
        """Of a file; None of any other field."""
        self._form = form

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size`; nothing at the part's end.

        Raises:
            RequestError: the form is broken, or cut off.
        """
        data = self._form.next_data()
        if size >= 0 and len(data) > size:
            self._form.put_back(data[size:])
            return data[:size]
        if size < 0:
            while more := self._form.next_data():
                data += more
        return data

    def text(self) -> str:
        """All of a field as text.

        Raises:
            RequestError: it is too long, or no UTF-8.
        """
        data = b""
        while more := self.read(MAX_FIELD + 1):
            data += more
            if len(data) > MAX_FIELD:
                raise _broken(f"the field {self.name!r} is over {MAX_FIELD >> 10} KiB long", self.name)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise _broken(f"the field {self.name!r} is not UTF-8 text", self.name) from error


class Form:
    """The parts of a request's body.

    Args:
        body: The body.
        content_type: The request's header of that name.

    Raises:
        RequestError: the request is no form.
    """

    def __init__(self, body: IO[bytes], content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise _broken("the body must be multipart/form-data with the fields file and purpose")
        self._body = body
        self._events: deque[tuple[str, bytes]] = deque()
        self._header = [b"", b""]
        self._headers: dict[bytes, bytes] = {}
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_begin": self._begin_header,
                    "on_header_field": lambda data, start, end: self._extend(0, data[start:end]),
                    "on_header_value": lambda data, start, end: self._extend(1, data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": lambda: self._events.append(
                        ("part", self._headers.get(b"content-disposition", b""))
                    ),
                    "on_part_data": self._add_data,
                    "on_part_end": lambda: self._events.append(("end", b"")),
                    "on_end": lambda: self._events.append(("over", b"")),
                },
            )
        except FormParserError as error:
            raise _broken(str(error)) from error

    def parts(self) -> Iterator[FormPart]:
        """Each part in turn.

        Raises:
            RequestError: the form is broken or cut off, or has too many parts.
        """
        for _ in range(MAX_PARTS):
            kind, data = self._next()
            while kind in {"data", "end"}:  # of a part that was not read
                kind, data = self._next()
            if kind == "over":
                return
            _, options = parse_options_header(data)
            filename = options.get(b"filename")
            name = options.get(b"name", b"").decode(errors="replace")
            yield FormPart(self, name, None if filename is None else filename.decode(errors="replace"))
        raise _broken(f"the form has more than {MAX_PARTS} parts")

    def next_data(self) -> bytes:
        """The next bytes of the present part; nothing at its end."""
        kind, data = self._next()
        if kind == "data":
            return data
        self._events.appendleft((kind, data))
        return b""

    def put_back(self, data: bytes) -> None:
        """Have bytes read again."""
        self._events.appendleft(("data", data))

    def _next(self) -> tuple[str, bytes]:
        while not self._events:
            chunk = self._body.read(CHUNK)
            if not chunk:
                raise _broken("the form is cut off: its last boundary is missing")
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise _broken(f"the form is broken: {error}") from error
        return self._events.popleft()

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if end > start:  # or else a reader would take it for the end
            self._events.append(("data", data[start:end]))

    def _begin_header(self) -> None:
        self._header = [b"", b""]

    def _extend(self, which: int, data: bytes) -> None:
        self._header[which] += data

    def _end_header(self) -> None:
        self._headers[self._header[0].lower()] = self._header[1]


def _broken(message: str, param: str | None = None) -> RequestError:
    return RequestError(message, param=param, code="invalid_form")
