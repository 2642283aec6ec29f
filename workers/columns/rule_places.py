"""Where in a plan each rule of `accept` is looked at. Light to import: the control plane checks jobs with it."""

from __future__ import annotations

from collections.abc import Sequence

from workers.acceptance.rules import Accept, Rule
from workers.acceptance.templates import check_rules


class RuleUseError(ValueError):
    """A rule cannot be used in a dataset as it stands; the message says why, `rule` is its place from 0."""

    def __init__(self, message: str, rule: int) -> None:
        super().__init__(message)
        self.message = message
        self.rule = rule


def rule_columns(accept: Accept, order: Sequence[str]) -> list[str | None]:
    """By rule, the column with which it is looked at; None of one that is about the whole row.

    Args:
        accept: The rules.
        order: The plan's columns, in order.

    Raises:
        RuleUseError: a rule cannot be used in a dataset.
        RuleError: a rule cannot be checked at all.
    """
    found: list[str | None] = []
    for place, rule in enumerate(accept.rules):
        if rule.judge is not None:
            raise RuleUseError(
                "of a dataset, a judge is a column: columns: {score: {judge: …}}, and the rule "
                '{field: score, expression: "output >= 4"}',
                place,
            )
        if rule.numbers == "row" and rule.field is None:
            raise RuleUseError("numbers needs a field, the column whose numbers must be in the others", place)
        head = column_of(rule)
        if head is None or head not in order:  # about the whole row, or a field of the source
            found.append(None)
            continue
        alone = Accept(rules=(rule,))
        needed = [head, *(name for name in check_rules(alone, structured=True) if name in order)]
        found.append(max(needed, key=order.index))
    return found


def column_of(rule: Rule) -> str | None:
    """The column that a rule is about; None of one that is about the whole row."""
    return None if rule.field is None else rule.field.partition(".")[0]
