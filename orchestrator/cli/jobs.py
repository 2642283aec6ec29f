"""Commands about jobs that were submitted: list, show, watch, read results, steer."""

# ruff: noqa: PLC0415 - commands import what they need when they run, so that `--help` answers at once

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestrator.cli.output import CommandError, guarded, print_json, print_table, say
from orchestrator.cli.stack import AsJson, DataDir

if TYPE_CHECKING:
    from orchestrator.client import Client, Page
    from orchestrator.views import JobView

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, its first characters, or `last`.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write a file into this folder.")]
Format = Annotated[
    Literal["jsonl", "csv", "parquet"] | None,
    typer.Option("--format", help="Of the file that is written: by default jsonl, of a table parquet."),
]
FailOnErrors = Annotated[bool, typer.Option("--fail-on-errors", help="Exit with 1 if any item failed.")]
SHORTEST_PREFIX = 4


def _reading(data_dir: Path | None) -> AbstractContextManager[Client]:
    from orchestrator.cli.reach import reading_service, settings_for

    return reading_service(settings_for(data_dir))


def _running(data_dir: Path | None) -> AbstractContextManager[Client]:
    from orchestrator.cli.reach import running_service, settings_for

    return running_service(settings_for(data_dir))


def find_job(client: Client, given: str) -> JobView:
    """The job that a person means: by its id, by the beginning of its id, or the newest.

    Raises:
        ApiError: there is none, or more than one.
    """
    from orchestrator.client import ApiError

    if given == "last":
        newest = client.jobs(limit=1)
        if not newest:
            raise CommandError("there is no job yet")
        return newest[0]
    try:
        return client.job(given)
    except ApiError as error:
        if error.code != "job_not_found" or len(given) < SHORTEST_PREFIX:
            raise
        close = [
            job
            for job in client.jobs(limit=1000)
            if job.id.lower().endswith(given.lower()) or job.id.lower().startswith(given.lower())
        ]
        if len(close) != 1:
            raise
        return close[0]


@guarded
def list_jobs(
    *,
    status: Annotated[str | None, typer.Option(help="Only those of this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    from orchestrator.cli.text import ago

    with _reading(data_dir) as client:
        jobs = client.jobs(status=status, limit=limit)
    if as_json:
        print_json([job.to_json() for job in jobs])
        return
    if not jobs:
        say("there is no job yet" if status is None else f"there is no job of status {status}")
        return
    rows = [
        [
            job.id,
            job.name,
            job.model,
            job.status.value,
            f"{job.counts.ok:,}",
            f"{job.counts.failed:,}",
            f"{job.items:,}",
            ago(job.created_at),
        ]
        for job in jobs
    ]
    print_table(
        ["id", "name", "model", "status", "ok", "failed", "items", "submitted"], rows, right=["ok", "failed", "items"]
    )


@guarded
def show(*, job_id: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show a job: counts, tokens, where its time went, what went wrong."""
    from orchestrator.cli.text import describe

    with _reading(data_dir) as client:
        job = find_job(client, job_id)
    if as_json:
        print_json(job.to_json())
        return
    for name, value in describe(job):
        sys.stdout.write(f"{name:<11} {value}\n")


@guarded
def watch(
    *, job_id: JobId, fail_on_errors: FailOnErrors = False, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Watch a job until it has ended. Ctrl-C stops watching, not the job."""
    from orchestrator.cli.following import Ending, conclude, follow
    from orchestrator.cli.output import stderr
    from orchestrator.cli.progress import display

    with _running(data_dir) as client:
        job = find_job(client, job_id)
        with display(stderr()) as shown:
            job = follow(client, job.id, shown)
    conclude(Ending(job, f"nightmill results {job.id} --out DIR"), as_json=as_json, fail_on_errors=fail_on_errors)


@guarded
def results(
    *,
    job_id: JobId,
    out: Out = None,
    form: Format = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print a job's results in item order, or write them into a folder. Also while the job runs.

    Without --out they go to the standard output, as JSON lines unless --format says otherwise.
    """
    from orchestrator.cli.saving import save_job, stream_results

    with _reading(data_dir) as client:
        job = find_job(client, job_id)
        if out is not None:
            path = save_job(client, job, out, form)
            say(f"{path}")
        elif as_json:
            print_json(_first(client.results, job.id, limit))
        elif limit is not None and form in {None, "jsonl"}:
            import orjson

            for record in _first(client.results, job.id, limit):
                sys.stdout.buffer.write(orjson.dumps(record) + b"\n")
        else:
            stream_results(client, job.id, form or "jsonl")
        sys.stdout.flush()
    if not job.ended:
        say(f"the job is still {job.status.value}: these are the results so far")


@guarded
def errors(
    *,
    job_id: JobId,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the items of a job that failed, and why."""
    with _reading(data_dir) as client:
        job = find_job(client, job_id)
        records = _first(client.errors, job.id, limit)
    if as_json:
        print_json(records)
        return
    if job.error is not None:
        say(f"the job itself: {job.error.message}")
    if not records:
        say("no item failed")
        return
    rows = []
    for record in records:
        error = record.get("error") or {}
        rows.append(
            [
                str(record["index"]),
                str(record.get("custom_id", "")),
                str(record["status"]),
                str(error.get("code", "")),
                str(error.get("message", "")),
            ]
        )
    print_table(["item", "custom_id", "status", "code", "message"], rows, right=["item"])
    bad = job.counts.failed + job.counts.cancelled + job.counts.expired
    if bad > len(records):
        say(f"{len(records):,} of {bad:,}; see more with --limit")


def _first(read: Callable[..., Page], job_id: str, limit: int | None) -> list[dict[str, Any]]:  # records: any JSON
    """The first records that a reader of pages gives; all of them without a limit."""
    records: list[dict[str, Any]] = []  # any JSON
    after: int | None = None
    while limit is None or len(records) < limit:
        page = read(job_id, after=after, limit=min(1000, limit - len(records)) if limit else 1000)
        records += page.data
        if not page.has_more or page.next_after is None:
            break
        after = page.next_after
    return records


@guarded
def cancel(*, job_id: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Cancel a job. What is finished stays."""
    _act(job_id, "cancel", data_dir, as_json=as_json)


@guarded
def pause(*, job_id: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Start nothing more of a job. What runs already goes on to its end."""
    _act(job_id, "pause", data_dir, as_json=as_json)


@guarded
def resume(*, job_id: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Go on with a paused job."""
    _act(job_id, "resume", data_dir, as_json=as_json)


@guarded
def retry(*, job_id: JobId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Run the failed and expired items of a job again."""
    _act(job_id, "retry", data_dir, as_json=as_json)


def _act(
    job_id: str, action: Literal["cancel", "pause", "resume", "retry"], data_dir: Path | None, *, as_json: bool
) -> None:
    with _running(data_dir) as client:
        job = client.act(find_job(client, job_id).id, action)
    if as_json:
        print_json(job.to_json())
    else:
        say(f"{job.id} is {job.status.value}")
