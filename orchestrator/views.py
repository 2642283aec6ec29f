"""How a job looks from outside: one class for the API, the command line and tests."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from models.spec import Usage
from orchestrator.findings import Findings, decode_findings
from orchestrator.lifecycle import JobStatus
from orchestrator.totals import ItemCounts, JobTimings, Totals
from workers.acceptance.figures import CheckFigures
from workers.contracts import BLOCK_ROWS
from workers.training_progress import TrainingProgress

if TYPE_CHECKING:
    from sqlalchemy import Row  # a command shows jobs without half a second of SQLAlchemy

    from orchestrator.training import Reported

PRIORITIES = ("urgent", "normal", "low")
"""By their number in SQL."""


class JobError(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Why a job could not start, or could not go on."""

    code: str
    message: str
    param: str | None = None
    file: str | None = None
    line: int | None = None

    def encoded(self) -> str:
        """As it stands in SQL."""
        return msgspec.json.encode(self).decode()


class Prediction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a job was expected to be done, and when that was said. Seconds since the epoch."""

    made_at: float
    finish_at: float

    def off_by(self, finished_at: float) -> float:
        """How far it was off, as a part of the time that it looked ahead: above 0 where the job took longer."""
        return (finished_at - self.finish_at) / max(1.0, finished_at - self.made_at)


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A node of a flow at one moment."""

    name: str
    job: str
    """Its id: it is a job, and can be looked at like any."""
    kind: str
    model: str
    status: JobStatus
    items: int
    counts: ItemCounts
    waits_for: tuple[str, ...] = ()
    """The nodes that it needs, as long as they have not completed."""


class DatasetView(msgspec.Struct, frozen=True, kw_only=True):
    """What a job that makes a dataset makes, as its plan says."""

    columns: dict[str, str]
    """By name, how each is filled, in a few words."""
    output: tuple[str, ...]
    """What a row has."""
    seed: int
    source: str
    """What rows are made from, in a few words."""
    asks_model: bool
    split: dict[str, float] | None = None
    split_by: str | None = None


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job at one moment. Times are seconds since the epoch; figures of a job that ended are frozen."""

    id: str
    name: str
    kind: str
    model: str
    engine: str
    status: JobStatus
    priority: str
    created_at: float
    planned_at: float | None
    """When its source had been read and its shards could be taken."""
    started_at: float | None
    """When a worker first started one of them."""
    finished_at: float | None
    deadline_at: float | None
    items: int
    """Of a job that is still validating: those found so far."""
    shard_count: int
    shards: dict[str, int]
    """Shards by status."""
    phase: str | None
    """What its running shards do: loading, reading, generating or writing."""
    counts: ItemCounts
    usage: Usage
    timings: JobTimings
    losses: int
    """Times that a shard lost its worker."""
    failures: int
    """Times that a shard's engine failed."""
    trouble: str | None
    """What went wrong with a shard that was not done since: why it is tried again, or was given up."""
    error: JobError | None
    metadata: dict[str, str]
    manifest_version: int
    generation: int
    """Grows with every change of status."""
    images: int | None = None
    """Images that were stored, so far; None of a job of another kind."""
    sounds: int | None = None
    """Spoken texts that were stored, so far; None of a job of another kind."""
    rows: int | None = None
    """Rows of the table that were stored, so far; None of a job of another kind."""
    parent: str | None = None
    """Of a linked table: the job whose rows are its subjects."""
    following: str | None = None
    """Of a job that a pass over all of its rows or a report follows, how far it is with that: pass, redo, settled,
    report or over; None before."""
    findings: Findings | None = None
    """What passes and the report have found."""
    dataset: DatasetView | None = None
    """Of a job that makes a dataset."""
    training: TrainingProgress | None = None
    """Of a job that trains a model: how far it is, or was when it last said so."""
    predicted_finish_at: float | None = None
    """While it is in progress, and how fast it is is known."""
    checks: CheckFigures | None = None
    """Of a job with rules: what they came to in the shards that are done, where they found something wrong."""
    nodes: tuple[NodeView, ...] = ()
    """Of a flow, each behind all that it needs. The flow's items and counts are the sums of theirs."""
    flow: str | None = None
    """Of a node of a flow, the flow's id."""
    first_prediction: Prediction | None = None
    """The first that was made in its first run, once it had run for a little."""

    @property
    def ended(self) -> bool:
        """Nothing more happens unless somebody asks for a retry."""
        return self.finished_at is not None

    def to_json(self) -> dict[str, Any]:  # JSON
        """As the API and `--json` show it."""
        shown: dict[str, Any] = msgspec.to_builtins(self)
        return shown


def view_job(
    row: Row,  # type: ignore[type-arg]  # of `jobs`, all columns
    live: Totals | None,
    training: Reported | None = None,
    nodes: tuple[NodeView, ...] = (),
) -> JobView:
    """The view of a row.

    Args:
        row: The row.
        live: The sum over its shards, for a job whose totals are not frozen.
        training: What a job that trains a model last said of that.
        nodes: Of a flow.
    """
    totals = live or Totals() if row.totals is None else msgspec.json.decode(row.totals, type=Totals)
    spec = orjson.loads(row.spec)
    first = None if row.first_prediction is None else Prediction(row.first_predicted_at, row.first_prediction)
    return JobView(
        id=row.id,
        name=row.name,
        kind=row.kind,
        model=row.model,
        engine=row.engine,
        status=JobStatus(row.status),
        priority=PRIORITIES[row.priority],
        created_at=row.created_at,
        planned_at=row.planned_at,
        started_at=totals.started_at,
        finished_at=row.finished_at,
        deadline_at=row.deadline_at,
        items=row.items if row.planned_at is not None else totals.items,
        shard_count=row.shard_count if row.planned_at is not None else sum(totals.shards.values()),
        shards=totals.shards,
        phase=totals.phase,
        counts=totals.counts,
        usage=totals.usage,
        timings=totals.timings(row.created_at, row.finished_at),
        losses=totals.losses,
        failures=totals.failures,
        trouble=totals.trouble,
        error=None if row.error is None else msgspec.json.decode(row.error, type=JobError),
        metadata=spec.get("metadata", {}),
        manifest_version=row.manifest_version,
        generation=row.generation,
        images=totals.counts.ok * int(spec.get("n", 1)) if row.kind == "image" else None,
        sounds=totals.counts.ok if row.kind == "audio" else None,
        rows=_table_rows(spec, totals) if row.kind == "tabular" else None,
        parent=spec["table"].get("parent") if row.kind == "tabular" else None,
        following=row.pass_at,
        findings=None if row.findings is None else decode_findings(row.findings),
        dataset=_dataset(spec) if row.kind == "dataset" else None,
        training=None if training is None else training.progress,
        predicted_finish_at=_predicted(row, training) if row.status == JobStatus.IN_PROGRESS else None,
        checks=totals.checks,
        nodes=nodes,
        flow=row.flow,
        first_prediction=first,
    )


def _dataset(spec: dict[str, Any]) -> DatasetView:  # a JobSpec as JSON
    from orchestrator.dataset_samples import about  # noqa: PLC0415 - Jinja only where there is a plan
    from workers.columns.kinds import parse_columns  # noqa: PLC0415 - the same

    columns = parse_columns(spec["columns"])
    source = spec["source"]
    grid = source.get("grid", {})
    # Of a path or a URI the name alone: where a file lies is nobody's business who reads the dataset's card.
    made_from = [str(source["file"]).rpartition("/")[2]] if "file" in source else []
    made_from += [f"{len(source['items']):,} rows"] if "items" in source else []
    made_from += [f"{name}: {len(values)} values" for name, values in grid.items()]
    return DatasetView(
        columns={name: about(column) for name, column in columns.items()},
        output=tuple(spec.get("output") or dict.fromkeys((*grid, *columns))),
        seed=spec.get("seed", 0),
        source=", ".join(made_from) or "nothing but the plan",
        asks_model=any(column.asked is not None for column in columns.values()),
        split=spec.get("split"),
        split_by=spec.get("split_by"),
    )


def view_node(row: Row, totals: Totals, completed: Collection[str]) -> NodeView:  # type: ignore[type-arg]  # of `jobs`, all columns
    """The view of a node's row; `completed` are the nodes of its flow that have."""
    needs = orjson.loads(row.needs or "[]")
    return NodeView(
        name=row.node,
        job=row.id,
        kind=row.kind,
        model=row.model,
        status=JobStatus(row.status),
        items=row.items if row.planned_at is not None else totals.items,
        counts=totals.counts,
        waits_for=tuple(name for name in needs if name not in completed) if row.blocked else (),
    )


def _table_rows(spec: dict[str, Any], totals: Totals) -> int:  # a stored job
    rows, block = spec["table"].get("rows"), int(spec["table"].get("block", BLOCK_ROWS))
    # A block of subjects has as many rows as they have, which its shard says once it is done.
    return totals.rows if rows is None else min(int(rows), totals.counts.ok * block)


def _predicted(row: Row, training: Reported | None) -> float | None:  # type: ignore[type-arg]  # as above
    # A training knows its own pace from its first steps on, long before anything like it has ended.
    own = None if training is None else training.finish_at
    predicted: float | None = row.predicted_finish_at if own is None else own
    return predicted
