"""`nightmill plan`: what would run, and whether it can, without running anything."""

# ruff: noqa: PLC0415 - commands import what they need when they run, so that `--help` answers at once

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.output import guarded, print_json
from orchestrator.cli.running import JobFile, Overrides, checked_job, jobs_of
from orchestrator.cli.stack import AsJson

if TYPE_CHECKING:
    from models.tabular.columns import Column
    from orchestrator.planning import PlannedShard, PlanSummary
    from orchestrator.spec import JobSpec
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
    from orchestrator.table_columns import is_fitting, planned_columns
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
                ranges.extend(shard.source for shard in shards)

            fits = is_fitting(spec)
            take = keep if fits else lambda _: None
            summary = plan_job(rows, source, staging, on_shards=take, samples=0 if fits else samples)
            columns = planned_columns(spec, ranges, store_of(ranges[0], source, staging)) if fits else ()
            planned.append(_Planned(spec, summary, columns))
    if as_json:
        shown = [_as_json(each) for each in planned]
        print_json({"name": whole.name, "kind": whole.kind, "nodes": shown} if whole.nodes else shown[0])
    else:
        sys.stdout.write("\n\n".join("\n".join(_lines(each)) for each in planned) + "\n")


@dataclass(frozen=True)
class _Planned:
    spec: JobSpec
    summary: PlanSummary
    columns: tuple[Column, ...]
    """Of a table that a model is fitted to."""


def _as_json(planned: _Planned) -> dict[str, object]:
    spec, summary = planned.spec, planned.summary
    kinds = [{"name": each.name, "kind": each.kind, "why": each.reason} for each in planned.columns]
    return {
        **({"kinds": kinds} if kinds else {}),
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
        f"{spec.name}: {'every row is fine' if spec.training is None else 'can be trained'}",
        *_items(spec, summary),
        f"  model    {spec.model} ({_runs_here(spec)})",
        f"  output   {_output(spec, summary)}",
    ]
    if spec.data is not None:
        lines.append(f"  data     {spec.data.dataset or spec.input_file}")
    if spec.source.file is not None:
        lines.append(f"  source   {spec.source.file} ({_size(summary.bytes)})")
    if spec.kind != "dataset" or spec.source.file is not None:
        lines += _columns(planned)
    if summary.fields and spec.kind != "dataset":
        lines.append(f"  used     {', '.join(summary.fields)}")
    if summary.custom_id is not None:
        lines.append(f"  ids      from {summary.custom_id}")
    if spec.upstream:
        lines.append(f"  needs    {', '.join(spec.upstream)}")
    if spec.deadline is not None:
        lines.append(f"  deadline {spec.deadline}")
    return lines + (_plan_lines if spec.kind == "dataset" else _sample_lines)(spec, summary)


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


def _columns(planned: _Planned) -> list[str]:
    """The names of the rows' fields; of a table with what each is taken for, and why."""
    if not planned.columns:
        return [f"  columns  {', '.join(planned.summary.columns)}"] if planned.summary.columns else []
    width = max(len(each.name) for each in planned.columns)
    shown = [f"{each.name:<{width}}  {each.kind:<11}  {each.reason}" for each in planned.columns]
    return [f"  {'' if number else 'columns':<8} {line}" for number, line in enumerate(shown)]


def _items(spec: JobSpec, summary: PlanSummary) -> list[str]:
    if spec.data is not None and spec.data.file is not None:
        return [f"  rows     {summary.rows:,}"]
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


def _runs_here(spec: JobSpec) -> str:
    from models import audio_catalog, catalog
    from models.errors import ModelError
    from models.image_catalog import engine_key
    from models.tabular.families import FAMILIES, check_table_engine
    from models.training_run import check_training_engine
    from orchestrator.static_checks import may_be_trained

    if may_be_trained(spec):
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
