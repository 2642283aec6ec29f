# ruff: noqa: ANN401 - values of a template are of any type, and Jinja2's own signatures say so
"""Jinja2 for strangers: what a prompt's template may use.

Jinja2's own sandbox keeps a template away from Python's internals. This one also bounds its work, since rendering
happens in processes that serve other jobs: every loop step, filter, concatenation and literal is charged to a budget
(`workers.template_budget`). What may be used is listed, not what may not: filters, tests, methods by type, statements.
https://jinja.palletsprojects.com/en/stable/sandbox/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

from jinja2 import Environment, StrictUndefined, Undefined, nodes, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from workers.template_budget import MAX_BITS, STEP, bounded, charge, expect, measure, text_of
from workers.template_filters import BUILTIN_FILTERS, OWN_FILTERS, join_texts, metered_filter, replace_text

Result = TypeVar("Result")
SomeNode = TypeVar("SomeNode", bound=nodes.Node)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        {"capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii"}
        | {"isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle"}
        | {"isupper", "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace"}
        | {"rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip"}
        | {"swapcase", "title", "upper"}
    ),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
    float: frozenset({"is_integer"}),
    LoopContext: frozenset(
        {"changed", "cycle", "depth", "depth0", "first", "index", "index0", "last", "length", "nextitem"}
        | {"previtem", "revindex", "revindex0"}
    ),
}
_TESTS = frozenset(
    {"!=", "<", "<=", "==", ">", ">=", "boolean", "defined", "divisibleby", "eq", "equalto", "even"}
    | {"false", "float", "ge", "greaterthan", "gt", "in", "integer", "iterable", "le", "lessthan", "lower"}
    | {"lt", "mapping", "ne", "none", "number", "odd", "sameas", "sequence", "string", "true", "undefined"}
    | {"upper"}
)

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


INNER_FILTERS: dict[str, Callable[..., object]] = {
    "_steps": _steps,
    "_measured": _measured,
    "_concat": join_texts,
    "_method": _method,
}


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
                expect(measure(thing) * max(times, 0), "a value")
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 1) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_BITS:
            raise SecurityError("the template makes a number that is too large")
    if operator == "+" and isinstance(left, str) and isinstance(right, str):
        expect(len(left) + len(right))


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """The environment of every prompt."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=_Missing, finalize=text_of, autoescape=False, cache_size=0)
        own = {name: metered_filter(name, function) for name, function in OWN_FILTERS.items()}
        known = cast("dict[str, Callable[..., object]]", self.filters)
        builtin = {name: metered_filter(name, known[name]) for name in BUILTIN_FILTERS}
        tests = cast("dict[str, Callable[..., object]]", self.tests)
        self.filters = {**builtin, **own, **INNER_FILTERS}
        self.tests = {name: metered_filter(name, tests[name]) for name in _TESTS}
        self.globals = {"range": self.globals["range"], "namespace": Namespace}

    @property
    def filter_names(self) -> list[str]:
        """Filters that a template may use."""
        return sorted({*BUILTIN_FILTERS, *OWN_FILTERS})

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute`: of an object its field first, so that data wins over methods."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        if isinstance(obj, Undefined):
            obj._fail_with_undefined_error()  # Undefined's own way to raise what it stands for
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

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`."""
        try:
            return obj[argument]
        except (TypeError, LookupError):
            if isinstance(argument, str) and not isinstance(obj, dict):
                return self.getattr(obj, argument)
            return self.undefined(obj=obj, name=argument)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """What stands for an attribute that a template may not have."""
        kind = "text" if isinstance(obj, str) else "an object" if isinstance(obj, dict) else "a value"
        return self.undefined(f"a template may not use {attribute!r} of {kind}", obj=obj, exc=SecurityError)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805, PYI063 - Jinja2's
        """Call a method or one of the few functions."""
        owner = getattr(__obj, "__self__", None)
        charge(STEP + measure(owner) + sum(map(measure, args)) + sum(map(measure, kwargs.values())))
        if isinstance(owner, str):
            if __obj.__name__ == "replace":
                return replace_text(owner, *args, **kwargs)
            if __obj.__name__ == "join":
                return join_texts(args[0] if args else (), owner)
        return bounded(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator whose result can be large."""
        _binop_text(operator, left, right)
        return bounded(super().call_binop(context, operator, left, right))


class Rewriter(NodeTransformer):
    """Puts the meters into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - Jinja2's own name
        """Each step of a loop costs as much as its body is long."""
        cost = STEP + sum(1 for part in node.body for _ in part.find_all(nodes.Node))
        node = self._inner(node)
        node.iter = _filter(cast("nodes.Expr", node.iter), "_steps", nodes.Const(cost))
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Call:  # noqa: N802 - Jinja2's own name
        """`order.items()` means the method even where the data has a field `items`."""
        node = self._inner(node)
        called = node.node
        if isinstance(called, nodes.Getattr) and called.attr in _METHODS[dict]:
            node.node = _filter(called.node, "_method", nodes.Const(called.attr))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802 - Jinja2's own name
        """`a ~ b`."""
        node = self._inner(node)
        return _filter(nodes.Tuple(node.nodes, "load", lineno=node.lineno), "_concat")

    def visit_List(self, node: nodes.List) -> nodes.Expr:  # noqa: N802 - Jinja2's own name
        """`[a, b]`."""
        return _filter(self._inner(node), "_measured")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:  # noqa: N802 - Jinja2's own name
        """`{'a': b}`."""
        return _filter(self._inner(node), "_measured")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802 - Jinja2's own name
        """`(a, b)`, where it is a value."""
        inner = self._inner(node)
        return _filter(inner, "_measured") if node.ctx == "load" else inner

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802 - Jinja2's own name
        """`a[1:]` copies what it takes."""
        inner = self._inner(node)
        return _filter(inner, "_measured") if isinstance(node.arg, nodes.Slice) else inner

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:  # noqa: N802 - Jinja2's own name
        """`a in b` looks through b."""
        inner = self._inner(node)
        for operand in inner.ops:
            if operand.op in {"in", "notin"}:
                operand.expr = _filter(operand.expr, "_measured")
        return inner

    def _inner(self, node: SomeNode) -> SomeNode:
        self.generic_visit(node)
        return node


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
