"""The range of a file that a request asks for: RFC 9110, section 14."""

from __future__ import annotations

import re
from typing import NamedTuple

_ONE_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


class ByteSpan(NamedTuple):
    """Bytes `start` to `end` of a file, without `end`."""

    start: int
    end: int


class UnsatisfiableRangeError(Exception):
    """The range begins behind the file's end."""


def asked_range(header: str | None, size: int) -> ByteSpan | None:
    """What a `Range` header asks of a file of `size` bytes; None where all of it is to be sent.

    Several ranges at once, other units and what is malformed are answered with the whole file, as the RFC allows.

    Raises:
        UnsatisfiableRangeError: no byte of the file is in the range.
    """
    found = _ONE_RANGE.fullmatch(header.strip()) if header is not None else None
    if found is None or (not found[1] and not found[2]):
        return None
    if not found[1]:
        last = int(found[2])
        if not last or not size:
            raise UnsatisfiableRangeError
        return ByteSpan(max(0, size - last), size)
    start = int(found[1])
    end = size if not found[2] else min(size, int(found[2]) + 1)
    if found[2] and int(found[2]) < start:
        return None
    if start >= size:
        raise UnsatisfiableRangeError
    return ByteSpan(start, end)
