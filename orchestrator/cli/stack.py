"""`nightmill up`, `down` and `status`: the embedded stack on this machine."""

# ruff: noqa: PLC0415 - commands import what they need when they run, so that `--help` answers at once

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.output import UNREACHABLE, CommandError, guarded, print_json, print_table, say

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="DIR", help="Where everything is kept. Default: NIGHTMILL_DATA_DIR, ~/.nightmill."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LOOK_SECONDS = 0.2
STOP_SECONDS = 40.0


@guarded
def up(
    *,
    data_dir: DataDir = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Of the API; 0 takes one that is free. Default: 8080.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return as soon as it is ready; stop it with `down`.")
    ] = False,
) -> None:
    """Start Redis, SQLite, a local store, Ray, the API and the workers here. Ctrl-C stops all of it."""
    from orchestrator.cli.reach import settings_for

    settings = settings_for(data_dir)
    port = settings.port if port is None else port
    if detach:
        _start_detached(settings.data_dir, port)
        return
    from orchestrator.embedded import EmbeddedStack

    began = time.monotonic()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    with EmbeddedStack(settings, say, port=port) as stack:
        say(f"starting in {settings.data_dir} (Ctrl-C stops it)")
        announced = False
        while not stop.wait(LOOK_SECONDS):
            stack.check()
            if not announced and stack.is_ready():
                announced = True
                took = time.monotonic() - began
                say(f"ready in {took:.1f} s: {stack.url} (documentation of the API: {stack.url}/docs)")
        stack.check()
        say("stopping")


def _start_detached(data_dir: Path, port: int) -> None:
    from orchestrator.cli.reach import await_stack
    from orchestrator.embedded import checkout_environment
    from orchestrator.processes import tail
    from orchestrator.stackfile import StackRunningError, read_record

    running = read_record(data_dir)
    if running is not None:
        raise StackRunningError(data_dir, running.pid)
    log = data_dir / "logs" / "launcher.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        offset = output.tell()
        launcher = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli", "up", "--data-dir", str(data_dir), "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=checkout_environment(os.environ),
            start_new_session=True,
        )
    pause = threading.Event()
    try:
        while launcher.poll() is None and ((found := read_record(data_dir)) is None or found.pid != launcher.pid):
            pause.wait(0.05)
        record = await_stack(data_dir, launcher.pid)
    except (CommandError, KeyboardInterrupt) as error:
        launcher.terminate()
        code = launcher.wait()
        if isinstance(error, KeyboardInterrupt):
            raise
        raise CommandError(f"the stack did not start.{tail(log, offset)}", code or UNREACHABLE) from error
    launcher.returncode = 0  # it lives on without us, which is no mistake of ours
    say(f"ready: {record.url} (process {record.pid}; stop it with `nightmill down`)")


@guarded
def down(*, data_dir: DataDir = None) -> None:
    """Stop the stack that runs here."""
    from orchestrator.cli.reach import settings_for
    from orchestrator.stackfile import is_process, read_record

    settings = settings_for(data_dir)
    record = read_record(settings.data_dir)
    if record is None:
        say(f"no stack is running in {settings.data_dir}")
        return
    os.kill(record.pid, signal.SIGTERM)
    pause = threading.Event()
    deadline = time.monotonic() + STOP_SECONDS
    while is_process(record.pid, record.created):
        if time.monotonic() > deadline:
            raise CommandError(f"process {record.pid} does not end; see {settings.data_dir / 'logs'}")
        pause.wait(0.05)
    say("stopped")


@guarded
def status(*, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show the stack that runs here: where its API is, and its processes."""
    from orchestrator.cli.reach import settings_for
    from orchestrator.stackfile import read_record, with_descendants

    settings = settings_for(data_dir)
    record = read_record(settings.data_dir)
    if record is None:
        if as_json:
            nothing = {"running": False, "state": "stopped", "url": None, "data_dir": str(settings.data_dir)}
            print_json({**nothing, "processes": []})
        else:
            say(f"no stack is running in {settings.data_dir}; start one with `nightmill up`")
        raise typer.Exit(UNREACHABLE)
    processes = with_descendants(record.processes)
    if as_json:
        print_json(
            {
                "running": True,
                "state": record.state,
                "url": record.url,
                "pid": record.pid,
                "data_dir": record.data_dir,
                "processes": [{"role": one.role, "pid": one.pid, "state": one.state} for one in processes],
            }
        )
        return
    say(f"{record.state}: {record.url} (data in {record.data_dir})")
    rows = [[one.role, "" if one.pid is None else str(one.pid), one.state] for one in processes]
    print_table(["role", "pid", "state"], rows, right=["pid"])


@guarded
def migrate(*, data_dir: DataDir = None) -> None:
    """Bring the database to this version's schema. `up` and `run` do so themselves; a deployment does it once."""
    from orchestrator.cli.reach import settings_for
    from orchestrator.database import migrate as bring_up
    from orchestrator.database import shown

    settings = settings_for(data_dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    bring_up(settings.sql_url)
    say(f"{shown(settings.sql_url)} has the schema of this version")
