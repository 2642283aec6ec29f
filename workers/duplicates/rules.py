"""When two texts count as the same, as a job file says it. Imports nothing heavy, for whoever only checks jobs."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

RuleName: TypeAlias = Literal["exact", "minhash", "embedding"]

LOWEST_MINHASH = 0.7
"""Below it, texts that merely share a topic would be compared one by one: hours where it is minutes above."""
LOWEST_EMBEDDING = 0.8
"""Below it, sentences of one topic count as the same."""


class DuplicateRules(BaseModel):
    """What makes a text too like an earlier one. A text is rejected by the first of the rules that it meets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: Annotated[str, Field(min_length=1, max_length=200)] = "output"
    """Whose text is compared: `output`, a dotted path below it (`output.answer`, or `answer` alone), or a column."""
    exact: bool = True
    """The same text but for case, white space and the forms of letters that Unicode takes to be the same (NFKC)."""
    minhash: Annotated[float | None, Field(ge=LOWEST_MINHASH, le=1)] = 0.85
    """From this share of common pieces of text on (Jaccard, of runs of 4 letters, or 2 where words have no spaces)."""
    embedding: Annotated[float | None, Field(ge=LOWEST_EMBEDDING, le=1)] = None
    """From this cosine of the two sentence vectors on. Costs some 4 ms of a core for each
    text, and so is asked for."""
    against: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(max_length=100)] = ()
    """Earlier jobs whose texts count as well, by id."""

    @model_validator(mode="after")
    def _has_a_rule(self) -> Self:
        if not self.names:
            raise ValueError("no rule is left; set exact: true, or give minhash or embedding a threshold")
        return self

    @property
    def names(self) -> tuple[RuleName, ...]:
        """The rules that are on, in the order in which they are told."""
        chosen: tuple[tuple[RuleName, bool], ...] = (
            ("exact", self.exact),
            ("minhash", self.minhash is not None),
            ("embedding", self.embedding is not None),
        )
        return tuple(name for name, on in chosen if on)
