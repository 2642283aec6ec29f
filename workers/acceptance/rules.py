"""What a job file says of what is accepted: rules, and how often an answer that fails them is asked for again.

Light to import: the control plane reads job files with it. What a rule does is `workers.acceptance.checks`.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.spec import JsonSchema
from workers.duplicates.rules import DuplicateRules

MAX_RULES = 50
MAX_REPAIRS = 5
MAX_DRAWS = 20
MAX_ROUNDS = 100
Text = Annotated[str, Field(min_length=1, max_length=65_536)]
Bound = Annotated[int, Field(ge=0, le=10_000_000, strict=True)]
Bounds: TypeAlias = tuple[Bound | None, Bound | None]
"""The least and the most, both allowed; null for none."""
PiiKind = Literal[
    "email", "phone", "card", "iban", "ip", "ssn", "url",
    "name", "address", "place", "bank_account", "tax_id", "government_id", "passport", "drivers_license",
]  # fmt: skip
STRICT_KINDS: frozenset[PiiKind] = frozenset({"email", "phone", "card", "iban", "ip", "ssn", "url"})
"""Kinds that their form gives away; the others are found by a classifier, which errs."""
DEFAULT_KINDS: tuple[PiiKind, ...] = ("email", "phone", "card", "iban", "ip", "ssn")
KINDS = (
    "words", "characters", "sentences", "regex", "expression", "banned", "required", "language", "numbers",
    "output_schema", "pii", "toxicity", "judge",
)  # fmt: skip
"""What a rule can be; it is exactly one of them."""
WHOLE_TEXT = frozenset({"words", "characters", "sentences", "regex"})
"""Rules about one text: of an output that is an object they have to name a field."""


class Judge(BaseModel):
    """A rubric by which the job's own model scores an answer from 1 to 5."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Text
    """A template over the row and `output`."""
    min: Annotated[int, Field(ge=1, le=5, strict=True)] = 4
    """The lowest score that is accepted."""


class Rule(BaseModel):
    """One rule: exactly one of the fields that `KINDS` names, and what goes with it."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=False)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    """By default what the rule is, numbered from the second of a kind on: `regex`, `regex-2`."""
    field: Text | None = None
    """Of an output that is an object, the dotted path of what is meant; by default all of its texts."""

    words: Bounds | None = None
    characters: Bounds | None = None
    sentences: Bounds | None = None
    regex: Text | None = None
    """RE2, searched for anywhere in the text."""
    expression: Text | None = None
    """A Jinja2 expression over the row's fields and `output`."""
    banned: Annotated[tuple[Text, ...], Field(min_length=1, max_length=10_000)] | None = None
    required: Annotated[tuple[Text, ...], Field(min_length=1, max_length=1_000)] | None = None
    """Templates over the row: texts that the output holds, whatever their case."""
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] | Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], ...], Field(min_length=1, max_length=20)
    ] | None = None  # fmt: skip
    """ISO 639-1 code, or several of which each will do."""
    numbers: Literal["row"] | Annotated[tuple[Text, ...], Field(min_length=1, max_length=100)] | None = None
    """Where the numbers that the text states have to come from: the row, or these fields of it."""
    output_schema: Annotated[JsonSchema | None, Field(alias="schema")] = None
    pii: Literal["reject", "redact", "note"] | None = None
    kinds: Annotated[tuple[PiiKind, ...], Field(min_length=1)] | None = None
    """Of `pii`; by default those in `DEFAULT_KINDS`."""
    regions: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], ...], Field(max_length=50)] | None = None
    """Of `pii`: countries whose telephone numbers are known without their prefix. By default some large ones."""
    toxicity: Annotated[float, Field(gt=0, le=1)] | None = None
    """The score from which on a text is rejected."""
    judge: Judge | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            shown = ", ".join(_shown(kind) for kind in (given or KINDS))
            raise ValueError(
                f"a rule is exactly one of these, and this has {shown}"
                if given
                else f"a rule has to say what it asks for: one of {shown}"
            )
        for option in ("kinds", "regions"):
            if getattr(self, option) is not None and self.pii is None:
                raise ValueError(f"{option} goes with pii, and this rule is {_shown(given[0])}")
        for kind in ("words", "characters", "sentences"):
            _check_bounds(kind, getattr(self, kind))
        for banned in self.banned or ():
            if not banned.strip():
                raise ValueError("banned: a phrase is blank")
        return self

    @property
    def kind(self) -> str:
        """What the rule is: one of `KINDS`."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of which each will do."""
        return (self.language,) if isinstance(self.language, str) else self.language or ()


class Accept(BaseModel):
    """What a job accepts, and what is done with an answer that is rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: Annotated[tuple[Rule, ...], Field(max_length=MAX_RULES)] = ()
    repairs: Annotated[int, Field(ge=0, le=MAX_REPAIRS, strict=True)] = 1
    """How often an item whose answer failed is asked again, with the reasons."""
    draws: Annotated[int, Field(ge=0, le=MAX_DRAWS, strict=True)] = 1
    """How often it is then drawn anew, with another seed."""
    duplicates: DuplicateRules | None = None
    """Which answers are too like another of the job; judged over all of them, in rounds."""
    rounds: Annotated[int, Field(ge=1, le=MAX_ROUNDS, strict=True)] = 5
    """Passes over all answers at most: what one rejects is drawn anew, and the last one's ends as rejected."""

    @model_validator(mode="after")
    def _has_something(self) -> Self:
        if not self.rules and self.duplicates is None:
            raise ValueError("has neither rules nor duplicates; give one of them")
        if self.duplicates is None and "rounds" in self.model_fields_set:
            raise ValueError("rounds is for duplicates, and there are none")
        return self

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        twice = [name for name, times in Counter(self.names).items() if times > 1]
        if twice:
            raise ValueError(f"two rules are called {twice[0]!r}; give each a name of its own")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The rules' names, in their order."""
        seen: Counter[str] = Counter()
        names = []
        for rule in self.rules:
            kind = _shown(rule.kind)
            if rule.name is None:
                seen[kind] += 1
            names.append(rule.name or (kind if seen[kind] == 1 else f"{kind}-{seen[kind]}"))
        return tuple(names)

    def to_json(self) -> dict[str, Any]:  # any JSON
        """As `Accept.model_validate` reads it back, without what is judged over all answers."""
        over_all = {"duplicates", "rounds"}
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=over_all)


def _shown(kind: str) -> str:
    return "schema" if kind == "output_schema" else kind


def _check_bounds(kind: str, bounds: Bounds | None) -> None:
    if bounds is None:
        return
    least, most = bounds
    if least is None and most is None:
        raise ValueError(f"{kind} has no bound; give the least, the most or both, such as [40, 80]")
    if least is not None and most is not None and least > most:
        raise ValueError(f"{kind}: the least is {least:,}, above the most, {most:,}")
