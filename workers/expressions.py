"""Expressions: one Jinja2 expression over a row, whose value stays what it is: a number a number, a list a list.

They are limited and metered as prompts are (`workers.sandbox`).
"""

from __future__ import annotations

from jinja2 import TemplateSyntaxError, Undefined, meta, nodes
from jinja2.parser import Parser
from pydantic import JsonValue

from workers.contracts import Row
from workers.prompts import FAULTS, MAX_SOURCE, PromptError, check_names, missing_text, row_fields, syntax_text
from workers.sandbox import PromptEnvironment, Rewriter
from workers.template_budget import bounded, start_budget

_VALUE = "nightmill_value"
_ROW = "row"


class Expression:
    """One expression, compiled.

    Attributes:
        fields: Names that it looks up in a row.

    Raises:
        PromptError: it is no expression, or uses what expressions cannot.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise PromptError(f"the expression is over {MAX_SOURCE:,} characters")
        if "{{" in source:
            raise PromptError("an expression is written without {{ and }}")
        environment = PromptEnvironment()
        start_budget()
        try:
            parser = Parser(environment, source, state="variable")
            parsed = parser.parse_expression()
            if not parser.stream.eos:
                parser.fail("something follows the expression")
            tree = nodes.Template([nodes.Assign(nodes.Name(_VALUE, "store"), parsed, lineno=1)], lineno=1)
            tree.set_environment(environment)
            check_names(environment, tree, 0)
            found = meta.find_undeclared_variables(tree)
            self.fields = (frozenset(found) - set(environment.globals) - {_ROW}) | row_fields(tree, found)
            self._with_row = _ROW in found
            tree = Rewriter().visit(tree)
            self._template = environment.from_string(tree.set_environment(environment))
        except TemplateSyntaxError as error:
            raise PromptError(syntax_text(error, source), line=error.lineno) from error
        except (RecursionError, MemoryError, SyntaxError, ValueError) as error:
            raise PromptError("the expression is nested too deeply, or holds too large a number") from error

    def value(self, row: Row) -> JsonValue:
        """The expression's value over a row.

        Raises:
            PromptError: the row lacks a field, or the expression fails over it, or its value is no JSON.
        """
        start_budget()
        template = self._template
        variables = {_ROW: row, **row} if self._with_row else row
        context = template.environment.context_class(
            template.environment, {**template.globals, **variables}, template.name, template.blocks
        )
        try:
            for _ in template.root_render_func(context):
                pass  # it writes nothing
            return _json(bounded(context.vars[_VALUE]))
        except FAULTS as error:
            missing = next((name for name in sorted(self.fields) if name not in row and repr(name) in str(error)), None)
            text = str(error) if missing is None else missing_text(missing, row)
            raise PromptError(text, field=missing) from error


def _json(value: object) -> JsonValue:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_json(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): _json(entry) for key, entry in value.items()}
    if isinstance(value, Undefined):
        str(value)  # which raises, and says what is not there
    raise TypeError("the value is neither text, number, list nor object; end a sequence with |list or |join")
