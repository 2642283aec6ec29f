"""A report as one page of HTML that opens without any server: no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import jinja2
from markupsafe import Markup

from workers.dataset_report import plots
from workers.dataset_report.figures import ColumnFigures, LinkedFigures, PairFigures, Report, Shape

MOST_IN_MATRIX: Final = 30
MOST_COLUMNS: Final = 120
"""Columns whose spread is drawn: the ones that are furthest from the source, in the dataset's order."""


def page_of(report: Report, held: Sequence[str] = ()) -> bytes:
    """The page of a report, in UTF-8.

    Args:
        report: What is shown.
        held: What holds the dataset back (`gate.check_gate`), to stand at the top.
    """
    # Names and values are a stranger's: whatever they hold, they are text.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, figure=figure)
    shapes = {column.name: column.shape for column in report.columns if column.shape is not None}
    kept = [column for column in report.columns if column.kind != "text"]  # they have a part of their own
    columns = _chosen(kept)
    names = _in_matrix(report)
    page = environment.get_template("page.html.jinja").render(
        report=report,
        held=held,
        plots=plots,
        columns=columns,
        columns_left=len(kept) - len(columns),
        shown_pairs=[
            (pair, plots.pair_plot(pair, shapes[pair.first], shapes[pair.second]))
            for pair in report.pairs
            if pair.table is not None
        ],
        accuracies=_matrix(report, names) if report.fidelity is not None and len(names) > 1 else None,
        associations=_associations(report, names) if len(names) > 1 else None,
        matrix_left=len(shapes) - len(names),
        linked_pairs=[] if report.linked is None else list(_linked_pairs(report.linked, shapes)),
    )
    return page.encode()


def percent(share: float | None, digits: int = 1) -> str:
    """A share in per cent, or a dash; what is not nothing is not written as nothing."""
    if share is None:
        return "-"
    least = 10.0**-digits
    return f"under {least:g} %" if 0 < 100 * share < least / 2 else f"{100 * share:.{digits}f} %"


def figure(value: float | None, digits: int = 3) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def _chosen(columns: Sequence[ColumnFigures]) -> list[ColumnFigures]:
    if len(columns) <= MOST_COLUMNS:
        return list(columns)
    lost = {column.name: (column.accuracy or 1.0) - (column.accuracy_expected or 1.0) for column in columns}
    kept = set(sorted(lost, key=lambda name: lost[name])[:MOST_COLUMNS])
    return [column for column in columns if column.name in kept]


def _linked_pairs(linked: LinkedFigures, shapes: Mapping[str, Shape]) -> Iterator[tuple[PairFigures, Markup]]:
    """The pairs of rows that belong together that are worth showing, each with its plot."""
    for pair in linked.coherence:
        if pair.table is not None:
            own = shapes[pair.first]
            yield pair, plots.pair_plot(pair, own, own)
    for pair in linked.with_parent:
        if pair.table is not None:
            yield pair, plots.pair_plot(pair, linked.shapes[pair.first], shapes[pair.second])


def _strength(pair: PairFigures) -> float:
    return pair.association if pair.association_original is None else pair.association_original


def _in_matrix(report: Report) -> list[str]:
    """The columns that depend most on another, in the dataset's order."""
    depends = {column.name: 0.0 for column in report.columns if column.shape is not None}
    for pair in report.pairs:
        for name in (pair.first, pair.second):
            depends[name] = max(depends[name], _strength(pair))
    kept = set(sorted(depends, key=lambda name: -depends[name])[:MOST_IN_MATRIX])
    return [name for name in depends if name in kept]


def _matrix(report: Report, names: list[str]) -> str:
    values = {
        (pair.second, pair.first): pair.accuracy
        for pair in report.pairs
        if pair.accuracy is not None and pair.first in names and pair.second in names
    }
    values |= {
        (column.name, column.name): column.accuracy
        for column in report.columns
        if column.accuracy is not None and column.name in names
    }
    least = min(values.values(), default=0.0)
    return plots.matrix_plot(names, values, low=min(0.8, least), upper="s", what="accuracy of pairs of columns")


def _associations(report: Report, names: list[str]) -> str:
    """Above the diagonal the source's, below it the dataset's."""
    values: dict[tuple[str, str], float] = {}
    for pair in report.pairs:
        values[pair.second, pair.first] = pair.association
        if pair.association_original is not None:
            values[pair.first, pair.second] = pair.association_original
    return plots.matrix_plot(names, values, low=0.0, upper="o", what="associations of columns")
