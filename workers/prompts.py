"""Prompts: sandboxed Jinja2 templates over a row."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from models.spec import Message
from workers.contracts import Row


class PromptError(Exception):
    """A template cannot be compiled, or not be rendered over a row."""

    def __init__(self, message: str, field: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.line = line


class PromptTemplate:
    """The messages of an item as templates, compiled once and rendered once a row."""

    def __init__(self, messages: Sequence[Message]) -> None:
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
        self.fields: frozenset[str] = frozenset()
        self._parts = []
        for message in messages:
            try:
                tree = environment.parse(message.content)
                self._parts.append((message.role, environment.from_string(tree)))
            except TemplateSyntaxError as error:
                raise PromptError(error.message or "syntax error", line=error.lineno) from error
            self.fields |= meta.find_undeclared_variables(tree)

    def render(self, row: Row) -> tuple[Message, ...]:
        """The messages over a row.

        Raises:
            PromptError: the row lacks a field, or the template does what it must not.
        """
        try:
            return tuple(Message(role, template.render(row)) for role, template in self._parts)
        except TemplateError as error:
            raise PromptError(str(error)) from error
