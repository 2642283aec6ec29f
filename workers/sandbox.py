"""Jinja2 for strangers: what a prompt's template may use, and how much of the machine it may take.

Jinja2's own sandbox keeps a template away from Python's internals. This module also bounds its work, since rendering
happens in processes that serve other jobs: every loop step, filter, concatenation and literal is charged to a budget
that is counted in steps and characters, never in seconds, so that a template that passes once passes everywhere.

What may be used is listed, not what may not: filters, tests, methods by type, statements.
https://jinja.palletsprojects.com/en/stable/sandbox/
"""

from __future__ import annotations

import functools
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import orjson
from jinja2 import Environment, StrictUndefined, Undefined, nodes, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_TEXT = 1 << 20
"""Characters of a text that a template makes: its output, or any value on the way there."""
MAX_NODES = 1_000_000
"""Values inside a value that a template makes."""
MAX_BITS = 10_000
"""Size of a whole number."""
WORK = 20_000_000
"""Steps and characters that one rendering may cost: far beyond any prompt, and seconds at most."""
_STEP = 20

_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        ["capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper"]
    ),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
    float: frozenset({"is_integer"}),
    LoopContext: frozenset(
        ["changed", "cycle", "depth", "depth0", "first", "index", "index0", "last", "length", "nextitem", "previtem", "revindex", "revindex0"]
    ),
}
_TESTS = frozenset(
    ["!=", "<", "<=", "==", ">", ">=", "boolean", "defined", "divisibleby", "eq", "equalto", "even", "false", "float", "ge", "greaterthan", "gt", "in", "integer", "iterable", "le", "lessthan", "lower", "lt", "mapping", "ne", "none", "number", "odd", "sameas", "sequence", "string", "true", "undefined", "upper"]
)
_FILTERS = frozenset(
    ["abs", "batch", "capitalize", "count", "d", "default", "dictsort", "filesizeformat", "first", "float", "groupby", "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "select", "selectattr", "slice", "sort", "title", "trim", "truncate", "unique", "upper", "urlencode", "wordcount"]
)
"""Jinja2's own that need no other bound than the size of what goes in."""

_STATEMENTS = (
    (nodes.Include, "include"),
    (nodes.Import, "import"),
    (nodes.FromImport, "import"),
    (nodes.Extends, "extends"),
    (nodes.Block, "block"),
    (nodes.Macro, "macro"),
    (nodes.CallBlock, "call"),
    (nodes.FilterBlock, "filter"),
    (nodes.AssignBlock, "set … endset"),
    (nodes.ScopedEvalContextModifier, "autoescape"),
)

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
        _bounded(value)
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


def _bounded(value: Result) -> Result:
    """A value that the template made, if it is not too large."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise SecurityError(f"the template makes a text of over {MAX_TEXT:,} characters")
        charge(len(value) // 16)
    elif isinstance(value, dict | list | tuple):
        charge(measure(value))
    elif type(value) is int and value.bit_length() > MAX_BITS:
        raise SecurityError("the template makes a number that is too large")
    return value


def _expect(size: float, what: str = "a text") -> None:
    """Refuse to make something of `size` characters before it is made."""
    if size > MAX_TEXT:
        raise SecurityError(f"the template makes {what} that is too large")


def _steps(iterable: Iterable[Result], cost: int) -> Iterator[Result]:
    for value in iterable:
        charge(cost)
        yield value


@pass_environment
def _method(environment: Environment, value: object, name: str) -> object:
    return getattr(value, name) if isinstance(value, dict) else environment.getattr(value, name)


def _measured(value: Result) -> Result:
    charge(measure(value))
    return value


@pass_environment
def _join_filter(
    environment: Environment, values: Iterable[object], d: str = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    return _join(values, d)


def _join(values: Iterable[object], d: object = "") -> str:
    texts, size = [], 0
    separator = text_of(d)
    for value in values:
        text = text_of(value)
        size += len(text) + len(separator)
        _expect(size)
        charge(1 + len(text) // 16)
        texts.append(text)
    return separator.join(texts)


def _replace(text: object, old: str, new: str, count: int = -1) -> str:
    text, old, new = text_of(text), text_of(old), text_of(new)
    found = text.count(old)
    _expect(len(text) + (found if count < 0 else min(found, count)) * max(0, len(new) - len(old)))
    return text.replace(old, new, count)


def _indent(text: object, width: int | str = 4, first: bool = False, blank: bool = False) -> str:  # noqa: FBT001, FBT002 - Jinja2's own
    lines = text_of(text).split("\n")
    margin = width if isinstance(width, str) else " " * min(width, 100)
    _expect(sum(map(len, lines)) + len(lines) * len(margin))
    indented = [margin + line if line or blank else line for line in lines]
    return "\n".join(indented if first else [lines[0], *indented[1:]])


def _center(text: object, width: int = 80) -> str:
    return text_of(text).center(min(width, 1000))


def _format(text: object, *args: object, **kwargs: object) -> str:
    pattern = text_of(text)
    if re.search(r"\*|[0-9]{4}", "".join(re.findall(r"%[^a-zA-Z%]*", pattern))):
        raise SecurityError("|format is used with too wide a field")
    _expect(len(pattern) + 1000 * pattern.count("%") + sum(map(measure, args)) + measure(kwargs))
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
def _sum(
    environment: Environment, values: Iterable[Any], attribute: str | int | None = None, start: float = 0
) -> Any:  # Any: numbers of any type
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    total = start + 0
    for value in values:
        charge(1)
        total = total + (value + 0)
    return total


def _striptags(text: object) -> str:
    plain = text_of(text)
    _expect(len(plain) * 10, "a text without its tags")
    return " ".join(re.sub(r"<!--.*?-->|<[^<>]*>", "", plain, flags=re.DOTALL).split())


_OWN_FILTERS: dict[str, Callable[..., object]] = {
    "center": _center,
    "format": _format,
    "indent": _indent,
    "join": _join_filter,
    "replace": _replace,
    "round": _round,
    "string": text_of,
    "striptags": _striptags,
    "sum": _sum,
    "tojson": _tojson,
}
_INNER_FILTERS: dict[str, Callable[..., object]] = {
    "_steps": _steps,
    "_measured": _measured,
    "_concat": _join,
    "_method": _method,
}
_WIDTHS = frozenset({"batch", "slice", "truncate"})


def _metered(name: str, function: Callable[..., Result]) -> Callable[..., Result]:
    """A filter or test that pays for what goes in and comes out."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Result:  # Any: whatever a template passes
        cost = _STEP
        for value in args[skipped:]:
            cost += measure(value)
        for value in kwargs.values():
            cost += measure(value)
        charge(cost)
        if name in _WIDTHS and any(type(value) is int and value > 10_000 for value in (*args, *kwargs.values())):
            raise SecurityError(f"|{name} is used with too large a number")
        return _bounded(function(*args, **kwargs))

    return metered


class _Missing(StrictUndefined):
    """What stands for a field that is not there; using it is an error, asking whether it is defined is not."""

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return self._undefined_hint
        name = self._undefined_name
        if isinstance(self._undefined_obj, dict):
            known = ", ".join(map(str, list(self._undefined_obj)[:12]))
            return f"there is no {name!r} in an object with {known or 'no fields'}"
        if isinstance(self._undefined_obj, list | tuple):
            return f"there is no entry {name!r} in a list of {len(self._undefined_obj)}"
        if isinstance(self._undefined_obj, str | int | float | type(None)):
            kind = {str: "a text", bool: "true or false", type(None): "null"}.get(type(self._undefined_obj), "a number")
            return f"there is no {name!r} in {kind}"
        return f"the field {name!r} is not there"


def _binop_text(operator: str, left: object, right: object) -> None:
    if operator == "%" and isinstance(left, str):
        raise SecurityError("% does not format text in a prompt; use |format")
    if operator == "*":
        for thing, times in ((left, right), (right, left)):
            if isinstance(thing, str | list | tuple) and isinstance(times, int):
                _expect(measure(thing) * max(times, 0), "a value")
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 1) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_BITS:
            raise SecurityError("the template makes a number that is too large")
    if operator == "+" and isinstance(left, str) and isinstance(right, str):
        _expect(len(left) + len(right))


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """The environment of every prompt."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=_Missing, finalize=text_of, autoescape=False, cache_size=0)
        own = {name: _metered(name, function) for name, function in _OWN_FILTERS.items()}
        builtin = {name: _metered(name, self.filters[name]) for name in _FILTERS}
        self.filters = {**builtin, **own, **_INNER_FILTERS}
        self.tests = {name: _metered(name, self.tests[name]) for name in _TESTS}
        self.globals = {"range": self.globals["range"], "namespace": Namespace}

    @property
    def filter_names(self) -> list[str]:
        """Filters that a template may use."""
        return sorted({*_FILTERS, *_OWN_FILTERS})

    def getattr(self, obj: Any, attribute: str) -> Any:  # Any: Jinja2's own signature
        """`obj.attribute`: of an object its field first, so that data wins over methods."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        if isinstance(obj, Undefined):
            obj._fail_with_undefined_error()
        if attribute in _METHODS.get(type(obj), ()):
            return getattr(obj, attribute)
        if not attribute.startswith("_"):
            if isinstance(obj, Namespace):
                return getattr(obj, attribute, self.undefined(name=attribute))
            if attribute in getattr(obj, "_fields", ()):
                return getattr(obj, attribute)
        if hasattr(obj, attribute):
            return self.unsafe_undefined(obj, attribute)
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:  # Any: Jinja2's own signature
        """`obj[argument]`."""
        try:
            return obj[argument]
        except (TypeError, LookupError):
            if isinstance(argument, str) and not isinstance(obj, dict):
                return self.getattr(obj, argument)
            return self.undefined(obj=obj, name=argument)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:  # Any: Jinja2's own signature
        """What stands for an attribute that a template may not have."""
        kind = {str: "text", dict: "an object", list: "a list"}.get(type(obj), "a value")
        return self.undefined(f"a template may not use {attribute!r} of {kind}", obj=obj, exc=SecurityError)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - Jinja2's own
        """Call a method or one of the few functions."""
        owner = getattr(__obj, "__self__", None)
        charge(_STEP + measure(owner) + sum(map(measure, args)) + sum(map(measure, kwargs.values())))
        if isinstance(owner, str):
            if __obj.__name__ == "replace":
                return _replace(owner, *args, **kwargs)
            if __obj.__name__ == "join":
                return _join(*args, d=owner, **kwargs)
        return _bounded(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # Any: Jinja2's own signature
        """Apply an operator whose result can be large."""
        _binop_text(operator, left, right)
        return _bounded(super().call_binop(context, operator, left, right))


class Rewriter(NodeTransformer):
    """Puts the meters into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja2's own name
        """Each step of a loop costs as much as its body is long."""
        cost = _STEP + sum(1 for part in node.body for _ in part.find_all(nodes.Node))
        node = self._inner(node)
        node.iter = _filter(node.iter, "_steps", nodes.Const(cost))
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802 - Jinja2's own name
        """`order.items()` means the method even where the data has a field `items`."""
        node = self._inner(node)
        if isinstance(node.node, nodes.Getattr) and node.node.attr in _METHODS[dict]:
            node.node = _filter(node.node.node, "_method", nodes.Const(node.node.attr))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja2's own name
        """`a ~ b`."""
        node = self._inner(node)
        return _filter(nodes.Tuple(node.nodes, "load", lineno=node.lineno), "_concat")

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802 - Jinja2's own name
        """`[a, b]`."""
        return _filter(self._inner(node), "_measured")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802 - Jinja2's own name
        """`{'a': b}`."""
        return _filter(self._inner(node), "_measured")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802 - Jinja2's own name
        """`(a, b)`, where it is a value."""
        inner = self._inner(node)
        return _filter(inner, "_measured") if node.ctx == "load" else inner

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802 - Jinja2's own name
        """`a[1:]` copies what it takes."""
        inner = self._inner(node)
        return _filter(inner, "_measured") if isinstance(node.arg, nodes.Slice) else inner

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802 - Jinja2's own name
        """`a in b` looks through b."""
        inner = self._inner(node)
        for operand in inner.ops:
            if operand.op in {"in", "notin"}:
                operand.expr = _filter(operand.expr, "_measured")
        return inner

    def _inner(self, node: Result) -> Result:
        visited: Result = self.generic_visit(node)  # type: ignore[arg-type] # Jinja2 gives nodes back as they came
        return visited


def _filter(node: nodes.Expr, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def refused(tree: nodes.Template) -> tuple[str, int] | None:
    """The first statement that prompts cannot have, and its line."""
    for kind, name in _STATEMENTS:
        for node in tree.find_all(kind):
            return f"{{% {name} %}} cannot be used in a prompt", node.lineno
    for loop in tree.find_all(nodes.For):
        if loop.recursive:
            return "a loop in a prompt cannot be recursive", loop.lineno
    return None
