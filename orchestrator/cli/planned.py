"""`nightmill plan`: what would run, and whether it can, without running anything."""

# ruff: noqa: PLC0415 - commands import what they need when they run, so that `--help` answers at once

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.output import guarded, print_json
from orchestrator.cli.running import JobFile, Overrides, checked_job, jobs_of
from orchestrator.cli.stack import AsJson

if TYPE_CHECKING:
    from models.tabular.columns import Column
    from orchestrator.planning import PlannedShard, PlanSummary, Staging
    from orchestrator.spec import JobSpec
    from orchestrator.table_columns import PlannedRows
    from orchestrator.table_spec import TableFields
    from orchestrator.train_spec import TrainData
    from workers.contracts import Row, SourceRange


@guarded
def plan(
    *,
    job_file: JobFile,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option(min=0, max=100, help="Rendered prompts to show.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Check a job, its source and every row of it, and show what would run. Submits nothing."""
    from orchestrator.cli.previewing import STAGED, job_source, store_of
    from orchestrator.cli.reach import settings_for
    from orchestrator.planning import Staging
    from orchestrator.planning import plan as plan_job
    from orchestrator.table_columns import PlannedRows, is_fitting, planned_columns
    from workers.store_folder import FolderStore

    whole = checked_job(job_file, overrides, allow_faults=settings_for().allow_faults, rows=False)
    planned: list[_Planned] = []
    for spec in jobs_of(whole):
        with tempfile.TemporaryDirectory(prefix="nightmill-plan-") as folder:
            staging = Staging(FolderStore(folder), STAGED)
            rows = spec.over_rows()
            source = job_source(rows, staging)
            ranges: list[SourceRange] = []

            def keep(shards: list[PlannedShard], ranges: list[SourceRange] = ranges) -> None:
                ranges.extend(_sources(shards))

            fits = is_fitting(spec)
            rendered = 0 if fits or spec.kind == "tabular" else samples
            take = keep if fits else lambda _: None
            summary = plan_job(rows, source, staging, on_shards=take, samples=rendered)
            if not fits:
                planned.append(_Planned(spec, summary))
                continue
            parent = _parent_rows(spec, Staging(staging.store, f"{STAGED}-parent"))
            own = PlannedRows(ranges, store_of(ranges[0], source, staging))
            found = planned_columns(spec, own, parent)
            planned.append(_Planned(spec, summary, found.columns, () if found.parent is None else found.parent.columns))
    if as_json:
        shown = [_as_json(each) for each in planned]
        print_json({"name": whole.name, "kind": whole.kind, "nodes": shown} if whole.nodes else shown[0])
    else:
        sys.stdout.write("\n\n".join("\n".join(_lines(each)) for each in planned) + "\n")


def _parent_rows(spec: JobSpec, staging: Staging) -> PlannedRows | None:
    """The rows of the subjects that those of a linked table belong to, where they are in a file; each is checked."""
    from orchestrator.cli.previewing import job_source, store_of
    from orchestrator.planning import plan as plan_job
    from orchestrator.spec_error import SpecError
    from orchestrator.table_columns import PlannedRows
    from orchestrator.train_spec import PARENT_FILE

    rows = spec.over_parent()
    if rows is None:
        return None
    ranges: list[SourceRange] = []
    try:
        source = job_source(rows, staging)
        plan_job(rows, source, staging, on_shards=lambda shards: ranges.extend(_sources(shards)), samples=0)
    except SpecError as error:
        raise error.renamed("source.file", PARENT_FILE) from error
    return PlannedRows(ranges, store_of(ranges[0], source, staging))


def _sources(shards: list[PlannedShard]) -> Iterator[SourceRange]:
    return (shard.source for shard in shards)


@dataclass(frozen=True)
class _Planned:
    spec: JobSpec
    summary: PlanSummary
    columns: tuple[Column, ...] = ()
    """Of a table that a model is fitted to."""
    parent_columns: tuple[Column, ...] = ()
    """Of its parent."""


def _as_json(planned: _Planned) -> dict[str, object]:
    spec, summary = planned.spec, planned.summary
    tables = {"kinds": planned.columns, "parent_kinds": planned.parent_columns}
    return {
        **{
            field: [{"name": each.name, "kind": each.kind, "why": each.reason} for each in columns]
            for field, columns in tables.items()
            if columns
        },
        "name": spec.name,
        "kind": spec.kind,
        "model": spec.model,
        "items": summary.items,
        "rows": summary.rows,
        "shards": summary.shards,
        "items_per_shard": summary.items_per_shard,
        "bytes": summary.bytes,
        "columns": summary.columns,
        "fields": summary.fields,
        "custom_id": summary.custom_id,
        **({"drawn": _drawn(spec, len(summary.samples))} if spec.kind == "dataset" else {}),
        "samples": [[{"role": one.role, "content": one.content} for one in sample] for sample in summary.samples],
    }


def _lines(planned: _Planned) -> list[str]:
    spec, summary = planned.spec, planned.summary
    lines = [
        f"{spec.name}: {_verdict(spec)}",
        *_items(spec, summary),
        f"  model    {spec.model} ({_runs_here(spec)})",
        f"  output   {_output(spec, summary)}",
    ]
    if spec.data is not None:
        lines.append(f"  data     {spec.data.dataset or spec.input_file or spec.data.database}")
        lines += _links(spec.data)
    if spec.source.file is not None:
        lines.append(f"  source   {spec.source.file} ({_size(summary.bytes)})")
    if spec.kind not in {"dataset", "tabular"} or spec.source.file is not None:
        lines += _columns("columns", planned.columns, planned.summary.columns)
        lines += _columns("parent's", planned.parent_columns, ())
    if summary.fields and spec.kind != "dataset":
        lines.append(f"  used     {', '.join(summary.fields)}")
    if summary.custom_id is not None:
        lines.append(f"  ids      from {summary.custom_id}")
    if spec.upstream:
        lines.append(f"  needs    {', '.join(spec.upstream)}")
    if spec.deadline is not None:
        lines.append(f"  deadline {spec.deadline}")
    return lines + (_plan_lines if spec.kind == "dataset" else _sample_lines)(spec, summary)


def _verdict(spec: JobSpec) -> str:
    if spec.table is not None:
        return "can be sampled, if the model is there"
    return "every row is fine" if spec.training is None else "can be trained"


def _sample_lines(spec: JobSpec, summary: PlanSummary) -> list[str]:
    lines: list[str] = []
    for number, sample in enumerate(summary.samples):
        lines += ["", f"  {'prompt' if spec.data is None else 'row'} {number}:"]
        for message in sample:
            lines += [f"    {message.role}:", *(f"      {line}" for line in message.content.rstrip().splitlines())]
    return lines


def _plan_lines(spec: JobSpec, summary: PlanSummary) -> list[str]:
    from orchestrator.dataset_samples import about
    from workers.template_budget import text_of

    width = max(map(len, spec.plan))
    lines = ["", "  columns, as they are filled:"]
    lines += [f"    {name:<{width}}  {about(column)}" for name, column in spec.plan.items()]
    for number, row in enumerate(_drawn(spec, len(summary.samples))):
        lines += ["", f"  drawn for row {number}:", *(f"    {name}: {text_of(value)}" for name, value in row.items())]
    return lines


def _drawn(spec: JobSpec, samples: int) -> list[Row]:
    from orchestrator.cli.previewing import first_items
    from orchestrator.dataset_samples import drawn

    small, _ = first_items(spec, samples)
    return drawn(spec, spec.seed, small.source.items or [])


def _links(data: TrainData) -> list[str]:
    """How the rows of a linked table belong to subjects."""
    if data.foreign_key is None:
        return []
    order = "in the file's order" if data.order_by is None else f"by {data.order_by}"
    lines = [f"  linked   rows of one {data.foreign_key} are a sequence, {order}"]
    if data.parent is not None:
        lines.append(f"  parent   {data.parent.file or data.database}, a row for each {data.parent.key}")
    return lines


def _columns(title: str, columns: Sequence[Column], names: Sequence[str]) -> list[str]:
    """The names of the rows' fields; of a table with what each is taken for, and why."""
    if not columns:
        return [f"  {title:<8} {', '.join(names)}"] if names else []
    width = max(len(each.name) for each in columns)
    shown = [f"{each.name:<{width}}  {each.kind:<11}  {each.reason}" for each in columns]
    return [f"  {'' if number else title:<8} {line}" for number, line in enumerate(shown)]


def _items(spec: JobSpec, summary: PlanSummary) -> list[str]:
    if spec.data is not None and spec.data.file is not None:
        return [f"  rows     {summary.rows:,}"]
    if spec.table is not None and spec.table.parent is not None:
        return [f"  items    a block for each of job {spec.table.parent}, whose rows are the subjects"]
    size = spec.source.grid_size
    rows = f" ({summary.rows:,} rows by {size:,} combinations of the grid)" if size > 1 else ""
    return [
        f"  items    {summary.items:,}{rows}",
        f"  shards   {summary.shards:,}, of {summary.items_per_shard:,} items at most",
    ]


def _output(spec: JobSpec, summary: PlanSummary) -> str:
    if spec.training is not None:
        training, work = spec.training, spec.train_work(spec.seed)
        budget = "" if training.budget is None else f", {training.budget} at most"
        steps = f"{work.parsed_settings().steps:,} steps{budget}"
        if training.base is not None:
            return f"an adapter of {training.base}, {steps}"
        if work.fit is not None:
            return f"a {training.family} model of tables{budget}"
        return f"a {training.family} model of {work.width} by {work.height}, {steps}"
    if spec.table is not None:
        return _table_output(spec.table)
    if spec.kind == "image":
        return f"{spec.n * summary.items:,} images by {', '.join(spec.steps)}"
    if spec.kind == "audio":
        voice = "" if spec.audio.voice is None else f" by the voice {spec.audio.voice}"
        return f"{summary.items:,} spoken texts{voice}"
    if spec.kind == "dataset":
        a_row = sum(column.most_tokens(spec.sampling.max_tokens) for column in spec.plan.values())
        made = f"rows of {len(spec.given(spec.source.grid or ()))} columns"
        return f"{made}, {a_row * summary.items:,} tokens at most ({a_row:,} a row)" if a_row else made
    longest = spec.sampling.max_tokens * spec.n * summary.items
    return f"{longest:,} tokens at most ({spec.sampling.max_tokens:,} an output)"


def _table_output(table: TableFields) -> str:
    if table.parent is not None:
        few = "its" if table.subjects is None else f"the first {table.subjects:,} of its"
        return f"as many rows as {few} subjects have"
    if table.subjects is not None:
        return f"as many rows as {table.subjects:,} subjects have, in blocks of {table.block:,} subjects"
    return f"{table.number:,} rows, in blocks of {table.block:,}"


def _runs_here(spec: JobSpec) -> str:
    from models import audio_catalog, catalog
    from models.errors import ModelError
    from models.image_catalog import engine_key
    from models.tabular.families import FAMILIES, check_table_engine
    from models.training_run import check_training_engine
    from orchestrator.static_checks import may_be_trained

    if may_be_trained(spec) or spec.kind == "tabular":
        return "one that was trained, if there is"
    try:
        if spec.kind == "train":
            if spec.training is not None and spec.training.family in FAMILIES:
                check_table_engine(spec.training.family)
            check_training_engine(tuning=spec.training is not None and spec.training.base is not None)
            return "can be trained here"
        if spec.kind == "image":
            engine_key(spec.model, spec.steps)
            return "runs here"
        if spec.kind == "audio":
            audio_catalog.engine_key(spec.model)
            return "runs here"
        return f"runs here with {catalog.choose_engine(spec.model, spec.engine)}"
    except ModelError as error:
        return f"does not run here: {error.message}"


def _size(count: int) -> str:
    amount = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:,.0f} {unit}" if unit == "bytes" else f"{amount:,.1f} {unit}"
