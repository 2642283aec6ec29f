"""How much of the machine one rendering of a template may take.

Work is counted in steps and characters, never in seconds, so that a template that passes once passes everywhere.
"""

from __future__ import annotations

import threading
from typing import TypeVar

import orjson
from jinja2 import Undefined
from jinja2.exceptions import SecurityError

MAX_TEXT = 1 << 20
"""Characters of a text that a template makes: its output, or any value on the way there."""
MAX_NODES = 1_000_000
"""Values inside a value that a template makes."""
MAX_BITS = 10_000
"""Size of a whole number."""
WORK = 20_000_000
"""Steps and characters that one rendering may cost: far beyond any prompt, and seconds at most."""
STEP = 20


Result = TypeVar("Result")


class _Meter(threading.local):
    """What the rendering in this thread may still cost."""

    left = WORK


_meter = _Meter()


def start_budget() -> None:
    """Give the rendering that begins in this thread its whole budget."""
    _meter.left = WORK


def charge(cost: int) -> None:
    """Take from the budget.

    Raises:
        SecurityError: nothing is left.
    """
    _meter.left -= abs(cost)
    if _meter.left < 0:
        raise SecurityError("the template takes too many steps")


def text_of(value: object) -> str:
    """How a value is written in a prompt: text as it is, null as nothing, other JSON values as JSON."""
    if type(value) is str:
        return value
    if value is None:
        return ""
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict | list | tuple):
        bounded(value)
        try:
            return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError as error:
            raise TypeError("a list holds something that cannot be written out") from error
    if isinstance(value, str | Undefined):
        return str(value)
    raise TypeError(
        "a function cannot be written out; call it with ()"
        if callable(value)
        else "a sequence that is made on demand cannot be written out; end it with |join or |list"
    )


def measure(value: object) -> int:
    """Characters and values inside a value.

    Raises:
        SecurityError: there are more than a template may make.
    """
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, dict | list | tuple):
        return 1
    size, count, waiting = 0, 0, [value]
    while waiting:
        current = waiting.pop()
        for inner in (*current, *current.values()) if isinstance(current, dict) else current:
            count += 1
            if isinstance(inner, str):
                size += len(inner)
            elif isinstance(inner, dict | list | tuple):
                waiting.append(inner)
        if count > MAX_NODES or size > 16 * MAX_TEXT:
            raise SecurityError("the template makes a value that is too large")
    return size + count


def bounded(value: Result) -> Result:
    """A value that the template made, if it is not too large."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise SecurityError(f"the template makes a text of over {MAX_TEXT:,} characters")
        charge(len(value) // 16)
    elif isinstance(value, dict | list | tuple):
        charge(measure(value))
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise SecurityError("the template makes a number that is too large")
    return value


def expect(size: float, what: str = "a text") -> None:
    """Refuse to make something of `size` characters before it is made."""
    if size > MAX_TEXT:
        raise SecurityError(f"the template makes {what} that is too large")
