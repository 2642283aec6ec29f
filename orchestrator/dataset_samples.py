"""A plan as people look at it before anything runs: its columns in order, and what its samplers draw."""

from __future__ import annotations

from collections.abc import Sequence

from models.spec import Sampling
from orchestrator.dataset_spec import DatasetFields
from orchestrator.spec_error import SpecError
from workers.columns.compiled import AskedColumn, compile_columns
from workers.columns.kinds import ColumnSpec
from workers.columns.order import uses
from workers.columns.samplers import Place
from workers.contracts import Row
from workers.prompts import PromptError
from workers.template_budget import text_of

SHOWN_VALUES = 6


def drawn(fields: DatasetFields, seed: int, sources: Sequence[Row]) -> list[Row]:
    """The first rows, as far as no model is asked: without its columns, and without those that need one of them.

    Args:
        fields: The plan.
        seed: The job's.
        sources: The first items' rows, of the source and the grid.

    Raises:
        SpecError: a column cannot be filled.
    """
    plan = fields.plan
    known: set[str] = set()
    for name, spec in plan.items():
        if spec.asked is None and all(used in known or used not in plan for used in uses(name, spec)):
            known.add(name)
    columns = compile_columns({name: spec for name, spec in plan.items() if name in known}, Sampling())
    rows = []
    for index, source in enumerate(sources):
        place, row = Place(seed, index), dict(source)
        for column in columns:
            if isinstance(column, AskedColumn):
                raise AssertionError(f"{column.name} asks a model")  # noqa: TRY004 - these were left out above
            try:
                row[column.name] = column.fill(place, row)
            except PromptError as error:
                param = f"columns.{column.name}"
                raise SpecError(f"{param}: {error.message} (item {index})", param=param) from error
        rows.append({name: row[name] for name in plan if name in known})
    return rows


def about(spec: ColumnSpec) -> str:
    """A column in a few words, for people."""
    if spec.category is not None:
        shown = ", ".join(map(text_of, spec.category.values[:SHOWN_VALUES])) + (
            ", …" if len(spec.category.values) > SHOWN_VALUES else ""
        )
        return f"one of {shown}{', balanced' if spec.balanced else ''}"
    if spec.number is not None:
        return f"a {spec.number.distribution} number"
    if spec.date is not None:
        return f"a date from {spec.date.start} to {spec.date.end}"
    if spec.subset is not None:
        return f"one of those that go with {spec.subset.of}"
    if spec.expression is not None:
        return f"computed: {spec.expression}"
    person = spec.person or spec.address
    if person is not None:
        return f"{'a person' if spec.person is not None else 'an address'} of {person.locale}, not real"
    if spec.judge is not None:
        return f"judged by the model, {spec.judge.min} to {spec.judge.max}"
    return "written by the model" + ("" if spec.model is None or spec.model.output_schema is None else ", by a schema")
