"""A job from the moment that it is submitted to the figures at its end."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import typer

from orchestrator.cli.output import BAD_INPUT, NOT_COMPLETED, OK, print_json
from orchestrator.cli.progress import Display, Speedometer
from orchestrator.cli.text import error_text, findings_lines, item_counts, output, wall_time
from orchestrator.client import Client
from orchestrator.lifecycle import JobStatus
from orchestrator.views import JobView

FIRST_FEW = 3
LONGEST_SAMPLE = 600
"""Characters of an output that are shown at the end of a run."""
WIDEST = 100


def follow(client: Client, job_id: str, shown: Display) -> JobView:
    """Show a job's progress until it has ended; returns how it ended."""
    speedometer = Speedometer()
    job = client.job(job_id)
    for job in client.watch(job_id):
        shown.show(speedometer.look(job))
    return job


@dataclass(frozen=True, slots=True)
class Ending:
    """What there is to say of a job that has ended."""

    job: JobView
    results: str
    """Where the results are."""
    source: str | None = None
    """The source file, by the name that the person knows."""
    samples: tuple[Mapping[str, Any], ...] = ()  # records: any JSON

    def write(self) -> None:
        """Print the figures, and the first few outputs."""
        job = self.job
        lines = [f"{job.name} · {job.id} · {job.status.value}"]
        why = error_text(job, self.source)
        if why is not None:
            lines.append(f"  error    {why}")
        if job.items:
            name, value = output(job)
            lines += [
                f"  items    {item_counts(job)}",
                f"  {name:<8} {value}",
                *(f"  {title:<8} {text}" for title, text in findings_lines(job)),
                f"  time     {wall_time(job)}",
                f"  results  {self.results}",
            ]
        width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
        for record in self.samples:
            lines += ["", *sample_lines(record, width)]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


def sample_lines(record: Mapping[str, Any], width: int) -> list[str]:  # a record: any JSON
    """A record as a person reads it, in lines of at most `width` characters."""
    name = f" {record['custom_id']}" if "custom_id" in record else ""
    given = ", ".join(f"{key}: {value}" for key, value in (record.get("input") or {}).items())
    lines = [f"  [{record['index']}]{name}{f' ({given})' if given else ''}"]
    for text in output_texts(record):
        short = text if len(text) <= LONGEST_SAMPLE else text[:LONGEST_SAMPLE].rstrip() + " …"
        for line in short.splitlines() or [""]:
            lines += textwrap.wrap(line, width, initial_indent="    ", subsequent_indent="    ") or [""]
    return lines


def row_texts(record: Mapping[str, Any]) -> list[str]:  # a record: any JSON
    """The columns of a dataset's row as text, each with its name; of a record without any, why there is none."""
    output = record.get("output")
    return [f"{name}: {_text(value)}" for name, value in output.items()] if output else output_texts(record)


def output_texts(record: Mapping[str, Any]) -> list[str]:  # a record: any JSON
    """The outputs of a record as text; of a record without any, why there is none."""
    if "nodes" in record:
        return [f"{name}: {text}" for name, made in record["nodes"].items() for text in output_texts(made)]
    if "error" in record:
        return [f"{record['status']}: {record['error']['code']}: {record['error']['message']}"]
    if "trained" in record:
        model = record["trained"]
        if model.get("base"):
            return [f"adapter {model['name']}@{model['version']} of {model['base']}{_judged(model['metrics'])}"]
        if model.get("columns"):
            named = ", ".join(f"{column['name']} ({column['kind']})" for column in model["columns"])
            linked = model.get("linked")
            of = "" if linked is None else f", sequences by {linked['foreign_key']}"
            return [f"model {model['name']}@{model['version']} of {len(model['columns'])} columns{of}: {named}"]
        size = f"{model['width']} by {model['height']}"
        return [f"model {model['name']}@{model['version']}, {size}: {', '.join(model['classes']) or 'any text'}"]
    if any(name in record for name in ("images", "audio", "table")):
        return list(_files_text(record))
    if "outputs" in record:
        return [_text(output["text"]) for output in record["outputs"]]
    return [_text(record.get("output", record["status"]))]


def _files_text(record: Mapping[str, Any]) -> Iterator[str]:  # a record: any JSON
    for image in record.get("images", ()):
        yield f"{image['key'].rpartition('/')[2]}, {image['width']} by {image['height']}{_of_prompt(record)}"
    for sound in record.get("audio", ()):
        yield f"{sound['key'].rpartition('/')[2]}, {sound['seconds']:.1f} s: {record['prompt'].strip()}"
    if "table" in record:
        table = record["table"]
        wanted = table.get("subjects", table["rows"])
        drawn = f" of {table['candidates']:,} candidates" if table["candidates"] != wanted else ""
        whose = f" of {wanted:,} subjects" if "subjects" in table else ""
        yield f"{table['rows']:,} rows{whose}{drawn}, {table['bytes'] / 1000:,.0f} kB"


def _judged(metrics: Mapping[str, float]) -> str:
    before, after = metrics.get("held_out_loss_before"), metrics.get("held_out_loss")
    return "" if before is None or after is None else f": loss on held-out data {before:.4f} before, {after:.4f} after"


def _of_prompt(record: Mapping[str, Any]) -> str:  # a record: any JSON
    return f", {record['prompt']}" if record.get("prompt") else ""


def _text(output: object) -> str:
    if isinstance(output, str):
        return output
    import orjson  # noqa: PLC0415 - only for a job with a schema

    return orjson.dumps(output, option=orjson.OPT_INDENT_2).decode()


def exit_code(job: JobView, *, fail_on_errors: bool) -> int:
    """0 where the job completed; 2 where it could not start for what it was given; 1 otherwise."""
    if job.status is JobStatus.COMPLETED:
        return NOT_COMPLETED if fail_on_errors and job.counts.failed else OK
    never_started = job.status is JobStatus.FAILED and job.planned_at is None
    return BAD_INPUT if never_started else NOT_COMPLETED


def conclude(ending: Ending, *, as_json: bool, fail_on_errors: bool) -> None:
    """Print the end of a job, and end the command with the exit code that it means."""
    if as_json:
        print_json(ending.job.to_json())
    else:
        ending.write()
    code = exit_code(ending.job, fail_on_errors=fail_on_errors)
    if code != OK:
        raise typer.Exit(code)
