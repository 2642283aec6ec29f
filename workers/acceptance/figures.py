"""What the rules came to: of one item in its record, and of many as figures by rule."""

from __future__ import annotations

import msgspec


class ItemChecks(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a record says of the rules: only where not everything was right at once."""

    tries: int = 1
    """Answers that were made."""
    repaired: bool = False
    """The one that was accepted is the answer to the reasons why the one before was not."""
    rules: dict[str, int] = {}
    """By rule, how many of the answers it rejected."""
    found: dict[str, dict[str, int]] = {}
    """Of rules that redact or note: what was found in the answer, by kind."""
    scores: dict[str, int] = {}
    """Of judges: what they gave the answer."""


class RuleFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one rule came to over many items."""

    rejected: int = 0
    """Answers that it rejected."""
    mended: int = 0
    """Items of which it rejected an answer, and another was accepted."""
    failed: int = 0
    """Items of which it rejected an answer, and none was accepted."""
    found: int = 0
    """Of a rule that redacts or notes: items in which it found something."""

    def __add__(self, other: RuleFigures) -> RuleFigures:
        return RuleFigures(
            self.rejected + other.rejected,
            self.mended + other.mended,
            self.failed + other.failed,
            self.found + other.found,
        )


class CheckFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the rules of a job came to over many items."""

    again: int = 0
    """Answers beyond the first of each item."""
    repaired: int = 0
    """Items whose accepted answer is one that was asked for with the reasons."""
    rules: dict[str, RuleFigures] = {}
    """By rule; one that found nothing wrong is left out."""

    def __add__(self, other: CheckFigures) -> CheckFigures:
        names = {**self.rules, **other.rules}
        none = RuleFigures()
        return CheckFigures(
            self.again + other.again,
            self.repaired + other.repaired,
            {name: self.rules.get(name, none) + other.rules.get(name, none) for name in names},
        )


def both(first: CheckFigures | None, second: CheckFigures | None) -> CheckFigures | None:
    """Two figures added up, where there are any."""
    return second if first is None else first if second is None else first + second


class FigureSum:
    """Adds items up."""

    def __init__(self) -> None:
        self._again = self._repaired = 0
        self._rules: dict[str, list[int]] = {}

    def add(self, checks: ItemChecks, *, ok: bool) -> None:
        """Add an item."""
        self._again += checks.tries - 1
        self._repaired += checks.repaired
        for name, rejected in checks.rules.items():
            rule = self._rules.setdefault(name, [0, 0, 0, 0])
            rule[0] += rejected
            rule[1 if ok else 2] += 1
        for name in checks.found:
            self._rules.setdefault(name, [0, 0, 0, 0])[3] += 1

    @property
    def figures(self) -> CheckFigures | None:
        """The sum; None where there is nothing to say."""
        if not self._again and not self._rules:
            return None
        rules = {name: RuleFigures(*values) for name, values in sorted(self._rules.items())}
        return CheckFigures(self._again, self._repaired, rules)
