"""The rules as a job states them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

Text = Annotated[str, Field(min_length=1)]
MAX_RULES = 100


class Range(BaseModel):
    """A number or a date within bounds, which are within themselves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: Text
    min: float | str | None = None
    max: float | str | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("needs min or max")
        return self


class Pattern(BaseModel):
    """A text that a regular expression (RE2) matches whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: Text
    pattern: Text


class OneOf(BaseModel):
    """A value that is one of some."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: Text
    values: Annotated[list[JsonValue], Field(min_length=1)]


class TableRule(BaseModel):
    """A rule that a row fulfils or breaks by itself. A missing value breaks none but those that ask for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: Text | None = None
    """In figures and messages; by default the rule itself."""
    expression: Text | None = None
    """SQL over the columns, true where the row fulfils it."""
    range: Range | None = None
    regex: Pattern | None = None
    one_of: Annotated[OneOf | None, Field(alias="in")] = None

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, data: object) -> object:
        return {"expression": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(each is not None for each in (self.expression, self.range, self.regex, self.one_of)) != 1:
            raise ValueError("is one of an SQL expression, range, regex and in")
        return self

    @property
    def shown(self) -> str:
        """How figures and messages call it."""
        if self.name is not None:
            return self.name
        if self.range is not None:
            lower, upper = ("" if bound is None else bound for bound in (self.range.min, self.range.max))
            return f"{self.range.column} in {lower}..{upper}"
        if self.regex is not None:
            return f"{self.regex.column} like {self.regex.pattern}"
        if self.one_of is not None:
            return f"{self.one_of.column} in a list of {len(self.one_of.values)}"
        return self.expression or ""

    @property
    def sql(self) -> str:
        """The rule as an SQL expression over the columns."""
        if self.range is not None:
            column = quoted(self.range.column)
            lower = None if self.range.min is None else f"{column} >= {literal(self.range.min)}"
            upper = None if self.range.max is None else f"{column} <= {literal(self.range.max)}"
            return " AND ".join(bound for bound in (lower, upper) if bound is not None)
        if self.regex is not None:
            return f"regexp_full_match({quoted(self.regex.column)}, {literal(self.regex.pattern)})"
        if self.one_of is not None:
            return f"{quoted(self.one_of.column)} IN ({', '.join(map(literal, self.one_of.values))})"
        return self.expression or "true"


class Dependency(BaseModel):
    """Columns that determine others: rows equal in the first are equal in the second."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    of: Annotated[tuple[Text, ...], Field(alias="from", min_length=1)]
    to: Annotated[tuple[Text, ...], Field(min_length=1)]

    @field_validator("of", "to", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @property
    def shown(self) -> str:
        """How figures and messages call it."""
        return f"{', '.join(self.of)} determines {', '.join(self.to)}"


class TableRules(BaseModel):
    """What every row of a table, and all of them together, must fulfil."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: Annotated[tuple[TableRule, ...], Field(max_length=MAX_RULES)] = ()
    unique: Annotated[tuple[tuple[Text, ...], ...], Field(max_length=MAX_RULES)] = ()
    """Columns, or groups of columns, of which no two rows have the same values. Missing ones are not compared."""
    dependencies: Annotated[tuple[Dependency, ...], Field(max_length=MAX_RULES)] = ()

    @field_validator("unique", mode="before")
    @classmethod
    def _groups(cls, value: object) -> object:
        if isinstance(value, str):
            return [[value]]
        return (
            [[each] if isinstance(each, str) else each for each in value] if isinstance(value, list | tuple) else value
        )

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two rules are called {name!r}; give one of them another name")
        return self

    @property
    def names(self) -> list[str]:
        """What figures call the rules."""
        return [
            *(rule.shown for rule in self.rules),
            *(unique_name(columns) for columns in self.unique),
            *(dependency.shown for dependency in self.dependencies),
        ]

    @property
    def over_all(self) -> bool:
        """Whether some can only be judged over all rows."""
        return bool(self.unique or self.dependencies)


def unique_name(columns: Sequence[str]) -> str:
    """What figures call a rule of uniqueness."""
    return f"{', '.join(columns)} unique"


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: object) -> str:
    """A value in SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return "'" + str(value).replace("'", "''") + "'"
