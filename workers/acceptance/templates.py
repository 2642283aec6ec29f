"""Expressions and templates of rules, in the sandbox of prompts."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import TemplateSyntaxError, nodes

from models.spec import Message
from workers.acceptance.rules import WHOLE_TEXT, Accept, Rule
from workers.prompts import PromptError, PromptTemplate
from workers.sandbox import PromptEnvironment
from workers.schemas import SchemaError, check_schema

OUTPUT = "output"
"""What an expression and a judge's prompt call the answer, beside the fields of the row."""


class RuleError(Exception):
    """A rule cannot be checked as it stands; the message says why, `rule` is its place from 0."""

    def __init__(self, message: str, rule: int) -> None:
        super().__init__(message)
        self.message = message
        self.rule = rule


def expression_template(expression: str) -> PromptTemplate:
    """An expression as a template that is empty where it does not hold.

    Raises:
        PromptError: it is no single expression, or uses what prompts cannot.
    """
    source = f"{{% if ({expression}) %}}true{{% endif %}}"
    try:
        tree = PromptEnvironment().parse(source)
    except TemplateSyntaxError:
        tree = None  # what is wrong, the template says below
    if tree is not None and [type(part) for part in tree.body] != [nodes.If]:
        raise PromptError(f"{expression!r} is not one expression")
    return PromptTemplate((Message("user", source),))


def check_rules(accept: Accept, *, structured: bool) -> dict[str, int]:
    """Check all that can be told of rules without rows; the fields of the row that they name, each with its rule.

    Args:
        accept: The rules.
        structured: Whether the outputs are objects.

    Raises:
        RuleError: a rule cannot be checked.
    """
    fields: dict[str, int] = {}
    for place, rule in enumerate(accept.rules):
        try:
            for field in _check_rule(rule, structured=structured) - {OUTPUT}:
                fields.setdefault(field, place)
        except PromptError as error:
            raise RuleError(error.message, place) from error
        except SchemaError as error:
            raise RuleError(f"schema: {error}", place) from error
    return fields


def _check_rule(rule: Rule, *, structured: bool) -> frozenset[str]:
    """The fields of the row that a rule names."""
    if structured and rule.field is None and rule.kind in WHOLE_TEXT:
        raise PromptError(f"{rule.kind} is about one text, and the output is an object; name a field of it")
    if not structured and rule.field is not None:
        raise PromptError(f"field is {rule.field!r}, and the output is a text; give the job a schema, or leave it out")
    if rule.regex is not None:
        _check_regex(rule.regex)
    if rule.output_schema is not None:
        check_schema(rule.output_schema)
    if rule.expression is not None:
        return expression_template(rule.expression).fields
    if rule.judge is not None:
        fields = PromptTemplate((Message("user", rule.judge.prompt),)).fields
        if OUTPUT not in fields:
            raise PromptError(f"the judge's prompt does not show what is judged; it has to hold {{{{ {OUTPUT} }}}}")
        return fields
    if rule.required is not None:
        return PromptTemplate([Message("user", text) for text in rule.required]).fields
    return frozenset() if rule.numbers in {None, "row"} else frozenset(rule.numbers or ())


def _check_regex(pattern: str) -> None:
    try:
        pc.match_substring_regex(pa.scalar(""), pattern)
    except pa.ArrowInvalid as error:
        reason = str(error).partition(": ")[2] or str(error)
        raise PromptError(f"{pattern!r} is not a regular expression of RE2: {reason}") from error
