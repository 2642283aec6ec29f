"""What every row of a table must be like, as a job file says it. Imports nothing heavy, for whoever only checks jobs.

A missing value neither meets nor breaks a rule, as with SQL's CHECK and UNIQUE: a rule whose outcome is unknown
accepts the row, and rows that lack a value of a unique key are not compared. Where a value has to be there,
`price IS NOT NULL` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=300)]
Scalar: TypeAlias = bool | int | float | str
LONGEST_EXPRESSION = 2000


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Columns: TypeAlias = Annotated[tuple[Name, ...], BeforeValidator(_as_list), Field(min_length=1, max_length=32)]
"""One column, or several that count together."""


class RangeRule(BaseModel):
    """A column's values lie between two, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    column: Name
    min: int | float | str | None = None
    max: int | float | str | None = None
    """Numbers; of dates, `2026-01-31` or `2026-01-31 12:00:00`."""

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a range needs min, max or both")
        return self


class RegexRule(BaseModel):
    """Part of a column's text matches a pattern (RE2); `^` and `$` bind it to the whole."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    column: Name
    pattern: Annotated[str, Field(min_length=1, max_length=1000)]


class InRule(BaseModel):
    """A column's values are among these."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    column: Name
    values: Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=10_000)]


class RowRule(BaseModel):
    """What a row meets or breaks alone: one of four kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: Name | None = None
    """By which figures tell it; of its own where none is given."""
    expression: Annotated[str, Field(min_length=1, max_length=LONGEST_EXPRESSION)] | None = None
    """SQL over the row's columns, true or false: `age BETWEEN 18 AND 90`."""
    range: RangeRule | None = None
    regex: RegexRule | None = None
    within: Annotated[InRule | None, Field(alias="in")] = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: object) -> object:
        return {"expression": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        given = [kind for kind in (self.expression, self.range, self.regex, self.within) if kind is not None]
        if len(given) != 1:
            raise ValueError(f"a rule is one of expression, range, regex and in; this one is {len(given)} of them")
        return self

    @property
    def label(self) -> str:
        """Its name, or what it says."""
        if self.name is not None:
            return self.name
        if self.range is not None:
            low, high = ("" if end is None else end for end in (self.range.min, self.range.max))
            return f"{self.range.column} in {low}..{high}"
        if self.regex is not None:
            return f"{self.regex.column} matches {self.regex.pattern}"
        if self.within is not None:
            return f"{self.within.column} in a list of {len(self.within.values)}"
        return " ".join((self.expression or "").split())

    @property
    def column(self) -> str | None:
        """The one column it is about; None of an expression."""
        one = self.range or self.regex or self.within
        return None if one is None else one.column


class Dependency(BaseModel):
    """Rows that are equal in some columns are equal in others, too: a functional dependency."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    determinant: Annotated[Columns, Field(alias="from")]
    dependent: Annotated[Columns, Field(alias="to")]

    @model_validator(mode="after")
    def _is_no_circle(self) -> Self:
        both = set(self.determinant) & set(self.dependent)
        if both:
            raise ValueError(f"{min(both)!r} is in from and in to; a column depends on itself anyhow")
        return self

    @property
    def label(self) -> str:
        """`zip → city`."""
        return f"{', '.join(self.determinant)} → {', '.join(self.dependent)}"


class TableRules(BaseModel):
    """What holds for every accepted row, and for all of them together."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rules: Annotated[tuple[RowRule, ...], Field(max_length=200)] = ()
    unique: Annotated[tuple[Columns, ...], Field(max_length=32)] = ()
    """Columns, or lists of columns, whose values no two rows share."""
    dependencies: Annotated[tuple[Dependency, ...], Field(max_length=32)] = ()

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        seen: set[str] = set()
        for label in self.labels:
            if label in seen:
                raise ValueError(f"two rules are called {label!r}; give one of them another name, or leave it out")
            seen.add(label)
        return self

    @property
    def row_labels(self) -> tuple[str, ...]:
        """Of the rules that a row meets or breaks alone."""
        return tuple(rule.label for rule in self.rules)

    @property
    def global_labels(self) -> tuple[str, ...]:
        """Of the rules over all rows: uniqueness first, then dependencies."""
        return (
            *(f"unique {', '.join(columns)}" for columns in self.unique),
            *(dependency.label for dependency in self.dependencies),
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Of all rules, in order: what figures are told by."""
        return (*self.row_labels, *self.global_labels)

    @property
    def named_columns(self) -> Mapping[str, str]:
        """Columns that rules name outside of expressions, and the label of the first rule that does."""
        named: dict[str, str] = {}
        for rule in self.rules:
            if rule.column is not None:
                named.setdefault(rule.column, rule.label)
        keys = [*self.unique, *((*each.determinant, *each.dependent) for each in self.dependencies)]
        for label, columns in zip(self.global_labels, keys, strict=True):
            for column in columns:
                named.setdefault(column, label)
        return named
