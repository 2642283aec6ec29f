"""When a job must be done: a time span from its submission, or a moment."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from orchestrator.spec_error import SpecError

_SPAN = re.compile(r"(?:(\d{1,6})d)?\s*(?:(\d{1,6})h)?\s*(?:(\d{1,8})m)?\s*(?:(\d{1,9})s)?", re.ASCII)
_FORMS = "write a span such as 90m, 12h or 2d, or a moment such as 2031-05-01T06:00:00Z"
_LONGEST = timedelta(days=3660)


def resolve_deadline(text: str, now: datetime) -> datetime:
    """The moment that a deadline means for a job submitted at `now` (which knows its time zone), in UTC.

    Raises:
        SpecError: it is of neither form, has no time zone, is not after `now`, or is more than ten years away.
    """
    stripped = text.strip()
    span = _SPAN.fullmatch(stripped)
    if span and any(span.groups()):
        days, hours, minutes, seconds = (int(group or 0) for group in span.groups())
        length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if not length:
            raise _wrong(f"deadline: {text!r} is no time at all; {_FORMS}")
        if length > _LONGEST:
            raise _wrong(f"deadline: {text!r} is more than ten years; {_FORMS}")
        return now.astimezone(UTC) + length
    try:
        moment = datetime.fromisoformat(stripped)
    except ValueError as error:
        raise _wrong(f"deadline: {text!r} is not understood; {_FORMS}") from error
    if moment.tzinfo is None:
        raise _wrong(f"deadline: {text!r} has no time zone; add Z for UTC, or an offset such as +02:00")
    try:
        moment = moment.astimezone(UTC)
    except OverflowError as error:
        raise _wrong(f"deadline: {text!r} is out of range; {_FORMS}") from error
    if moment <= now:
        raise _wrong(f"deadline: {text} is in the past (it is now {now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}); {_FORMS}")
    if moment - now > _LONGEST:
        raise _wrong(f"deadline: {text} is more than ten years away; {_FORMS}")
    return moment


def parse_span(text: str) -> timedelta | None:
    """A span of time such as `90m` or `1h 30m`, ten years at most; None where it is none, or no time at all."""
    span = _SPAN.fullmatch(text.strip())
    if span is None or not any(int(group or 0) for group in span.groups()):
        return None
    days, hours, minutes, seconds = (int(group or 0) for group in span.groups())
    return min(_LONGEST, timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds))


def time_span(text: str) -> timedelta:
    """A span of time such as `90m` or `1h 30m`.

    Raises:
        ValueError: it is none, or no time at all.
    """
    span = parse_span(text)
    if span is None:
        raise ValueError(f"training.budget: {text!r} is no span of time; write one such as 30m or 2h")
    return span


def _wrong(message: str) -> SpecError:
    return SpecError(message, param="deadline")
