"""What a plan says of one column: exactly one of the kinds below.

A `ColumnSpec` is the job file's, the API's and the stored form; on the wire to workers it travels as JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.spec import MAX_TOKENS_LIMIT, JsonSchema, Message, Role
from workers.columns.weighted import Values, Weighted

MAX_BALANCED = 10_000
"""Rows after which a balanced category begins anew."""
JUDGE_TOKENS = 32
"""Enough for `{"score": 5}`, however it is spaced."""
Text = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Number(_Part):
    """A number by its distribution. With `min` and `max`, those beside uniform are cut off there, not piled up."""

    distribution: Literal["uniform", "normal", "lognormal", "exponential"] = "uniform"
    min: float | None = None
    max: float | None = None
    decimals: Annotated[int, Field(ge=0, le=12)] = 0
    """0 makes whole numbers."""
    mean: float | None = None
    """Of normal and exponential."""
    std: Annotated[float, Field(gt=0)] | None = None
    """Of normal."""
    median: Annotated[float, Field(gt=0)] | None = None
    """Of lognormal."""
    sigma: Annotated[float, Field(gt=0)] | None = None
    """Of lognormal: the standard deviation of its logarithm."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        wanted = {"uniform": ("min", "max"), "normal": ("mean", "std"), "lognormal": ("median", "sigma")}
        needed = wanted.get(self.distribution, ("mean",))
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"{name} is missing; a {self.distribution} number needs {' and '.join(needed)}")
        for name in ("mean", "std", "median", "sigma"):
            if name not in needed and getattr(self, name) is not None:
                raise ValueError(f"{name} says nothing of a {self.distribution} number; leave it out")
        if self.distribution == "exponential" and (self.mean or 0) <= 0:
            raise ValueError(f"mean is {self.mean:g}, and that of an exponential number is above 0")
        for name in ("min", "max"):
            bound = getattr(self, name)
            if bound is not None and not math.isfinite(bound):
                raise ValueError(f"{name} must be a finite number")
            if bound is not None and round(bound, self.decimals) != bound:
                raise ValueError(f"{name} is {bound:g}, and numbers have {self.decimals} decimals; set decimals")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min is {self.min:g}, above max, {self.max:g}")
        return self


class Dates(_Part):
    """A day, or a moment in whole seconds where both ends are moments; each is equally likely."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    start: Annotated[str, Field(alias="from")]
    end: Annotated[str, Field(alias="to")]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        first, last = self.bounds
        if type(first) is not type(last):
            raise ValueError("from and to must both be days (2026-01-31), or both moments (2026-01-31T08:00:00)")
        if isinstance(first, datetime) and isinstance(last, datetime) and (first.tzinfo, last.tzinfo) != (None, None):
            raise ValueError("from and to are moments without a time zone (2026-01-31T08:00:00)")
        if first > last:
            raise ValueError(f"from is {self.start}, after to, {self.end}")
        return self

    @property
    def bounds(self) -> tuple[date, date]:
        """First and last day or moment; both can be drawn."""
        return _moment("from", self.start), _moment("to", self.end)


def _moment(name: str, text: str) -> date:
    try:
        return date.fromisoformat(text) if len(text) == len("2026-01-31") else datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{name} is {text!r}, and no day such as 2026-01-31 or moment 2026-01-31T08:00:00") from error


PERSON_FIELDS = ("first_name", "last_name", "name", "gender", "age", "email", "phone", "job", "company")
ADDRESS_FIELDS = ("street", "postcode", "city")


class Person(_Part):
    """Somebody who is not real: an object of 9 fields, `PERSON_FIELDS`.

    Mail addresses end in domains that are reserved for examples (RFC 2606).
    """

    locale: Text = "en_US"
    min_age: Annotated[int, Field(ge=0, le=120)] = 18
    max_age: Annotated[int, Field(ge=0, le=120)] = 90

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_age > self.max_age:
            raise ValueError(f"min_age is {self.min_age}, above max_age, {self.max_age}")
        return self


class Address(_Part):
    """An object of `ADDRESS_FIELDS`, each of the locale's form; the three do not belong together."""

    locale: Text = "en_US"


class Subset(_Part):
    """A value that depends on another column's, or a field's of the row."""

    of: Text
    values: Annotated[dict[str, Values], Field(min_length=1)]
    """By the other's value, written as text."""


class MessageTemplate(_Part):
    """One message of a chat; its content is a template over the row and earlier columns."""

    role: Role
    content: Text


class _Asked(_Part):
    """What the kinds that ask the model have in common; every text is a template over the row and earlier columns."""

    prompt: Text | None = None
    messages: Annotated[tuple[MessageTemplate, ...], Field(min_length=1, max_length=200)] | None = None
    """A whole chat in place of `prompt`."""
    system: Text | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS_LIMIT)] | None = None
    """In place of the job's `sampling.max_tokens`."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """In place of the job's `sampling.temperature`."""

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("needs one of prompt and messages")
        if self.system is not None and any(message.role == "system" for message in self.messages or ()):
            raise ValueError("has system, and messages has a message of role system; give one of the two")
        return self

    @property
    def templates(self) -> dict[str, Message]:
        """Its messages, by the field that each is written in."""
        found = {} if self.system is None else {"system": Message("system", self.system)}
        if self.prompt is not None:
            return {**found, "prompt": Message("user", self.prompt)}
        named = enumerate(self.messages or ())
        return found | {f"messages[{place}].content": Message(each.role, each.content) for place, each in named}


class ModelColumn(_Asked):
    """A text that the model writes; with a schema, an object."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    output_schema: Annotated[JsonSchema | None, Field(alias="schema")] = None
    model: Text | None = None
    """The job's own: a plan has one model as yet."""


class JudgeColumn(_Asked):
    """A whole number that the model gives by a rubric."""

    min: int = 1
    max: int = 5

    @model_validator(mode="after")
    def _has_range(self) -> Self:
        if self.min >= self.max:
            raise ValueError(f"min is {self.min}, and must be below max, {self.max}")
        return self

    @property
    def schema_of_answer(self) -> JsonSchema:
        """What the model answers with: `{"score": 4}`."""
        score = {"type": "integer", "minimum": self.min, "maximum": self.max}
        return {"type": "object", "properties": {"score": score}, "required": ["score"], "additionalProperties": False}


Kind = Literal["category", "number", "date", "person", "address", "subset", "expression", "model", "judge"]
KINDS: tuple[Kind, ...] = (
    *("category", "number", "date", "person", "address", "subset"),
    *("expression", "model", "judge"),
)
ASKING: frozenset[Kind] = frozenset({"model", "judge"})
"""Kinds whose values a model makes."""


class ColumnSpec(_Part):
    """One column: one of the kinds, by its name."""

    category: Values | None = None
    balanced: bool = False
    """Of a category: in every run of as many rows as the weights add up to, each value has its exact share."""
    number: Number | None = None
    date: Dates | None = None
    person: Person | None = None
    address: Address | None = None
    subset: Subset | None = None
    expression: Text | None = None
    model: ModelColumn | None = None
    judge: JudgeColumn | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            has = f"has {' and '.join(given)}" if given else "says nothing"
            raise ValueError(f"{has}; give one of {', '.join(KINDS)}")
        if self.balanced:
            _check_balanced(self.category)
        return self

    @property
    def kind(self) -> Kind:
        """Which it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def asked(self) -> ModelColumn | JudgeColumn | None:
        """What is asked of a model, where one is."""
        return self.model or self.judge

    def most_tokens(self, usual: int) -> int:
        """Tokens that a model may write for it, where a job's `max_tokens` is `usual`."""
        asked = self.asked
        if asked is None:
            return 0
        return asked.max_tokens or (usual if self.judge is None else JUDGE_TOKENS)

    def as_written(self) -> dict[str, Any]:  # any JSON
        """The column as a plan has it, without what was left at its default."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _check_balanced(category: Weighted | None) -> None:
    if category is None:
        raise ValueError("balanced is for a category")
    for value, weight in zip(category.values, category.weights, strict=True):
        if weight != int(weight):
            raise ValueError(f"the weight of {value!r} is {weight:g}; of a balanced category weights are whole numbers")
    if sum(category.weights) > MAX_BALANCED:
        raise ValueError(f"weights of a balanced category add up to {MAX_BALANCED:,} at most; make them smaller")


def parse_columns(written: Mapping[str, object]) -> dict[str, ColumnSpec]:
    """Columns as they came over the wire."""
    return {name: ColumnSpec.model_validate(column) for name, column in written.items()}
