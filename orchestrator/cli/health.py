"""`nightmill doctor` and `nightmill models`: what can be run here, and what is wrong."""

# ruff: noqa: PLC0415 - commands import what they need when they run, so that `--help` answers at once

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from orchestrator.cli.output import NOT_COMPLETED, guarded, print_json, print_table, say, stdout
from orchestrator.cli.stack import AsJson, DataDir

if TYPE_CHECKING:
    from orchestrator.client import ModelEntry

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}


@guarded
def doctor(*, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check this installation and say how to mend what is wrong. Exits with 1 if there is a problem."""
    from rich.text import Text

    from orchestrator.cli.reach import settings_for
    from orchestrator.doctor import examine

    console = stdout()
    found = []
    for finding in examine(settings_for(data_dir)):
        found.append(finding)
        if as_json:
            continue
        mark, style = MARKS[finding.state]
        console.print(Text.assemble((mark, style), f" {finding.about:<14}{finding.detail}"), soft_wrap=True)
        if finding.mend is not None:
            console.print(Text(f"  {'':<14}→ {finding.mend}", style=style), soft_wrap=True)
    problems = sum(finding.state == "problem" for finding in found)
    if as_json:
        print_json({"ok": not problems, "findings": [asdict(finding) for finding in found]})
    sys.stdout.flush()
    if problems:
        say(f"{problems} problem{'s' if problems > 1 else ''}")
        raise typer.Exit(NOT_COMPLETED)


@guarded
def models(*, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the models that a job can name, and whether they can run on this machine."""
    from models import audio_catalog, catalog, image_catalog

    installed = catalog.installed_engines()
    entries: list[dict[str, Any]] = [  # JSON
        {
            "name": entry.name,
            "kind": "text",
            "description": entry.description,
            "engines": list(entry.engines),
            "runs_here": [engine for engine in entry.engines if engine in installed],
            "context_length": entry.context_length,
            "license": entry.license,
        }
        for entry in catalog.list_models()
    ]
    images: list[dict[str, Any]] = [  # JSON
        {
            "name": entry.name,
            "kind": "image",
            "description": entry.description,
            "engines": [entry.engine],
            "runs_here": [] if image_catalog.missing_packages(entry.engine) else [entry.engine],
            "license": entry.license,
        }
        for entry in image_catalog.list_image_models()
    ]
    audio: list[dict[str, Any]] = [  # JSON
        {
            "name": entry.name,
            "kind": "audio",
            "description": entry.description,
            "engines": [entry.engine],
            "runs_here": [] if audio_catalog.missing_packages(entry.engine) else [entry.engine],
            "voices": entry.voices,
            "license": entry.license,
        }
        for entry in audio_catalog.list_audio_models()
    ]
    trained = _trained(data_dir)
    if as_json:
        print_json([*entries, *images, *audio, *trained])
        return
    rows = [
        [
            str(entry["kind"]),
            str(entry["name"]),
            ", ".join(entry["runs_here"]) or "no engine installed",
            f"{entry['context_length']:,}" if "context_length" in entry else "",
            str(entry["description"]),
        ]
        for entry in [*entries, *images, *audio, *trained]
    ]
    print_table(["kind", "name", "runs here with", "context", "what it is"], rows, right=["context"])
    say("A folder with a model (model: ./my-model) or a hub id (model: org/name) can be named as well.")


def _missing(engine: str) -> tuple[str, ...]:
    from models import catalog, image_catalog
    from models.tabular.families import FAMILIES, missing_packages

    if engine in FAMILIES:
        return missing_packages(engine)
    if engine in image_catalog.IMAGE_ENGINES:
        return image_catalog.missing_packages(engine)
    return next((catalog.missing_packages(name) for name in catalog.ENGINES if name == engine), (engine,))


def _trained(data_dir: Path | None) -> list[dict[str, Any]]:  # JSON
    """Models that jobs have trained, as far as there is a service that knows them."""
    from orchestrator.cli.output import CommandError
    from orchestrator.cli.reach import reading_service, settings_for
    from orchestrator.cli.text import moment

    try:
        with reading_service(settings_for(data_dir)) as client:
            found = [entry for entry in client.models() if entry.version is not None]
    except CommandError:
        return []  # no stack has ever run here, so nothing was trained
    return [
        {
            "name": entry.id,
            "kind": entry.kind,
            "description": f"{_described(entry)}, trained {moment(entry.created)}",
            "engines": list(entry.engines),
            "runs_here": [engine for engine in entry.engines if not _missing(engine)],
            "license": entry.license,
            "version": entry.version,
            "family": entry.family,
            "classes": list(entry.classes),
            "size": list(entry.size),
            "trained_at": entry.created,
            "base": entry.base,
            "columns": [{"name": column.name, "kind": column.kind} for column in entry.columns],
            "rows": entry.rows,
        }
        for entry in found
    ]


def _described(entry: ModelEntry) -> str:
    if entry.base is not None:
        return f"a LoRA adapter of {entry.base}"
    if entry.columns:
        shown = ", ".join(f"{column.name}: {column.kind}" for column in entry.columns[:8])
        more = f", and {len(entry.columns) - 8} more" if len(entry.columns) > 8 else ""
        return f"{entry.family} of {entry.rows:,} rows ({shown}{more})"
    return f"{entry.family}, {'x'.join(map(str, entry.size))} ({', '.join(entry.classes) or 'any text'})"
