"""Results from the service into a file or onto the standard output."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

from orchestrator.cli.output import CommandError
from orchestrator.client import Client, ResultFormat


def save_results(client: Client, job_id: str, folder: Path, form: ResultFormat) -> Path:
    """Write all results into `folder`, whole or not at all; returns the file's path."""
    path = folder / f"results.{form}"
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with fresh.open("xb") as file:
            for block in client.content(job_id, form):
                file.write(block)
        fresh.replace(path)
    except OSError as error:
        raise CommandError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)
    return path


def stream_results(client: Client, job_id: str, form: ResultFormat) -> None:
    """Write all results to the standard output."""
    if form == "parquet" and sys.stdout.isatty():
        raise CommandError("Parquet is nothing for a terminal; give --out DIR, or send it into a file")
    for block in client.content(job_id, form):
        sys.stdout.buffer.write(block)
