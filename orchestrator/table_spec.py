"""What a job file says of a table that is sampled, and of a report on what a job has made."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from orchestrator.findings import Passes
from workers.acceptance.rules import Accept
from workers.contracts import BLOCK_ROWS, TableWork
from workers.dataset_report.gate import Gate
from workers.table_accept.rules import TableRules

Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
MAX_ROWS: Final = 1_000_000_000
_JOB_ID: Final = re.compile(r"[0-9A-Z]{26}")
FEW_SUBJECTS: Final = 100
"""Of a parent's, for a look: no block is smaller, so that they stand in its first."""


@dataclass(frozen=True, kw_only=True)
class ParentRows:
    """The rows of another job, as subjects."""

    rows: int
    """At most."""
    block: int
    """Rows of a block, at most."""
    parts: str
    """Key of the list of its parts."""


class TableAccept(TableRules):
    """What every row must fulfil."""

    candidates: Annotated[int, Field(ge=1, le=1000, strict=True)] = 10
    """How many rows are drawn at most for each that is accepted."""
    rounds: Annotated[int, Field(ge=1, le=100, strict=True)] = 10
    """How often what breaks a rule over all rows is drawn again at most."""


class TableFields(BaseModel):
    """The table that is sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: Annotated[int, Field(ge=1, le=MAX_ROWS, strict=True)] | None = None
    """How many, of a model whose rows stand alone."""
    parent: Text | None = None
    """Of a linked model: the completed job whose rows are the subjects. Its blocks are this one's."""
    subjects: Annotated[int, Field(ge=1, le=MAX_ROWS, strict=True)] | None = None
    """Of a linked model without a parent: how many sequences. With `parent`, its first few, to look at."""
    where: dict[Text, JsonValue] = Field(default_factory=dict)
    """The value that a column has in every row."""
    rebalance: dict[Text, Annotated[dict[str, Share], Field(min_length=1)]] = Field(default_factory=dict)
    """By column, the shares of some of its values; the others keep their proportions."""
    impute: tuple[Text, ...] = ()
    """Columns in which no value is to be missing."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    block: Annotated[int, Field(ge=100, le=1_000_000, strict=True)] = BLOCK_ROWS
    """Rows of a block: the unit that is drawn, stored and drawn again. The dataset depends on it. Of a linked table,
    subjects."""
    accept: TableAccept | None = None

    @field_validator("parent")
    @classmethod
    def _job_id(cls, value: str | None) -> str | None:
        if value is not None and _JOB_ID.fullmatch(value) is None:
            raise ValueError(f"{value!r} is no job's id; give that of a completed job of kind tabular, 01J…")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> TableFields:
        self._check_number()
        for column, shares in self.rebalance.items():
            if sum(shares.values()) > 1 + 1e-9:
                raise ValueError(
                    f"rebalance.{column}: the shares come to {sum(shares.values()):g}; at most 1 is possible"
                )
            if column in self.where:
                raise ValueError(
                    f"rebalance.{column}: where gives the column {column} one value; leave out one of the two"
                )
        return self

    def _check_number(self) -> None:
        if self.rows is None and not self.linked:
            raise ValueError("needs rows: how many; of a linked model, parent or subjects")
        if self.rows is not None and self.linked:
            other = "parent" if self.parent is not None else "subjects"
            raise ValueError(f"has rows and {other}; give one: a linked table has as many rows as its subjects have")
        if self.parent is not None and "block" in self.model_fields_set:
            raise ValueError("block is the parent's, and cannot be given with parent")
        if self.parent is not None and (self.subjects or 0) > FEW_SUBJECTS:
            raise ValueError(
                f"subjects is {self.subjects:,}, and a parent's rows are all taken; with parent it is at most "
                f"{FEW_SUBJECTS}, to look at a few"
            )
        if self.linked and self.accept is not None and self.accept.over_all:
            raise ValueError(
                "accept.unique and accept.dependencies are about all rows together, and a linked table is drawn again "
                "subject by subject; leave them out"
            )

    @property
    def linked(self) -> bool:
        """Whether rows belong to subjects."""
        return self.parent is not None or self.subjects is not None

    @property
    def number(self) -> int:
        """How many rows or subjects are asked for; 1 where a parent's rows are to be counted yet."""
        return 1 if self.parent is not None else self.rows or self.subjects or 1

    @property
    def unit(self) -> str:
        """What a block is counted in."""
        return "subjects" if self.linked else "rows"

    def work(self, parent: ParentRows | None = None) -> TableWork:
        """The part of the job's work that is about the table; `parent` where its subjects are another job's rows."""
        accept = self.accept
        rules: dict[str, Any] = {}
        if accept is not None:
            rules = accept.model_dump(
                mode="json", by_alias=True, exclude_defaults=True, exclude={"candidates", "rounds"}
            )
        return TableWork(
            rows=self.number if parent is None else parent.rows,
            block=self.block if parent is None else parent.block,
            linked=self.linked,
            parent=None if parent is None else parent.parts,
            most=None if parent is None else self.subjects,
            where=self.where,
            rebalance=self.rebalance,
            impute=self.impute,
            temperature=self.temperature,
            rules=rules,
            candidates=10 if accept is None else accept.candidates,
        )


class ReportFields(Gate):
    """The report on a dataset, and what it must reach."""

    target: Text | None = None
    """The column that the others are to predict, for the figures on utility; by default one that will do."""

    @property
    def gate(self) -> dict[str, float]:
        """What is asked, without what is not."""
        asked: dict[str, float] = self.model_dump(exclude={"target"}, exclude_none=True)
        return asked


class TableJobFields(BaseModel):
    """The field of a job that is for tables alone, and the one that it shares with datasets of texts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: TableFields | None = None
    report: ReportFields | Literal[False] | None = None
    """By default a table has one, and a job of another kind has none."""

    def passes_with(self, texts: Accept | None) -> Passes | None:
        """What follows the job's shards; `texts` says what is accepted of a job that writes them."""
        rounds = 0
        rows = None if self.table is None else self.table.accept
        if rows is not None and rows.over_all:
            rounds = rows.rounds
        duplicates = None if texts is None else texts.duplicates
        if texts is not None and duplicates is not None:
            rounds = texts.rounds
        wanted = self.report is not False and (self.report is not None or self.table is not None)
        if not rounds and not wanted:
            return None
        given = self.report or ReportFields()
        return Passes(
            rounds=rounds,
            duplicates=None if duplicates is None else duplicates.model_dump(mode="json", exclude_defaults=True),
            report=wanted,
            target=given.target,
            gate=given.gate,
        )


def blocks_of(table: object) -> dict[str, Any]:
    """The source of a job that samples a table, as it was written: its items are the numbers of the blocks."""
    fields = table if isinstance(table, dict) else {}
    if fields.get("parent") is not None:
        return {"count": 1}  # its blocks are counted when it is planned
    rows, block = fields.get("rows") or fields.get("subjects"), fields.get("block", BLOCK_ROWS)
    if not (isinstance(rows, int) and isinstance(block, int) and rows > 0 and block > 0):
        return {"count": 1}  # what is wrong with them is told where they are checked
    return {"count": math.ceil(rows / block)}


def refuse_table(fields: TableJobFields, kind: str) -> None:
    """Raise ValueError where a job of another kind says which table is sampled."""
    if fields.table is not None:
        raise ValueError(f"table is for tables, and the job is of kind {kind}; set kind: tabular")


def refuse_report(fields: TableJobFields, kind: str) -> None:
    """Raise ValueError where a job whose items make no dataset asks for a report on it."""
    if fields.report is not None:
        raise ValueError(f"report is for datasets, and the job is of kind {kind}, which has none")


def shape_of(table: TableFields) -> str:
    """What kind of work a block is, for its speed."""
    rules = ", rules" if table.accept is not None else ""
    conditions = ", conditions" if table.where or table.rebalance or table.impute else ""
    blocks = "a parent's blocks" if table.parent is not None else f"blocks of {table.block} {table.unit}"
    return f"{blocks}{conditions}{rules}"
