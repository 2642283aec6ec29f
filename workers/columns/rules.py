"""The rules of `accept` over the rows of a dataset: each is looked at as soon as the columns that it needs are there.

A rule about one column, which needs none behind it, is looked at with that column, which can be asked again. Any other
is looked at with the last of the columns that it needs, or with the whole row; then only drawing the row anew helps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from models.text_classifiers import TextClassifiers
from workers.acceptance.checks import Candidate, Checks, Problem
from workers.acceptance.rules import Accept, Rule
from workers.columns.kinds import ColumnSpec
from workers.columns.rule_places import column_of, rule_columns
from workers.contracts import Row


class RowVerdict(msgspec.Struct, frozen=True):
    """What the rules say of a row as far as it is there."""

    values: dict[str, Any] = {}  # any JSON
    """Columns that a rule has redacted, as they are to be kept."""
    problems: tuple[Problem, ...] = ()
    mends: bool = False
    """Whether asking the column again can help: every rule that was broken is about it alone."""
    found: dict[str, dict[str, int]] = {}
    """By rule, what a rule that redacts or notes found, by kind."""


ACCEPTED = RowVerdict()


class RowRules:
    """The rules of a job, made once a shard.

    Args:
        accept: The rules; None accepts everything.
        columns: The plan, in order.
        output: What a row of the dataset has.
        classifiers: Asked by the rules that need one.
    """

    def __init__(
        self,
        accept: Accept | None,
        columns: Mapping[str, ColumnSpec],
        output: Sequence[str],
        classifiers: TextClassifiers,
    ) -> None:
        self.repairs = 0 if accept is None else accept.repairs
        self.draws = 0 if accept is None else accept.draws
        self._output = tuple(output)
        self._checks: dict[str | None, Checks] = {}
        self._about: dict[str, str | None] = {}
        """By rule, the column that it is about."""
        if accept is None:
            return
        order = list(columns)
        named = [rule.model_copy(update={"name": name}) for name, rule in zip(accept.names, accept.rules, strict=True)]
        self._about = {str(rule.name): column_of(rule) for rule in named}
        by_column: dict[str | None, list[Rule]] = {}
        for rule, column in zip(named, rule_columns(accept, order), strict=True):
            by_column.setdefault(column, []).append(rule)
        for column, rules in by_column.items():
            self._checks[column] = Checks(accept.model_copy(update={"rules": tuple(rules)}), classifiers)

    def about(self, column: str) -> bool:
        """Whether there is a rule to look at once a column is there."""
        return column in self._checks

    def of_column(self, column: str, rows: Sequence[Row]) -> list[RowVerdict]:
        """What rows break as soon as a column is there; they hold it, and all that stands before it."""
        checks = self._checks.get(column)
        if checks is None:
            return [ACCEPTED] * len(rows)
        # A number in the column itself proves nothing of where it comes from.
        before = [{name: value for name, value in row.items() if name != column} for row in rows]
        return self._verdicts(checks, column, before, rows)

    def of_row(self, rows: Sequence[Row]) -> list[RowVerdict]:
        """What whole rows break, of the rules that are about no one column."""
        checks = self._checks.get(None)
        if checks is None:
            return [ACCEPTED] * len(rows)
        outputs = [{name: row.get(name) for name in self._output} for row in rows]
        return self._verdicts(checks, None, rows, outputs)

    def _verdicts(
        self, checks: Checks, column: str | None, rows: Sequence[Row], outputs: Sequence[Row]
    ) -> list[RowVerdict]:
        candidates = [Candidate(row, dict(output)) for row, output in zip(rows, outputs, strict=True)]
        return [
            RowVerdict(
                values=_changed(verdict.output, output),
                problems=verdict.problems,
                mends=column is not None and all(self._about[one.rule] == column for one in verdict.problems),
                found=verdict.found,
            )
            for verdict, output in zip(checks(candidates), outputs, strict=True)
        ]


def _changed(after: object, before: Row) -> dict[str, Any]:  # any JSON
    if not isinstance(after, dict):
        raise AssertionError("a rule made something else of a row")  # noqa: TRY004 - no rule does
    return {name: value for name, value in after.items() if before.get(name) != value}
