"""The command `nightmill`. Each command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from orchestrator.cli import health, jobs, planned, replaying, running, stack
from orchestrator.cli.output import DEBUG

app = typer.Typer(
    name="nightmill",
    help="Large generative jobs on your own machines: every row exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
RUN, LOOK, STEER, HERE = "Run a job", "Look at jobs", "Steer a job", "This machine"
COMMANDS: tuple[tuple[str, str, Callable[..., None]], ...] = (
    (RUN, "run", running.run),
    (RUN, "submit", running.submit),
    (RUN, "plan", planned.plan),
    (RUN, "preview", running.preview),
    (LOOK, "jobs", jobs.list_jobs),
    (LOOK, "show", jobs.show),
    (LOOK, "watch", jobs.watch),
    (LOOK, "results", jobs.results),
    (LOOK, "errors", jobs.errors),
    (LOOK, "replay", replaying.replay),
    (STEER, "cancel", jobs.cancel),
    (STEER, "pause", jobs.pause),
    (STEER, "resume", jobs.resume),
    (STEER, "retry", jobs.retry),
    (HERE, "up", stack.up),
    (HERE, "down", stack.down),
    (HERE, "status", stack.status),
    (HERE, "models", health.models),
    (HERE, "doctor", health.doctor),
    (HERE, "migrate", stack.migrate),
)
for panel, name, command in COMMANDS:
    app.command(name, rich_help_panel=panel)(command)


@app.callback()
def options(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Large generative jobs on your own machines: every row exactly once."""
    if debug:
        os.environ[DEBUG] = "1"


def main() -> None:
    """Entry point of the command line. `--debug` is understood before and after the command's name."""
    if "--debug" in sys.argv[1:]:
        os.environ[DEBUG] = "1"
        sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != "--debug"]
    app(prog_name="nightmill")
