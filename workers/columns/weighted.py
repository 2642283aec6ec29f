"""Values with weights, as a plan writes them: a list, or an object of weights."""

from __future__ import annotations

import math
from typing import Annotated, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_serializer

Scalar: TypeAlias = str | int | float | bool
MAX_VALUES = 100_000
"""Of one category."""


class Weighted(BaseModel):
    """Values that are drawn from, each with its weight. Written as a list, or as an object of weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: tuple[Scalar, ...]
    weights: tuple[float, ...]

    @model_serializer
    def as_written(self) -> list[Scalar] | dict[str, float]:
        """As a plan has it."""
        if set(self.weights) == {1.0}:
            return list(self.values)
        return {str(value): weight for value, weight in zip(self.values, self.weights, strict=True)}


def _weighted(written: object) -> object:
    """Values and weights from what a plan has."""
    if isinstance(written, Weighted):
        return written
    if not isinstance(written, dict | list | tuple):
        # Pydantic lets no TypeError become a message.
        raise ValueError("it must be a list of values, or an object of weights: {red: 3, blue: 1}")  # noqa: TRY004
    weighted = written if isinstance(written, dict) else None
    wrong = next((value for value in written if not isinstance(value, str | int | float)), None)
    if wrong is not None:
        raise ValueError(f"{wrong!r} is no value of a category; give texts, numbers or true and false")
    values = tuple(written)
    weights = (1.0,) * len(values) if weighted is None else tuple(map(_weight, values, weighted.values()))
    if not values or not sum(weights):
        raise ValueError("it has no values to draw")
    if len(values) > MAX_VALUES:
        raise ValueError(f"it has {len(values):,} values; at most {MAX_VALUES:,} are possible")
    if len(set(values)) != len(values):
        twice = next(value for place, value in enumerate(values) if value in values[:place])
        raise ValueError(f"{twice!r} stands there twice; give weights: {{{twice}: 2, …}}")
    return {"values": values, "weights": weights}


def _weight(value: object, weight: object) -> float:
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not math.isfinite(weight) or weight < 0:
        raise ValueError(f"the weight of {value!r} is {weight!r}; it must be a number, 0 or more")
    return float(weight)


Values: TypeAlias = Annotated[Weighted, BeforeValidator(_weighted)]
