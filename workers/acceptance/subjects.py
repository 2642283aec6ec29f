"""What a rule looks at: an output, a field of it, or the texts in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import msgspec
import orjson

Output: TypeAlias = str | dict[str, Any]  # with a schema the object itself: any JSON


class Subject(msgspec.Struct, frozen=True):
    """What one rule looks at."""

    value: Any  # any JSON
    text: str
    """The same as text: of an object or a list its texts and numbers, a line each."""


class MissingFieldError(LookupError):
    """An output has no such field."""


def subject(output: Output, field: str | None) -> Subject:
    """What a rule looks at that names a field, or none.

    Raises:
        MissingFieldError: the output has no such field.
    """
    value = output if field is None else value_at(output, field)
    return Subject(value, value if isinstance(value, str) else "\n".join(leaves(value)))


def value_at(output: Output, field: str) -> Any:  # noqa: ANN401 - any JSON
    """What stands at a dotted path: names of objects, numbers of lists from 0.

    Raises:
        MissingFieldError: nothing does.
    """
    value: Any = output
    for step in field.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise MissingFieldError(f"the output has no {field}")
    return value


def leaves(value: object) -> Iterator[str]:
    """The texts and numbers in a value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def with_texts(output: Output, field: str | None, change: Callable[[str], str]) -> Output:
    """An output whose texts, those at a field or all of them, are changed."""
    if field is None:
        changed: Output = _changed(output, change)
        return changed
    head, _, name = field.rpartition(".")
    copy: Any = orjson.loads(orjson.dumps(output))  # any JSON
    around = value_at(copy, head) if head else copy
    key = int(name) if isinstance(around, list) else name
    around[key] = _changed(around[key], change)
    whole: Output = copy
    return whole


def _changed(value: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: _changed(inner, change) for name, inner in value.items()}
    if isinstance(value, list):
        return [_changed(inner, change) for inner in value]
    return value
