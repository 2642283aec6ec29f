"""What a job file says of a table that is sampled, and of a report on what a job has made."""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from orchestrator.findings import Passes
from workers.contracts import BLOCK_ROWS, TableWork
from workers.table_accept.rules import TableRules

Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
MAX_ROWS: Final = 1_000_000_000


class TableAccept(TableRules):
    """What every row must fulfil."""

    candidates: Annotated[int, Field(ge=1, le=1000, strict=True)] = 10
    """How many rows are drawn at most for each that is accepted."""
    rounds: Annotated[int, Field(ge=1, le=100, strict=True)] = 10
    """How often what breaks a rule over all rows is drawn again at most."""


class TableFields(BaseModel):
    """The table that is sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: Annotated[int, Field(ge=1, le=MAX_ROWS, strict=True)]
    where: dict[Text, JsonValue] = Field(default_factory=dict)
    """The value that a column has in every row."""
    rebalance: dict[Text, Annotated[dict[str, Share], Field(min_length=1)]] = Field(default_factory=dict)
    """By column, the shares of some of its values; the others keep their proportions."""
    impute: tuple[Text, ...] = ()
    """Columns in which no value is to be missing."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    block: Annotated[int, Field(ge=100, le=1_000_000, strict=True)] = BLOCK_ROWS
    """Rows of a block: the unit that is drawn, stored and drawn again. The dataset depends on it."""
    accept: TableAccept | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> TableFields:
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

    @property
    def blocks(self) -> int:
        """How many there are: the job's items."""
        return math.ceil(self.rows / self.block)

    def work(self) -> TableWork:
        """The part of the job's work that is about the table."""
        accept = self.accept
        rules: dict[str, Any] = {}
        if accept is not None:
            rules = accept.model_dump(
                mode="json", by_alias=True, exclude_defaults=True, exclude={"candidates", "rounds"}
            )
        return TableWork(
            rows=self.rows,
            block=self.block,
            where=self.where,
            rebalance=self.rebalance,
            impute=self.impute,
            temperature=self.temperature,
            rules=rules,
            candidates=10 if accept is None else accept.candidates,
        )


class ReportFields(BaseModel):
    """The report on a dataset, and what it must reach."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Text | None = None
    """The column that the others are to predict, for the figures on utility; by default one that will do."""
    min_accuracy: Annotated[float | None, Field(ge=0, le=1)] = None
    """Of a table: from this on its distributions are like enough to the source's."""
    max_identical: Annotated[float | None, Field(ge=0, le=1)] = None
    """Of a table: the share of rows that may equal one of the source."""
    min_utility: Annotated[float | None, Field(ge=0, le=1)] = None
    """Of a table: how well a model does that learned from it, as a share of how well one does that learned from the
    source."""

    @property
    def gate(self) -> dict[str, float]:
        """What is asked, without what is not."""
        return {
            name: value
            for name in ("min_accuracy", "max_identical", "min_utility")
            if (value := getattr(self, name)) is not None
        }


class DatasetFields(BaseModel):
    """The fields of a job that are for datasets alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: TableFields | None = None
    report: ReportFields | Literal[False] | None = None
    """By default a table has one, and a job of another kind has none."""

    def table_passes(self) -> Passes | None:
        """What follows the shards of a job that samples a table."""
        if self.table is None:
            return None
        accept, report = self.table.accept, self.report
        over_all = accept is not None and bool(accept.unique or accept.dependencies)
        wanted = report is not False
        if not over_all and not wanted:
            return None
        given = report or ReportFields()
        return Passes(
            rounds=accept.rounds if over_all and accept is not None else 0,
            report=wanted,
            target=given.target,
            gate=given.gate,
        )


def blocks_of(table: object) -> dict[str, Any]:
    """The source of a job that samples a table, as it was written: its items are the numbers of the blocks."""
    rows, block = (table.get("rows"), table.get("block", BLOCK_ROWS)) if isinstance(table, dict) else (None, None)
    if not (isinstance(rows, int) and isinstance(block, int) and rows > 0 and block > 0):
        return {"count": 1}  # what is wrong with them is told where they are checked
    return {"count": math.ceil(rows / block)}


def refuse_dataset_fields(fields: DatasetFields, kind: str) -> None:
    """Raise ValueError where a job of another kind sets a field that is for datasets."""
    for name in DatasetFields.model_fields:
        if getattr(fields, name) is not None:
            raise ValueError(f"{name} is for tables, and the job is of kind {kind}; set kind: tabular")


def shape_of(table: TableFields) -> str:
    """What kind of work a block is, for its speed."""
    rules = ", rules" if table.accept is not None else ""
    conditions = ", conditions" if table.where or table.rebalance or table.impute else ""
    return f"blocks of {table.block} rows{conditions}{rules}"
