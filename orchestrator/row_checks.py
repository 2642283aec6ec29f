"""What planning checks of each row: its fields, its id, and whether it makes a prompt."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

from models.spec import MAX_TOKENS_LIMIT, Message
from orchestrator.accept_spec import check_accept_rules, refuse_unknown_fields
from orchestrator.dataset_spec import stand_ins
from orchestrator.row_blocks import Block, Glance
from orchestrator.spec import JobSpec
from orchestrator.spec_error import SpecError, choices, nearest
from orchestrator.static_checks import template_param
from orchestrator.uniqueness import Uniqueness
from workers.contracts import Row
from workers.prompts import PromptError, PromptTemplate
from workers.template_budget import MAX_TEXT

DEFAULT_ID = "custom_id"
MAX_COMBINATIONS = 10_000
"""Combinations of a grid over which the first row is rendered."""
MAX_ID = 512
"""Characters of a custom id."""
_Getter: TypeAlias = Callable[[Row], Any]  # gives one value, or a tuple of them: any JSON


class RowChecks:
    """Checks rows block by block.

    A plain template only needs its fields, which is seen at a glance; any other is rendered over every row, since
    what it does with a value is known only then. The first row meets every combination of a grid; the others one each.

    Args:
        spec: The job.
        template: Its templates.
        name: The source as its owner calls it; None for rows that are no file's.
        unit: What the rows of the source are counted in: `line`, `row` or `item`.
        scratch: A folder for what the check of ids spills.
        samples: How many rendered prompts to keep.
    """

    def __init__(
        self, spec: JobSpec, template: PromptTemplate, *, name: str | None, unit: str, scratch: Path, samples: int
    ) -> None:
        self.custom_id = spec.source.custom_id
        self.fields: dict[str, None] = {}
        self.samples: list[tuple[Message, ...]] = []
        self.ids = Uniqueness(scratch)
        self._spec, self._template = spec, template
        self._name, self._unit = name, unit
        self._wanted = samples
        grid = spec.source.grid or {}
        self._grid_names = frozenset(grid)
        self._ruled = check_accept_rules(spec.accept, structured=spec.structured)
        self._made: Row = {**(spec.upstream or {}), **stand_ins(spec)}
        self._grid: list[Row] = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        needed = sorted(template.fields - self._grid_names - self._made.keys())
        self._needed = needed
        self._get_needed: _Getter | None = itemgetter(*needed) if needed and template.plain else None
        # A field is never much longer in a prompt than in its row, so only long rows can make one that is too long.
        self._longest = (MAX_TEXT - template.characters) // (2 * max(1, template.expressions))
        self._checked = 0
        self._glance: Glance | None = None

    def columns(self, names: Sequence[str], line: int | None = None) -> None:
        """Check the names of a source's columns, where it has fixed ones.

        Raises:
            SpecError: something that the job names is none of them.
        """
        self.fields = dict.fromkeys(names)
        available = [*names, *self._grid_names]
        makeable = [*available, *self._made]
        spec = self._spec
        self._refuse_grid(self._grid_names.intersection(names), line)
        self._refuse_made(names, line)
        for param, field in (("source.custom_id", spec.source.custom_id), ("max_tokens_field", spec.max_tokens_field)):
            if field is not None and field not in available:
                raise SpecError(
                    f"{param} is {field!r}, and there is no column of this name; {choices(field, names)}",
                    file=self._name,
                    line=line,
                    param=param,
                )
        for param in ("input", "mask", "style_image"):
            field = getattr(spec, param)
            if field is not None and field not in makeable:
                raise SpecError(
                    f"{param} names {field!r}, and there is no column of this name; {choices(field, available)}",
                    file=self._name,
                    line=line,
                    param=param,
                )
        for field in spec.output or ():
            if field not in makeable:
                raise SpecError(
                    f"output names {field!r}, and there is no column of this name; {choices(field, makeable)}",
                    file=self._name,
                    line=line,
                    param="output",
                )
        for field in spec.kept:
            if field not in available:
                raise SpecError(
                    f"keep names {field!r}, and there is no column of this name; {choices(field, available)}",
                    file=self._name,
                    line=line,
                    param="keep",
                )
        refuse_unknown_fields(self._ruled, makeable, file=self._name, line=line)
        missing = sorted(self._template.fields.difference(makeable))
        if missing and self._template.plain:
            param = self._param_of(missing[0])
            raise SpecError(
                f"{param} names the field {missing[0]!r}, and there is no column of this name; "
                f"{choices(missing[0], available)}",
                file=self._name,
                line=line,
                param=param,
            )

    def block(self, block: Block) -> None:
        """Check the rows of a block.

        Raises:
            SpecError: a row does not fit the job.
        """
        if block.picked is not None:
            self._take_ids(block.picked, block)
            self._checked += len(block.ends)
            return
        rows = block.rows
        if not self._checked:
            self._first_rows(rows)
        if self._grid_names:
            for place, row in enumerate(rows):
                if not self._grid_names.isdisjoint(row):
                    self._refuse_grid(self._grid_names.intersection(row), block.lines[place])
        self._identify(block)
        if self._spec.max_tokens_field is not None:
            self._check_limits(block, self._spec.max_tokens_field)
        for place in self._to_render(block):
            self._render(rows[place], block.lines[place], self._checked + place)
        if not self._checked:
            self._render_grid(rows[0], block.lines[0])
        self._checked += len(rows)

    def glance(self) -> Glance | None:
        """How to be sure of the next rows without keeping them; None where each has to be looked at."""
        spec = self._spec
        if not self._checked or not self._template.plain or self._grid_names or spec.max_tokens_field is not None:
            return None
        if self._glance is None:
            self._glance = Glance(
                pick=_picker(self.custom_id, self._needed),
                longest=self._longest,
                absent=b"" if self.custom_id is not None else f'"{DEFAULT_ID}"'.encode(),
            )
        return self._glance

    def numbers(self, count: int) -> None:
        """Check rows that are nothing but their number: all of them, or the first where the rest cannot differ.

        Raises:
            SpecError: a template fails over one of them.
        """
        for number in range(min(count, self._wanted) if self._template.plain else count):
            self._render({"index": number}, number + 1, number)
        self._render_grid({"index": 0}, 1)

    def combinations_alone(self) -> None:
        """Check a grid that is crossed with nothing.

        Raises:
            SpecError: a template fails over one of its combinations.
        """
        self._render({}, 1, 0)
        self._render_grid({}, 1)

    def refuse_duplicates(self, again: Callable[[], Iterator[Block]]) -> None:
        """Look, once all rows have been checked, whether two have the same id.

        Args:
            again: Reads the source from its start once more; called only if two ids share a hash.

        Raises:
            SpecError: two rows have the same id; both are named.
        """
        pairs = self.ids.candidates()
        if not pairs or self.custom_id is None:
            return
        wanted = {row for pair in pairs for row in pair}
        found: dict[int, tuple[str, int]] = {}
        first = 0
        for block in again():
            for row in range(first, first + len(block.rows)):
                if row in wanted:
                    found[row] = (str(block.rows[row - first][self.custom_id]), block.lines[row - first])
            first += len(block.rows)
            if len(found) == len(wanted):
                break
        for earlier, later in pairs:
            (before, line), (after, again_line) = found[earlier], found[later]
            if before == after:
                what = f"{self.custom_id} is {after!r}, as on {self._unit} {line}; ids must be unique within a job"
                raise self._error(what, again_line, "source.custom_id")

    def _first_rows(self, rows: list[Row]) -> None:
        if not self.fields:
            self.fields = dict.fromkeys(name for row in rows[:100] for name in row)
            self._refuse_made(self.fields, None)
            makeable = [*self.fields, *self._grid_names, *self._made]
            refuse_unknown_fields(self._ruled, makeable, file=self._name, line=None)
        if self.custom_id is None and DEFAULT_ID in rows[0]:
            self.custom_id = DEFAULT_ID

    def _to_render(self, block: Block) -> Iterable[int]:
        """Places of the rows that have to be rendered to be sure of them."""
        rows = block.rows
        if not self._template.plain:
            return range(len(rows))
        places = set(range(max(0, min(len(rows), self._wanted - self._checked))))
        if self._get_needed is not None:
            try:
                deque(map(self._get_needed, rows), maxlen=0)
            except KeyError:
                places.update(place for place, row in enumerate(rows) if any(name not in row for name in self._needed))
        if block.longest is None or block.longest > self._longest:
            places.update(place for place, row in enumerate(rows) if self._may_be_long(row))
        return sorted(places)

    def _may_be_long(self, row: Row) -> bool:
        size = sum(len(value) if type(value) is str else len(str(value)) for value in row.values())
        return size > self._longest

    def _render(self, row: Row, line: int, number: int) -> None:
        values = {**row, **self._grid[number % len(self._grid)]} if self._grid_names else row
        if self._made:
            values = {**values, **self._made}
        try:
            messages = self._template.render(values)
        except PromptError as error:
            if self._made and not self._template.plain and error.field is None:
                return  # of what stands in for a node's result or a column; with the value itself it may be fine
            param = template_param(self._spec, error.part)
            place = f", line {error.line} of the template" if error.line else ""
            raise self._error(f"{param}{place}: {error.message}", line, param) from error
        if len(self.samples) < self._wanted:
            self.samples.append(messages)

    def _render_grid(self, row: Row, line: int) -> None:
        if not self._template.plain:
            for combination in range(1, min(len(self._grid), MAX_COMBINATIONS)):
                self._render(row, line, combination)

    def _identify(self, block: Block) -> None:
        name = self.custom_id
        if name is None:
            for place, row in enumerate(block.rows):
                if DEFAULT_ID in row:
                    raise self._error(
                        f"has a {DEFAULT_ID}, and the first row has none; give every row one, or name the field of "
                        "the ids under source.custom_id",
                        block.lines[place],
                        "source.custom_id",
                    )
            return
        try:
            ids = list(map(itemgetter(name), block.rows))
        except KeyError:
            place = next(place for place, row in enumerate(block.rows) if name not in row)
            close = nearest(name, block.rows[place])
            hint = "" if close is None else f"; did you mean {close!r}?"
            raise self._error(
                f"has no {name!r}, the field of the ids{hint}", block.lines[place], "source.custom_id"
            ) from None
        self._take_ids(ids, block)

    def _take_ids(self, ids: list[Any], block: Block) -> None:  # whatever the field holds
        name = self.custom_id
        if name is None:
            return
        kinds = set(map(type, ids))
        if kinds - {str}:
            for place, value in enumerate(ids):
                if type(value) not in {str, int}:
                    what = f"{name} must be a text or a whole number, and is {_kind(value)}"
                    raise self._error(what, block.lines[place], "source.custom_id")
            ids = list(map(str, ids))
        lengths = set(map(len, ids))
        if 0 in lengths:
            raise self._error(f"{name} is empty; each row needs an id", block.lines[ids.index("")], "source.custom_id")
        if max(lengths) > MAX_ID:
            place = next(place for place, value in enumerate(ids) if len(value) > MAX_ID)
            raise self._error(f"{name} is over {MAX_ID} characters", block.lines[place], "source.custom_id")
        self.ids.add(ids)

    def _check_limits(self, block: Block, field: str) -> None:
        for place, row in enumerate(block.rows):
            value = row.get(field)
            if isinstance(value, str) and value.strip().isdecimal():
                value = int(value)
            if type(value) is not int or not 1 <= value <= MAX_TOKENS_LIMIT:
                raise self._error(
                    f"{field} is {_kind(value)}; as max_tokens_field it must be a whole number "
                    f"from 1 to {MAX_TOKENS_LIMIT}",
                    block.lines[place],
                    "max_tokens_field",
                )

    def _refuse_grid(self, names: Iterable[str], line: int | None) -> None:
        for name in sorted(names):
            raise SpecError(
                f"source.grid: {name!r} is also a field of the rows; give the grid's list another name",
                file=self._name,
                line=line,
                param="source.grid",
            )

    def _refuse_made(self, names: Iterable[str], line: int | None) -> None:
        for name in sorted(self._made.keys() & set(names)):
            what, param = ("column of the plan", "columns") if self._spec.columns else ("node of the flow", "nodes")
            raise SpecError(
                f"{name!r} is a {what}, and also a field of the rows; give the {what.split()[0]} another name",
                file=self._name,
                line=line,
                param=param,
            )

    def _param_of(self, field: str) -> str:
        for part, message in enumerate(self._spec.templates):
            if field in PromptTemplate((message,)).fields:
                return template_param(self._spec, part)
        return "prompt"

    def _error(self, message: str, line: int, param: str) -> SpecError:
        if self._unit != "line":
            message = f"{self._unit} {line}: {message}"
        return SpecError(
            message, file=self._name, line=line if self._unit == "line" else None, param=param, code="invalid_source"
        )


def _picker(custom_id: str | None, needed: list[str]) -> Callable[[Iterator[Row]], list[Any]]:
    """Takes the ids out of rows, and fails where one is no object or lacks a field."""
    if custom_id is None:
        get = itemgetter(*needed) if needed else dict.keys
        return lambda rows: list(deque(map(get, rows), maxlen=0))
    if not needed:
        return lambda rows: list(map(itemgetter(custom_id), rows))
    get_all = itemgetter(custom_id, *needed)
    first = itemgetter(0)
    return lambda rows: list(map(first, map(get_all, rows)))


def _kind(value: object) -> str:
    if value is None:
        return "not there"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
