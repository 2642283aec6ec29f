"""Which column needs which, and the order that follows: behind all that it needs, else as it was written."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import orjson

from models.spec import Message
from workers.columns.kinds import ColumnSpec
from workers.expressions import Expression
from workers.prompts import PromptError, PromptTemplate


class PlanError(ValueError):
    """The columns of a plan do not go together; the message names one of them."""


def places(name: str, spec: ColumnSpec) -> dict[str, Message]:
    """The templates of a column, by the field of the job that each stands in; of an expression its value as a text."""
    if spec.expression is not None:
        return {f"columns.{name}.expression": Message("user", f"{{{{ {spec.expression} }}}}")}
    if spec.subset is not None:
        return {f"columns.{name}.subset.of": Message("user", f"{{{{ row[{orjson.dumps(spec.subset.of).decode()}] }}}}")}
    if spec.asked is None:
        return {}
    return {f"columns.{name}.{spec.kind}.{field}": message for field, message in spec.asked.templates.items()}


def uses(name: str, spec: ColumnSpec) -> dict[str, str]:
    """The names that a column looks up, each with the field of the job that names it.

    A template that cannot be compiled names nothing here; that is told where templates are compiled.
    """
    found: dict[str, str] = {}
    for place, message in places(name, spec).items():
        try:
            fields = (
                PromptTemplate((message,)).fields if spec.expression is None else Expression(spec.expression).fields
            )
        except PromptError:
            continue
        found |= {field: place for field in sorted(fields) if field not in found}
    return found


def in_order(columns: Mapping[str, ColumnSpec]) -> dict[str, ColumnSpec]:
    """The columns, each behind all that it needs.

    Raises:
        PlanError: columns need each other, or one needs itself.
    """
    needs = {name: [used for used in uses(name, spec) if used in columns] for name, spec in columns.items()}
    for name, used in needs.items():
        if name in used:
            raise PlanError(f"{uses(name, columns[name])[name]} uses {name}, the column itself")
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        circle = " uses ".join(reversed(error.args[1]))
        raise PlanError(f"columns need each other in a circle: {circle}; one of them must do without") from error
    ordered: dict[str, ColumnSpec] = {}
    waiting = list(columns)
    while waiting:
        following = next(name for name in waiting if all(used in ordered for used in needs[name]))
        waiting.remove(following)
        ordered[following] = columns[following]
    return ordered
