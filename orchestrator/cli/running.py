"""`nightmill run`, `submit` and `preview`: from a job file to results."""

# ruff: noqa: PLC0415 - commands import what they need when they run, so that `--help` answers at once

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.jobs import FailOnErrors, Format, Out
from orchestrator.cli.output import BAD_INPUT, CommandError, guarded, print_json, say, stderr
from orchestrator.cli.stack import AsJson, DataDir

if TYPE_CHECKING:
    from orchestrator.cli.progress import Display
    from orchestrator.cli.reach import Service
    from orchestrator.client import Client
    from orchestrator.spec import JobSpec
    from orchestrator.views import JobView

JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the job: sampling.max_tokens=64. Repeatable."),
]
CANCEL_SECONDS = 5.0
QUICK_BYTES = 16 << 20
QUICK_ITEMS = 200_000


@guarded
def run(
    *,
    job_file: JobFile,
    overrides: Overrides = None,
    out: Out = None,
    form: Format = None,
    no_watch: Annotated[bool, typer.Option("--no-watch", help="Submit only, and print the job's id.")] = False,
    fail_on_errors: FailOnErrors = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Run a job to its end and show the results. Starts a stack for it, where none runs."""
    from orchestrator.cli.following import FIRST_FEW, Ending, conclude, follow
    from orchestrator.cli.progress import display
    from orchestrator.cli.reach import any_service, settings_for
    from orchestrator.cli.saving import save_job

    settings = settings_for(data_dir)
    spec = checked_job(job_file, overrides, allow_faults=settings.allow_faults)
    if no_watch:
        submit_only(spec, data_dir, as_json=as_json)
        return
    progress = ExitStack()
    shown = progress.enter_context(display(stderr()))
    with progress, any_service(settings, shown.phase) as service:
        client = service.client
        submission = Submission(spec)
        try:
            job = follow(client, submission.send(client, shown), shown)
        except KeyboardInterrupt:
            progress.close()
            if submission.job is not None:
                _leave(service, submission.job)
            raise
        if out is not None and job.items:
            shown.phase("saving")
            where = str(save_job(client, job, out, form))
        else:
            where = f"nightmill results {job.id} --out DIR"
        samples = () if as_json or not job.items else tuple(client.results(job.id, limit=FIRST_FEW).data)
        progress.close()
        ending = Ending(job, where, source=_source_of(spec, job), samples=samples)
        conclude(ending, as_json=as_json, fail_on_errors=fail_on_errors)


def _source_of(spec: JobSpec, job: JobView) -> str | None:
    """The file that an error of a job is about, by the name that the person knows."""
    from orchestrator.train_spec import PARENT_FILE

    param = "" if job.error is None or job.error.param is None else job.error.param
    return spec.input_files.get(PARENT_FILE) if param.startswith("data.parent.") else spec.input_file


def _leave(service: Service, job: JobView) -> None:
    """After Ctrl-C: a stack of our own ends, and the job with it; on another one the job goes on."""
    if service.stack is None:
        say(f"the job goes on: `nightmill watch {job.id}` to see it again, `nightmill cancel {job.id}` to stop it")
        return
    say(f"cancelling {job.id} and stopping the stack")
    client = service.client
    deadline = time.monotonic() + CANCEL_SECONDS
    job = client.act(job.id, "cancel")
    pause = threading.Event()
    while not job.ended and time.monotonic() < deadline:
        pause.wait(0.1)
        job = client.job(job.id)
    if job.counts.ok:
        say(f"{job.counts.ok:,} finished items are kept: nightmill results {job.id}")


@guarded
def submit(
    *, job_file: JobFile, overrides: Overrides = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Submit a job to a running stack and print its id."""
    from orchestrator.cli.reach import settings_for

    settings = settings_for(data_dir)
    submit_only(checked_job(job_file, overrides, allow_faults=settings.allow_faults), data_dir, as_json=as_json)


def submit_only(spec: JobSpec, data_dir: Path | None, *, as_json: bool) -> None:
    """Submit a job and print its id, or the job as JSON."""
    from orchestrator.cli.progress import Lines
    from orchestrator.cli.reach import running_service, settings_for

    with running_service(settings_for(data_dir)) as client:
        submission = Submission(spec)
        job_id = submission.send(client, Lines(lambda _: None))
    if as_json and submission.job is not None:
        print_json(submission.job.to_json())
    else:
        sys.stdout.write(f"{job_id}\n")


@guarded
def preview(
    *,
    job_file: JobFile,
    count: Annotated[int, typer.Option("--n", min=1, max=100, help="How many items.")] = 5,
    overrides: Overrides = None,
    out: Out = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Run the first few items for real, and show prompts and outputs."""
    from orchestrator.cli.following import Ending, conclude, exit_code, follow
    from orchestrator.cli.previewing import first_items, print_previews, some_rows, table_records
    from orchestrator.cli.progress import display
    from orchestrator.cli.reach import any_service, settings_for
    from orchestrator.cli.saving import save_job

    settings = settings_for(data_dir)
    spec = checked_job(job_file, overrides, allow_faults=settings.allow_faults)
    if spec.kind == "train":
        message = "a training has no items to show beforehand; try a few steps: --set training.steps=20"
        raise CommandError(message, BAD_INPUT)
    is_table = spec.kind == "tabular"
    small, prompts = (some_rows(spec, count), []) if is_table else first_items(spec, count)
    progress = ExitStack()
    shown = progress.enter_context(display(stderr()))
    with progress, any_service(settings, shown.phase) as service:
        submission = Submission(small)
        try:
            job = follow(service.client, submission.send(service.client, shown), shown)
        except KeyboardInterrupt:
            progress.close()
            if submission.job is not None:
                service.client.act(submission.job.id, "cancel")
            raise
        records: list[dict[str, Any]] = []
        if is_table:
            records = table_records(service.client, job)
            prompts = [[] for _ in records]  # subjects have as many rows as they have
        elif job.items:
            records = service.client.results(job.id, limit=count).data
        progress.close()
        if as_json:
            print_json([{**record, "messages": asked} for record, asked in zip(records, prompts, strict=False)])
        else:
            print_previews(records, prompts, as_rows=spec.kind in {"dataset", "tabular"})
        if job.images or job.sounds or job.nodes:
            folder = out or Path(tempfile.gettempdir()) / f"nightmill-preview-{job.id}"
            what = "listened to" if job.sounds else "looked at"
            say(f"to be {what}: {save_job(service.client, job, folder, 'jsonl')}")
        if exit_code(job, fail_on_errors=False):
            conclude(
                Ending(job, f"nightmill results {job.id}", source=spec.source.file), as_json=False, fail_on_errors=False
            )


def checked_job(job_file: Path, overrides: list[str] | None, *, allow_faults: bool, rows: bool = True) -> JobSpec:
    """The job in a file, checked: with `rows`, each of its rows too, where that is a matter of a second.

    Raises:
        SpecError: it cannot run as it is.
    """
    from datetime import UTC, datetime

    from orchestrator.jobfile import is_local, load_job_file
    from orchestrator.source_files import check_local
    from orchestrator.static_checks import check_static
    from orchestrator.training_source import check_local_folder, is_local_folder

    spec = load_job_file(job_file, overrides or ())
    check_static(spec, datetime.now(UTC), allow_faults=allow_faults)
    if is_local_folder(spec):
        check_local_folder(Path(spec.input_file or ""))
    source, parent = spec.over_rows().source.file, spec.over_parent()
    if source is not None and is_local(source):
        check_local(Path(source))
    if rows and _quickly_read(spec.over_rows()):
        # The scheduler will say the same, but only once everything has been started and uploaded.
        from orchestrator.planning import plan_here

        for each in jobs_of(spec):
            plan_here(each.over_rows())
    if parent is not None:
        _check_parent(parent, rows=rows)
    return spec


def _check_parent(parent: JobSpec, *, rows: bool) -> None:
    """The same of the table of the subjects that the rows of a linked table belong to."""
    from orchestrator.jobfile import is_local
    from orchestrator.planning import plan_here
    from orchestrator.source_files import check_local
    from orchestrator.spec_error import SpecError
    from orchestrator.train_spec import PARENT_FILE

    try:
        if is_local(parent.source.file or ""):
            check_local(Path(parent.source.file or ""))
        if rows and _quickly_read(parent):
            plan_here(parent)
    except SpecError as error:
        raise error.renamed("source.file", PARENT_FILE) from error


def jobs_of(spec: JobSpec) -> list[JobSpec]:
    """The jobs that a job is planned as: of a flow its nodes, each behind all that it needs."""
    from orchestrator.flow_spec import node_specs

    return list(node_specs(spec).values()) if spec.nodes else [spec]


def _quickly_read(spec: JobSpec) -> bool:
    from orchestrator.jobfile import is_local

    source = spec.source
    if source.file is not None:
        return is_local(source.file) and Path(source.file).stat().st_size <= QUICK_BYTES
    return (source.count or 1) * source.grid_size <= QUICK_ITEMS


class Submission:
    """A job on its way to the service; once that has it, `job` is set, even where Ctrl-C came in between."""

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec
        self.job: JobView | None = None

    def send(self, client: Client, shown: Display) -> str:
        """Upload the job's local files, if it has some, and submit it; returns the job's id."""
        from orchestrator.local_images import sent_along
        from orchestrator.training_source import is_local_folder, packed

        if is_local_folder(self._spec):
            shown.phase("uploading")
            with packed(Path(self._spec.input_file or "")) as archive:
                return self._send(client, shown, self._spec.with_source_file(client.upload(archive).uri))
        with sent_along(self._spec) as spec:
            return self._send(client, shown, spec)

    def _send(self, client: Client, shown: Display, spec: JobSpec) -> str:
        from ulid import ULID

        from orchestrator.jobfile import is_local

        for param, source in spec.input_files.items():
            if is_local(source):
                shown.phase("uploading")
                spec = spec.with_input(param, client.upload(Path(source)).uri)
        with _interrupts_later():
            self.job = client.submit(spec.to_json(), key=f"nightmill-{ULID()}")
        return self.job.id


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back until the context ends."""
    came: list[int] = []
    earlier = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)
    if came:
        raise KeyboardInterrupt
