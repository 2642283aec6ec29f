"""The columns of a plan, compiled once a shard: what fills each, or what is asked of the model for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import orjson
from pydantic import JsonValue

from models.spec import ItemError, JsonSchema, Message, Output, Sampling
from workers.columns.kinds import JUDGE_TOKENS, ColumnSpec, JudgeColumn
from workers.columns.samplers import Place, sampler
from workers.contracts import Row
from workers.expressions import Expression
from workers.prompts import PromptTemplate
from workers.schemas import Validator


class Filled(Protocol):
    """A column that no model is asked for."""

    name: str

    def fill(self, place: Place, row: Row) -> JsonValue:
        """Its value; raises PromptError where that cannot be."""
        ...


class _Drawn:
    def __init__(self, name: str, spec: ColumnSpec) -> None:
        self.name = name
        self._draw = sampler(name, spec)

    def fill(self, place: Place, row: Row) -> JsonValue:
        return self._draw(place, row)


class _Computed:
    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self._expression = Expression(source)

    def fill(self, _: Place, row: Row) -> JsonValue:
        return self._expression.value(row)


class AskedColumn:
    """A column that the model is asked for.

    Args:
        name: The column's.
        spec: One of kind model or judge.
        sampling: The job's, for what the column does not say itself.

    Attributes:
        repairable: Whether it can be asked again for the sake of a rule. A judge's number is no text to mend.
    """

    def __init__(self, name: str, spec: ColumnSpec, sampling: Sampling) -> None:
        asked = spec.asked
        if asked is None:
            raise AssertionError(f"{name} is {spec.kind}, for which no model is asked")
        self.name = name
        self.judge = asked if isinstance(asked, JudgeColumn) else None
        self.repairable = self.judge is None
        self.schema: JsonSchema | None = spec.model.output_schema if spec.model is not None else None
        messages = list(asked.templates.values())
        changes: dict[str, float | int] = {}
        if isinstance(asked, JudgeColumn):
            self.schema = asked.schema_of_answer
            changes = {"temperature": 0.0, "max_tokens": JUDGE_TOKENS, "min_tokens": 0}
            if all(message.role != "system" for message in messages):
                messages.insert(0, Message("system", _judges_task(asked)))
        changes |= {} if asked.max_tokens is None else {"max_tokens": asked.max_tokens}
        changes |= {} if asked.temperature is None else {"temperature": asked.temperature}
        self.sampling = sampling.model_copy(update=changes)
        self._validator = None if self.schema is None else Validator(self.schema)
        self._template = PromptTemplate(messages)

    def messages(self, row: Row) -> tuple[Message, ...]:
        """What the model is asked over a row; raises PromptError where that cannot be."""
        return self._template.render(row)

    def value(self, output: Output) -> JsonValue | ItemError:
        """What an answer is as a value; the error of one that is none."""
        if self._validator is None:
            return output.text
        if output.finish_reason == "length":
            return ItemError("output_truncated", "the output reached max_tokens before its JSON was complete")
        try:
            value: JsonValue = orjson.loads(output.text)
        except orjson.JSONDecodeError as error:
            return ItemError("invalid_output", f"the output is not JSON: {error}")
        problem = self._validator.error(value)
        if problem is not None:
            return ItemError("invalid_output", f"the output does not satisfy the schema: {problem}")
        return value["score"] if self.judge is not None and isinstance(value, dict) else value


def compile_columns(columns: Mapping[str, ColumnSpec], sampling: Sampling) -> tuple[Filled | AskedColumn, ...]:
    """The columns of a plan, in its order.

    Raises:
        PromptError: a template or an expression cannot be compiled.
    """
    return tuple(_compiled(name, spec, sampling) for name, spec in columns.items())


def _compiled(name: str, spec: ColumnSpec, sampling: Sampling) -> Filled | AskedColumn:
    if spec.asked is not None:
        return AskedColumn(name, spec, sampling)
    return _Drawn(name, spec) if spec.expression is None else _Computed(name, spec.expression)


def _judges_task(judge: JudgeColumn) -> str:
    return (
        f"You judge what you are given by the rubric that comes with it. Answer with JSON alone: "
        f'{{"score": N}}, where N is a whole number from {judge.min}, the worst, to {judge.max}, the best.'
    )
