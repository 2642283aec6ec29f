"""The card of a dataset: README.md with the YAML header that `datasets.load_dataset` reads.

https://huggingface.co/docs/hub/datasets-cards
"""

from __future__ import annotations

import json

from orchestrator.dataset_files import DatasetFigures
from orchestrator.views import DatasetView, JobView

_LICENSE = (
    "No license is stated: what may be done with them is for whoever made them to say, and follows from the model's "
    "license and from that of the source."
)


def card(job: JobView, dataset: DatasetView, figures: DatasetFigures) -> str:
    """The card's text."""
    lines = [
        "---",
        "license: unknown",
        f"pretty_name: {json.dumps(job.name, ensure_ascii=False)}",
        "tags:",
        "- synthetic",
    ]
    lines += ["configs:", "- config_name: default", "  data_files:"]
    for name in figures.rows:
        lines += [f"  - split: {name}", f"    path: data/{name}-*"]
    rows = sum(figures.rows.values())
    lines += ["---", "", f"# {_cell(job.name)}", ""]
    lines += [
        f"{rows:,} synthetic rows, made by Nightmill under a plan of columns. {_LICENSE}",
        "",
        "| | |",
        "|---|---|",
        f"| rows asked for | {job.items:,} |",
        f"| rows here | {rows:,} |",
    ]
    lines += [f"| left out, `{_cell(code)}` | {count:,} |" for code, count in sorted(figures.failed.items())]
    revisions = ", ".join(f"`{_cell(revision)}`" for revision in figures.revisions if revision)
    lines += [
        f"| made from | {_cell(dataset.source)} |",
        f"| model | {_cell(job.model)} {revisions} |" if dataset.asks_model else "| model | none was asked |",
        f"| seed | {dataset.seed} |",
        f"| tokens read, written | {job.usage.prompt_tokens:,}, {job.usage.completion_tokens:,} |",
        f"| job | {job.id} |",
        "",
        "## Columns",
        "",
        "| column | type | how it is filled |",
        "|---|---|---|",
    ]
    lines += [
        f"| {_cell(name)} | `{_cell(kind)}` | {_cell(dataset.columns.get(name, 'a field of the source'))} |"
        for name, kind in figures.types.items()
    ]
    lines += ["", "## Splits", "", "| split | rows |", "|---|---|"]
    lines += [f"| {name} | {count:,} |" for name, count in figures.rows.items()]
    how = (
        "of its number"
        if dataset.split_by is None
        else f"of `{_cell(dataset.split_by)}`, so that equal values stay together"
    )
    lines += ["", f"A row's split follows from a hash {how}.", ""]
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    """A text that leaves the table's cell that it stands in to nobody."""
    return _line(text).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
