"""Prompts: Jinja2 templates over a row, compiled once a job and rendered once an item."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, TypeAlias

from jinja2 import Template, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError

from models.spec import Message, Role
from workers.contracts import Row
from workers.sandbox import PromptEnvironment, Rewriter, refused
from workers.template_budget import MAX_TEXT, start_budget, text_of

MAX_SOURCE = 256 << 10
"""Characters of a template."""
_ROW = "row"
FAULTS = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What an expression over JSON values can raise, Jinja2's own errors first."""
_Renderer: TypeAlias = Callable[[Row], str]


class PromptError(Exception):
    """A template cannot be compiled, or cannot be rendered over a row.

    Attributes:
        message: What is wrong.
        field: The field that the row lacks, where that is the reason.
        line: The line of the template, from 1, where it is known.
        part: Which of the messages it is, from 0.
    """

    def __init__(self, message: str, field: str | None = None, line: int | None = None, part: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.line = line
        self.part = part


class PromptTemplate:
    """The messages of an item as templates.

    Attributes:
        fields: Names that the templates look up in a row. A row may lack some where the template asks first
            (`default`, `is defined`).
        plain: Every expression is the bare name of a field: a row that has the fields renders, if it is not too long.
        expressions: How many expressions the templates hold.

    Raises:
        PromptError: a template has a syntax error, or uses what prompts cannot.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        environment = PromptEnvironment()
        parts = [_compile(environment, message, part) for part, message in enumerate(messages)]
        self.fields: frozenset[str] = frozenset().union(*(part.fields for part in parts))
        self.plain = all(part.plain for part in parts)
        self.expressions = sum(part.expressions for part in parts)
        self.characters = sum(len(message.content) for message in messages)
        self._parts: list[tuple[Role, _Renderer]] = [(part.role, part.render) for part in parts]
        self._single = self._parts[0] if len(self._parts) == 1 else None

    def render(self, row: Row) -> tuple[Message, ...]:
        """The messages over a row.

        Raises:
            PromptError: the row lacks a field, or the template fails over it or asks for too much.
        """
        if self._single is not None:
            role, render = self._single
            return (Message(role, render(row)),)
        return tuple([Message(role, render(row)) for role, render in self._parts])


class _Part:
    """One template, compiled."""

    def __init__(self, role: Role, part: int) -> None:
        self.role: Role = role
        self.part = part
        self.fields: frozenset[str] = frozenset()
        self.plain = False
        self.expressions = 0
        self.render: _Renderer = _nothing


class _Literal(_Part):
    """A template without any expression."""

    def __init__(self, role: Role, part: int, text: str) -> None:
        super().__init__(role, part)
        self.plain = True
        self.render = lambda _row: text


class _Plain(_Part):
    """Text with bare names of fields in it: as most prompts are, and ten times as fast without Jinja2."""

    def __init__(self, role: Role, part: int, pieces: list[str], names: list[str], lines: list[int]) -> None:
        super().__init__(role, part)
        self.plain = True
        self.fields = frozenset(names)
        self.expressions = len(names)
        self._names = names
        self._lines = lines
        self._form = "%s".join(piece.replace("%", "%%") for piece in pieces)
        self._get: Callable[[Row], Any] = itemgetter(*names)  # Any: a field's value is any JSON
        self.render = self._render_one if len(names) == 1 else self._render_several

    def _render_one(self, row: Row) -> str:
        try:
            value = self._get(row)
        except KeyError:
            raise self._missing(row) from None
        return self._checked(self._form % ((value if type(value) is str else self._text(value, 0)),))

    def _render_several(self, row: Row) -> str:
        try:
            values = self._get(row)
        except KeyError:
            raise self._missing(row) from None
        for value in values:
            if type(value) is not str:
                values = tuple([self._text(value, at) for at, value in enumerate(values)])
                break
        return self._checked(self._form % values)

    def _text(self, value: object, at: int) -> str:
        start_budget()
        try:
            return text_of(value)
        except FAULTS as error:
            raise PromptError(f"{self._names[at]}: {error}", line=self._lines[at], part=self.part) from error

    def _checked(self, text: str) -> str:
        if len(text) > MAX_TEXT:
            raise PromptError(f"the prompt is over {MAX_TEXT:,} characters", part=self.part)
        return text

    def _missing(self, row: Row) -> PromptError:
        at = next(at for at, name in enumerate(self._names) if name not in row)
        name = self._names[at]
        return PromptError(missing_text(name, row), field=name, line=self._lines[at], part=self.part)


class _Full(_Part):
    """Any other template: Jinja2 renders it, piece by piece, so that it can be stopped."""

    def __init__(self, role: Role, part: int, template: Template, fields: frozenset[str], expressions: int) -> None:
        super().__init__(role, part)
        self.fields = fields - {_ROW}
        self.expressions = expressions
        self._with_row = _ROW in fields
        self._template = template
        self._render_pieces = template.root_render_func
        self.render = self._render

    def _render(self, row: Row) -> str:
        start_budget()
        template = self._template
        variables = {_ROW: row, **row} if self._with_row else row
        context = template.environment.context_class(
            template.environment, {**template.globals, **variables}, template.name, template.blocks
        )
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._render_pieces(context):
                size += len(piece)
                if size > MAX_TEXT:
                    raise SecurityError(f"the prompt is over {MAX_TEXT:,} characters")
                pieces.append(piece)
        except FAULTS as error:
            raise self._explained(error, row) from error
        return "".join(pieces)

    def _explained(self, error: Exception, row: Row) -> PromptError:
        line = _template_line(error, self._template)
        missing = next((name for name in sorted(self.fields) if name not in row and repr(name) in str(error)), None)
        if isinstance(error, UndefinedError) and missing is not None:
            return PromptError(missing_text(missing, row), field=missing, line=line, part=self.part)
        if isinstance(error, RecursionError | MemoryError):
            return PromptError("the template is nested too deeply", line=line, part=self.part)
        return PromptError(str(error), line=line, part=self.part)


def _nothing(_row: Row) -> str:
    return ""


def _compile(environment: PromptEnvironment, message: Message, part: int) -> _Part:
    source = message.content
    if len(source) > MAX_SOURCE:
        raise PromptError(f"the template is over {MAX_SOURCE:,} characters", part=part)
    start_budget()
    try:
        tree = environment.parse(source)
        problem = refused(tree)
        if problem is not None:
            raise PromptError(problem[0], line=problem[1], part=part)
        check_names(environment, tree, part)
        found = meta.find_undeclared_variables(tree)
        simple = _as_plain(tree, found)
        if simple is not None:
            pieces, names, lines = simple
            return (
                _Plain(message.role, part, pieces, names, lines) if names else _Literal(message.role, part, pieces[0])
            )
        fields = (frozenset(found) - set(environment.globals)) | row_fields(tree, found)
        expressions = sum(1 for _ in tree.find_all(nodes.Expr))
        tree = Rewriter().visit(tree)
        template = environment.from_string(tree.set_environment(environment))
    except TemplateSyntaxError as error:
        raise PromptError(syntax_text(error, source), line=error.lineno, part=part) from error
    except (RecursionError, MemoryError, SyntaxError, ValueError) as error:
        # Python compiles what Jinja2 generates: an absurdly nested template fails there.
        raise PromptError("the template is nested too deeply, or holds too large a number", part=part) from error
    return _Full(message.role, part, template, fields, expressions)


def check_names(environment: PromptEnvironment, tree: nodes.Template, part: int) -> None:
    """Raise PromptError where a template names a filter or a test that there is not."""
    for kind, mark, known in (
        (nodes.Filter, "filter", environment.filter_names),
        (nodes.Test, "test", sorted(environment.tests)),
    ):
        for node in tree.find_all(kind):
            if node.name not in known:
                close = difflib.get_close_matches(node.name, known, n=1)
                right = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(known)}"
                raise PromptError(f"there is no {mark} {node.name!r} in prompts; {right}", line=node.lineno, part=part)


def _as_plain(tree: nodes.Template, undeclared: set[str]) -> tuple[list[str], list[str], list[int]] | None:
    """Literal pieces around names, and the names, where a template is nothing else."""
    pieces, names, lines = [""], [], []
    for statement in tree.body:
        if not isinstance(statement, nodes.Output):
            return None
        for node in statement.nodes:
            if isinstance(node, nodes.TemplateData):
                pieces[-1] += node.data
                continue
            name = node.name if isinstance(node, nodes.Name) else _row_field(node)
            if (
                name is None
                or name in {_ROW, "range", "namespace", "loop"}
                or (name not in undeclared and not _row_field(node))
            ):
                return None
            names.append(name)
            lines.append(node.lineno)
            pieces.append("")
    return pieces, names, lines


def row_fields(tree: nodes.Template, undeclared: set[str]) -> frozenset[str]:
    """Fields that are named as `row.name` or `row["a name"]`."""
    if _ROW not in undeclared:
        return frozenset()
    found = (_row_field(node) for node in tree.find_all((nodes.Getitem, nodes.Getattr)))
    return frozenset(name for name in found if name is not None)


def _row_field(node: nodes.Node) -> str | None:
    if isinstance(node, nodes.Getitem | nodes.Getattr) and isinstance(node.node, nodes.Name) and node.node.name == _ROW:
        if isinstance(node, nodes.Getattr):
            return None if node.attr in {"get", "items", "keys", "values"} else node.attr
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            return node.arg.value
    return None


def missing_text(name: str, row: Row) -> str:
    """That a row has no field of a name, and which one was meant."""
    close = difflib.get_close_matches(name, [str(known) for known in row], n=1)
    if close:
        return f"there is no field {name!r}; did you mean {close[0]!r}?"
    known = ", ".join(list(row)[:12]) + (", …" if len(row) > 12 else "")
    return f"there is no field {name!r}; there is {known or 'none at all'}"


def syntax_text(error: TemplateSyntaxError, source: str) -> str:
    """What is wrong with a template, with the line that it is in."""
    text = (error.message or "syntax error").rstrip(".")
    lines = source.splitlines()
    excerpt = lines[error.lineno - 1].strip() if 0 < error.lineno <= len(lines) else ""
    shown = excerpt if len(excerpt) <= 80 else excerpt[:77] + "…"
    hint = ""
    if "expected token 'end of print statement', got" in text:
        hint = '; a field whose name is not one word is written {{ row["its name"] }}'
    return f"{text}{hint}, in: {shown}" if shown else f"{text}{hint}"


def _template_line(error: BaseException, template: Template) -> int | None:
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line
