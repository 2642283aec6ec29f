"""What a job file says of a dataset under a plan: the fields that `JobSpec` has for it, and what goes with them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from models.spec import Message, Sampling
from orchestrator.flow_spec import example
from orchestrator.spec_error import SpecError, choices
from workers.columns.kinds import ADDRESS_FIELDS, ASKING, PERSON_FIELDS, ColumnSpec
from workers.columns.order import PlanError, in_order, places, uses
from workers.columns.people import locales
from workers.contracts import DatasetWork
from workers.expressions import Expression
from workers.prompts import PromptError
from workers.schemas import SchemaError, check_schema
from workers.template_budget import text_of

MAX_COLUMNS = 200
NAME = re.compile(r"[^\W\d]\w{0,63}")
RESERVED = frozenset({"row", "index", "output", "range", "namespace", "loop", "custom_id", "true", "false", "none"})
SPLIT_NAME = re.compile(r"\w{1,40}")
INDEX = "index"
Text = Annotated[str, Field(min_length=1)]


class DatasetFields(BaseModel):
    """The fields of a job that are for datasets alone; a job of another kind leaves them at their defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: Annotated[dict[Text, ColumnSpec] | None, Field(min_length=1, max_length=MAX_COLUMNS)] = None
    """The plan: its columns by name, in any order."""
    output: Annotated[tuple[Text, ...] | None, Field(min_length=1)] = None
    """Columns and fields of the row that a row of the dataset has; by default the grid's and all columns."""
    split: Annotated[dict[Text, Annotated[float, Field(gt=0, le=1)]] | None, Field(min_length=1)] = None
    """Shares of the rows by the name of their split, together 1."""
    split_by: Text | None = None
    """One of `output`: rows that agree in it share a split. By default each row is for itself."""

    @property
    def plan(self) -> dict[str, ColumnSpec]:
        """The columns, each behind all that it needs."""
        return in_order(self.columns or {})

    def dataset_templates(self) -> tuple[Message, ...]:
        """Every template of the plan; of an expression, a template that writes it."""
        return tuple(message for name, spec in self.plan.items() for message in places(name, spec).values())

    def dataset_template_field(self, index: int) -> str:
        """Which field of the job the template `index` stands in."""
        return [field for name, spec in self.plan.items() for field in places(name, spec)][index]

    def given(self, grid: Iterable[str]) -> tuple[str, ...]:
        """What a row of the dataset has."""
        return self.output or tuple(dict.fromkeys((*grid, *(self.columns or ()))))

    def dataset_work(self, grid: Iterable[str]) -> DatasetWork:
        """The part of the job's work that is about the plan."""
        columns = {name: spec.as_written() for name, spec in self.plan.items()}
        return DatasetWork(columns=columns, output=self.given(grid))


def refuse_dataset_fields(fields: DatasetFields, kind: str) -> None:
    """Raise ValueError where a job of another kind sets a field that is for datasets."""
    for name in DatasetFields.model_fields:
        if getattr(fields, name) is not None:
            raise ValueError(f"{name} is for datasets, and the job is of kind {kind}; set kind: dataset")


def asks_model(columns: object) -> bool:
    """Whether a plan, as it was written, has a column that a model is asked for."""
    return isinstance(columns, dict) and any(isinstance(one, dict) and ASKING & one.keys() for one in columns.values())


def check_dataset(fields: DatasetFields, *, model: str, grid: Collection[str], known: Collection[str] | None) -> None:
    """Raise ValueError where the columns of a plan do not go together; the message names the field.

    Args:
        fields: The plan.
        model: The job's.
        grid: Names of the source's grid.
        known: What a row has before its columns are filled; None where that is known only when it is read.
    """
    columns = fields.columns
    if columns is None:
        raise ValueError("columns is missing; a dataset needs its plan: columns: {topic: {category: [a, b]}, …}")
    for name, spec in columns.items():
        _check_column(name, spec, model, grid)
    try:
        in_order(columns)
    except PlanError as error:
        raise ValueError(f"columns: {error}" if not str(error).startswith("columns") else str(error)) from error
    if known is not None:
        _check_names(fields, columns, [*columns, *known])
    if len(set(fields.output or ())) != len(fields.output or ()):
        raise ValueError("output names a column twice")
    _check_subsets(columns)
    _check_split(fields, fields.given(grid))


def _check_names(fields: DatasetFields, columns: Mapping[str, ColumnSpec], known: Collection[str]) -> None:
    named = [("output names", name) for name in fields.output or ()]
    named += [(f"{place} uses", used) for name, spec in columns.items() for used, place in uses(name, spec).items()]
    for place, name in named:
        if name not in known:
            raise ValueError(f"{place} {name!r}, and there is no column of this name; {choices(name, known)}")


def _check_column(name: str, spec: ColumnSpec, model: str, grid: Collection[str]) -> None:
    if NAME.fullmatch(name) is None or name in RESERVED:
        why = "has a meaning of its own" if name in RESERVED else "is no word"
        raise ValueError(f"columns: {name!r} {why}; name a column by letters, digits and _, at most 64, a letter first")
    if name in grid:
        raise ValueError(f"columns.{name}: source.grid has a list of this name; give the column another")
    if spec.model is not None and spec.model.model not in {None, model}:
        raise ValueError(
            f"columns.{name}.model.model is {spec.model.model!r}, and the job's model is {model!r}; a plan has one "
            "model as yet, so leave it out"
        )
    person = spec.person or spec.address
    if person is not None and person.locale not in locales():
        known = choices(person.locale, sorted(locales()))
        raise ValueError(f"columns.{name}.{spec.kind}.locale: there is no locale {person.locale!r}; {known}")


def _check_subsets(columns: Mapping[str, ColumnSpec]) -> None:
    """A subset of a category, or of a subset of one, has values for all that it can be, and for nothing else."""
    for name, spec in columns.items():
        parent = None if spec.subset is None else columns.get(spec.subset.of)
        if spec.subset is None or parent is None:
            continue
        possible = _possible(parent)
        if possible is None:
            continue
        place = f"columns.{name}.subset.values"
        for value in possible:
            if value not in spec.subset.values:
                raise ValueError(f"{place} has nothing for {value!r}, which {spec.subset.of} can be")
        for value in spec.subset.values:
            if value not in possible:
                raise ValueError(f"{place} has {value!r}, which {spec.subset.of} is never; {choices(value, possible)}")


def _possible(spec: ColumnSpec) -> list[str] | None:
    """The values that a column can have, as texts; None where they are not known beforehand."""
    lists = [] if spec.category is None else [spec.category]
    lists += [] if spec.subset is None else spec.subset.values.values()
    if not lists:
        return None
    drawn = (
        text_of(value) for each in lists for value, weight in zip(each.values, each.weights, strict=True) if weight
    )
    return list(dict.fromkeys(drawn))


def _check_split(fields: DatasetFields, given: Collection[str]) -> None:
    split = fields.split
    if split is None:
        if fields.split_by is not None:
            raise ValueError("split_by says by what rows are split, and split is missing")
        return
    for name in split:
        if SPLIT_NAME.fullmatch(name) is None:
            raise ValueError(f"split: {name!r} cannot be a split's name; take letters, digits and _")
    if not math.isclose(sum(split.values()), 1, abs_tol=1e-6):
        raise ValueError(f"split: the shares add up to {sum(split.values()):g}, and must add up to 1")
    if fields.split_by is not None and fields.split_by not in given:
        right = choices(fields.split_by, given)
        raise ValueError(f"split_by names {fields.split_by!r}, which is no column of the rows that are given; {right}")


def check_lengths(fields: DatasetFields, sampling: Sampling) -> None:
    """Raise ValueError where a text would have to be longer than it may be."""
    for name, spec in (fields.columns or {}).items():
        most = spec.most_tokens(sampling.max_tokens)
        if spec.model is not None and sampling.min_tokens > most:
            place = "sampling.max_tokens" if spec.model.max_tokens is None else f"columns.{name}.model.max_tokens"
            raise ValueError(f"{place} is {most}, below sampling.min_tokens, {sampling.min_tokens}")


def check_plan(fields: DatasetFields) -> None:
    """Check what can be told of a plan beyond its names: expressions compile, and schemas can be enforced.

    Raises:
        SpecError: one of them cannot be used.
    """
    for name, spec in fields.plan.items():
        if spec.expression is not None:
            param = f"columns.{name}.expression"
            try:
                Expression(spec.expression)
            except PromptError as error:
                raise SpecError(f"{param}: {error.message}", param=param) from error
        if spec.model is not None and spec.model.output_schema is not None:
            param = f"columns.{name}.model.schema"
            try:
                check_schema(spec.model.output_schema)
            except SchemaError as error:
                raise SpecError(f"{param}: {error}", param=param) from error


def stand_ins(fields: DatasetFields) -> dict[str, JsonValue]:
    """Something of the shape of each column, to check templates with that use it before there is any."""
    return {name: _stand_in(name, spec) for name, spec in (fields.columns or {}).items()}


def _stand_in(name: str, spec: ColumnSpec) -> JsonValue:
    if spec.category is not None:
        return spec.category.values[0]
    if spec.subset is not None:
        return next(iter(spec.subset.values.values())).values[0]
    if spec.date is not None:
        return spec.date.start
    if spec.person is not None:
        return {field: 30 if field == "age" else f"<{name}.{field}>" for field in PERSON_FIELDS}
    if spec.address is not None:
        return {field: f"<{name}.{field}>" for field in ADDRESS_FIELDS}
    if spec.model is not None:
        return f"<{name}>" if spec.model.output_schema is None else example(name, spec.model.output_schema)
    return 1 if spec.judge is None else spec.judge.max


def shape_of(fields: DatasetFields, max_tokens: int) -> str:
    """What kind of work an item is, for its speed: how many columns the model is asked for, and for how many tokens."""
    asked = [spec for spec in (fields.columns or {}).values() if spec.asked is not None]
    tokens = sum(spec.most_tokens(max_tokens) for spec in asked)
    return f"{len(asked)} columns, {1 << max(0, tokens - 1).bit_length()} tokens"
