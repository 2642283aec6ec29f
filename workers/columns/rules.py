"""What the rows of a dataset must hold to, seen column by column: the seam between a plan and the rules of `accept`."""

from __future__ import annotations

from typing import Protocol

import msgspec

from workers.contracts import Row


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """A rule that a value does not hold to."""

    rule: str
    """Its name."""
    reason: str
    """What the rule saw, in words that a model can act on; nothing in it is anybody's data."""


class RowRules(Protocol):
    """The rules of a job."""

    repairs: int
    """How often a column is asked again, with the reasons, in one draw of its row."""
    draws: int
    """How often a row is drawn anew."""

    def of_column(self, column: str, row: Row) -> tuple[Rejection, ...]:
        """What a column's value breaks, as soon as it is there; the row holds it and all that stands before it."""
        ...

    def of_row(self, row: Row, output: Row) -> tuple[Rejection, ...]:
        """What a whole row breaks, of the rules that are about no one column."""
        ...


class NoRules:
    """Accepts everything."""

    repairs = 0
    draws = 0

    def of_column(self, column: str, row: Row) -> tuple[Rejection, ...]:
        """Nothing."""
        del column, row
        return ()

    def of_row(self, row: Row, output: Row) -> tuple[Rejection, ...]:
        """Nothing."""
        del row, output
        return ()
