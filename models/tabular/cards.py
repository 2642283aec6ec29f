"""Cards of models of tables: Markdown with a YAML head, beside the weights as README.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import yaml

from models.tabular.columns import Column, Kind
from models.tabular.saved import Linked
from models.training.settings import FamilyName, TrainingSettings

WHAT: Final[Mapping[FamilyName, str]] = {
    "tabular-argn": "TabularARGN of mostlyai-engine: an autoregressive network that draws column after column, in any "
    "order (https://arxiv.org/abs/2501.12012)",
    "tabular-gan": "A conditional GAN with mode-specific normalisation (https://arxiv.org/abs/1907.00503)",
    "tabular-vae": "A variational autoencoder with mode-specific normalisation (https://arxiv.org/abs/1907.00503)",
}
MADE_ANEW: Final[frozenset[Kind]] = frozenset({"text", "id"})


@dataclass(frozen=True, kw_only=True)
class TableAbout:
    """What a card says."""

    name: str
    settings: TrainingSettings
    columns: Sequence[Column]
    source: str
    license: str
    """Of the data."""
    rows: int
    """That it was fitted to."""
    held_out: int
    step: int
    losses: Mapping[str, float]
    metrics: Mapping[str, float]
    remarks: str = ""
    """What the family has to say of itself."""
    linked: Linked | None = None


def table_card(about: TableAbout) -> str:
    """The card's text."""
    head = {
        "name": about.name,
        "family": about.settings.family,
        "license": "unknown",
        "data": {"source": about.source, "license": about.license, "rows": about.rows, "held_out": about.held_out},
        "options": about.settings.options,
        "seed": about.settings.seed,
        "steps": about.step,
        "losses": dict(about.losses),
        "metrics": dict(about.metrics),
    }
    lines = ["| column | kind | type |", "| --- | --- | --- |"]
    lines += [f"| {_cell(column.name)} | {column.kind} | {_cell(column.type)} |" for column in about.columns]
    anew = [_cell(column.name) for column in about.columns if column.kind in MADE_ANEW]
    made = f"\nMade anew, whatever the source holds: {', '.join(anew)}.\n" if anew else ""
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n# {_cell(about.name)}\n\n"
        f"{WHAT.get(about.settings.family, about.settings.family)}. It was fitted to {about.rows:,} rows of "
        f"{_cell(about.source)} (licence: {_cell(about.license)}) in {about.step:,} steps; {about.held_out:,} rows "
        "were held out, and it has never seen them.\n\n"
        + "\n".join(lines)
        + "\n"
        + made
        + _sequences(about.linked)
        + (f"\n{about.remarks}\n" if about.remarks else "")
        + "\n## Limits\n\nIt repeats what its source holds, its errors and slants included, and lacks what that lacks. "
        "Whether its rows give anybody away is a question for the report of each dataset, not for this card.\n"
    )


def _sequences(linked: Linked | None) -> str:
    if linked is None:
        return ""
    parent = "" if linked.parent_key is None else f", the column {_cell(linked.parent_key)} of a table of their own"
    return (
        f"\n## Sequences\n\nRows with the same {_cell(linked.foreign_key)} belong to one subject{parent}. "
        f"A sequence has {linked.longest:,} rows at most"
        + (f", in the order of {_cell(linked.order_by)}" if linked.order_by is not None else "")
        + ".\n"
    )


def _cell(text: str) -> str:
    """A client's text, as one that neither ends a cell of Markdown nor begins a tag."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
