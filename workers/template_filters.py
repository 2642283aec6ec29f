# ruff: noqa: ANN401 - values of a template are of any type
"""The filters of prompts: Jinja2's own, as far as their output is bounded by their input, and ours for the rest."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import orjson
from jinja2 import Environment, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter

from workers.template_budget import STEP, bounded, charge, expect, measure, text_of

Result = TypeVar("Result")
BUILTIN_FILTERS = frozenset(
    {"abs", "batch", "capitalize", "count", "d", "default", "dictsort", "filesizeformat", "first"}
    | {"float", "groupby", "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject"}
    | {"rejectattr", "reverse", "select", "selectattr", "slice", "sort", "title", "trim", "truncate"}
    | {"unique", "upper", "urlencode", "wordcount"}
)
"""Jinja2's own that need no other bound than the size of what goes in."""


@pass_environment
def _join_filter(
    environment: Environment, values: Iterable[object], d: str = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    return join_texts(values, d)


def join_texts(values: Iterable[object], separator: object = "") -> str:
    """Values as one text; refused before it is too long."""
    texts, size = [], 0
    between = text_of(separator)
    for value in values:
        text = text_of(value)
        size += len(text) + len(between)
        expect(size)
        charge(1 + len(text) // 16)
        texts.append(text)
    return between.join(texts)


def replace_text(text: object, old: str, new: str, count: int = -1) -> str:
    """`str.replace`; refused before the result is too long."""
    text, old, new = text_of(text), text_of(old), text_of(new)
    found = text.count(old)
    expect(len(text) + (found if count < 0 else min(found, count)) * max(0, len(new) - len(old)))
    return text.replace(old, new, count)


def _indent(
    text: object,
    width: int | str = 4,
    first: bool = False,  # noqa: FBT001, FBT002 - as Jinja2 has it
    blank: bool = False,  # noqa: FBT001, FBT002 - as Jinja2 has it
) -> str:
    lines = text_of(text).split("\n")
    margin = width if isinstance(width, str) else " " * min(width, 100)
    expect(sum(map(len, lines)) + len(lines) * len(margin))
    indented = [margin + line if line or blank else line for line in lines]
    return "\n".join(indented if first else [lines[0], *indented[1:]])


def _center(text: object, width: int = 80) -> str:
    return text_of(text).center(min(width, 1000))


def _format(text: object, *args: object, **kwargs: object) -> str:
    pattern = text_of(text)
    if re.search(r"\*|[0-9]{4}", "".join(re.findall(r"%[^a-zA-Z%]*", pattern))):
        raise SecurityError("|format is used with too wide a field")
    expect(len(pattern) + 1000 * pattern.count("%") + sum(map(measure, args)) + measure(kwargs))
    return str(pattern % (kwargs or args))


def _tojson(value: object, indent: int | None = None) -> str:
    charge(measure(value))
    option = orjson.OPT_INDENT_2 if indent else 0
    return orjson.dumps(value, option=option | orjson.OPT_NON_STR_KEYS).decode()


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if not -300 <= precision <= 300:
        raise ValueError("|round takes a precision from -300 to 300")
    if method == "common":
        return round(value, precision)
    scale = 10.0**precision
    return {"ceil": math.ceil, "floor": math.floor}[method](value * scale) / scale


@pass_environment
def _sum(environment: Environment, values: Iterable[Any], attribute: str | int | None = None, start: float = 0) -> Any:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    total = start + 0
    for value in values:
        charge(1)
        total = total + (value + 0)
    return total


def _striptags(text: object) -> str:
    first, *commented = text_of(text).split("<!--")
    visible = first + "".join(part.partition("-->")[2] for part in commented)
    return " ".join(re.sub(r"<[^<>]*>", "", visible).split())


OWN_FILTERS: dict[str, Callable[..., object]] = {
    "center": _center,
    "format": _format,
    "indent": _indent,
    "join": _join_filter,
    "replace": replace_text,
    "round": _round,
    "string": text_of,
    "striptags": _striptags,
    "sum": _sum,
    "tojson": _tojson,
}
_WIDTHS = frozenset({"batch", "slice", "truncate"})


def metered_filter(name: str, function: Callable[..., Result]) -> Callable[..., Result]:
    """A filter or test that pays for what goes in and comes out."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Result:
        cost = STEP
        for value in args[skipped:]:
            cost += measure(value)
        for value in kwargs.values():
            cost += measure(value)
        charge(cost)
        if name in _WIDTHS and any(type(value) is int and value > 10_000 for value in (*args, *kwargs.values())):
            raise SecurityError(f"|{name} is used with too large a number")
        return bounded(function(*args, **kwargs))

    return metered
