"""Figures of a page as SVG, drawn here so that a page needs no script and stays small.

Colours are classes of the page's style. Every text goes through `Markup.format`, which escapes it: names and values are
a stranger's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from markupsafe import Markup

from workers.dataset_report.bins import write_moment, write_number
from workers.dataset_report.figures import ColumnFigures, Curve, PairFigures, Score, Shape

WIDTH: Final = 320
_HEIGHT: Final = 110
_ROW: Final = 19
_LABEL: Final = 118
_SVG: Final = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" style="max-width:{}px">{}</svg>')
_TEXT: Final = Markup('<text x="{}" y="{}" class="{}">{}</text>')
_RECT: Final = Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}"><title>{}</title></rect>')
_CELL: Final = Markup(
    '<rect x="{}" y="{}" width="{}" height="{}" class="{}" fill-opacity="{}"><title>{}</title></rect>'
)


def column_plot(column: ColumnFigures) -> Markup:
    """How a column's values are spread: a curve of numbers and times, bars of categories; nothing of texts and ids."""
    if column.curve is not None:
        return curve_plot(column.curve, column.name, moment=column.kind == "moment")
    if column.shape is not None:
        return bars_plot(column.shape, column.name)
    return Markup()


def curve_plot(curve: Curve, what: str, *, moment: bool = False) -> Markup:
    """A histogram: the original as a ground, the dataset as a line over it."""
    highest = max((*curve.original, *curve.synthetic, 1e-9))
    drawn = [
        Markup('<path d="{}" class="{}"/>').format(_steps(shares, highest, closed=closed), kind)
        for shares, kind, closed in ((curve.original, "o-area", True), (curve.synthetic, "s-line", False))
        if shares
    ]
    axis = Markup('<path d="M0 {0}.5H{1}" class="axis"/>').format(_HEIGHT, WIDTH)
    ends = np.array([curve.low, (curve.low + curve.high) / 2, curve.high])
    write = write_moment if moment else write_number
    labels = [
        _TEXT.format(place, _HEIGHT + 14, kind, write(float(value), ends))
        for place, kind, value in zip((0, WIDTH // 2, WIDTH), ("t", "t mid", "t end"), ends, strict=True)
    ]
    return _SVG.format(WIDTH, _HEIGHT + 18, f"spread of {what}", WIDTH * 2, Markup().join([*drawn, axis, *labels]))


def _steps(shares: Sequence[float], highest: float, *, closed: bool) -> str:
    width = WIDTH / len(shares)
    heights = [_HEIGHT - (_HEIGHT - 6) * share / highest for share in shares]
    start = f"M0 {_HEIGHT}V{heights[0]:.1f}" if closed else f"M0 {heights[0]:.1f}"
    path = "".join(f"V{height:.1f}H{(place + 1) * width:.1f}" for place, height in enumerate(heights))
    return start + path + (f"V{_HEIGHT}Z" if closed else "")


def bars_plot(shape: Shape, what: str) -> Markup:
    """Two bars for each bin that has rows, the original's above the dataset's."""
    original = shape.original or (0.0,) * len(shape.labels)
    rows = [
        (label, first, second)
        for label, first, second in zip(shape.labels, original, shape.synthetic, strict=True)
        if first or second
    ]
    highest = max((max(first, second) for _, first, second in rows), default=1.0)
    scale = (WIDTH - _LABEL - 40) / highest
    drawn: list[Markup] = []
    for place, (label, first, second) in enumerate(rows):
        top = place * _ROW
        drawn.append(
            Markup('<text x="{}" y="{}" class="t end">{}<title>{}</title></text>').format(
                _LABEL - 6, top + 12, shorten(label, 19), label
            )
        )
        if shape.original:
            drawn.append(_RECT.format(_LABEL, top + 2, f"{first * scale:.1f}", 6, "o", f"source: {first:.1%}"))
        tall, down = (6, 9) if shape.original else (11, 3)
        drawn.append(_RECT.format(_LABEL, top + down, f"{second * scale:.1f}", tall, "s", f"dataset: {second:.1%}"))
        beside = _LABEL + max(first, second) * scale + 5
        drawn.append(_TEXT.format(f"{beside:.1f}", top + 12, "t", f"{second:.1%}"))
    return _SVG.format(WIDTH, max(_ROW, len(rows) * _ROW), f"shares of {what}", WIDTH * 2, Markup().join(drawn))


def pair_plot(pair: PairFigures, first: Shape, second: Shape) -> Markup:
    """Shares of two columns' bins together, in the source and in the dataset, darker where more rows are."""
    tables = [table for table in (pair.table_original, pair.table) if table is not None]
    kinds = ["o", "s"][-len(tables) :]
    # Bins that no table has rows in, of missing values mostly, are left out.
    arrays = [np.array(table) for table in tables]
    both = np.sum(arrays, axis=0)
    down, across = np.flatnonzero(both.sum(axis=1)), np.flatnonzero(both.sum(axis=0))
    highest = max((float(array.max()) for array in arrays), default=1.0) or 1.0
    side, gap = 150, 20
    high, wide = side / max(1, len(down)), side / max(1, len(across))
    drawn: list[Markup] = []
    for number, (array, kind) in enumerate(zip(arrays, kinds, strict=True)):
        left = number * (side + gap)
        name = "source" if kind == "o" else "dataset"
        drawn.append(_TEXT.format(left, 10, "t", name))
        for row, y in enumerate(down):
            for column, x in enumerate(across):
                share = float(array[y, x])
                says = f"{pair.first} {first.labels[y]}, {pair.second} {second.labels[x]}: {share:.2%}"
                drawn.append(
                    _CELL.format(
                        f"{left + column * wide:.1f}",
                        f"{16 + row * high:.1f}",
                        f"{wide - 0.6:.1f}",
                        f"{high - 0.6:.1f}",
                        kind,
                        f"{(share / highest) ** 0.5:.2f}",
                        says,
                    )
                )
    return _SVG.format(
        2 * side + gap, 16 + side, f"{pair.first} and {pair.second}", 2 * (2 * side + gap), Markup().join(drawn)
    )


def matrix_plot(
    names: Sequence[str], values: Mapping[tuple[str, str], float], *, low: float, upper: str, what: str
) -> Markup:
    """A square of columns by columns: `values[row, column]`, paler towards `low`, darkest at 1.

    `upper` is the class of the squares above the diagonal; the others show the dataset.
    """
    side = max(10, min(30, 420 // max(1, len(names))))
    margin, size = 130, len(names) * side
    drawn: list[Markup] = []
    for row, name in enumerate(names):
        at = (row + 0.65) * side
        drawn.append(_TEXT.format(margin - 6, f"{at:.1f}", "t end", shorten(name, 18)))
        drawn.append(
            Markup('<text transform="translate({},{}) rotate(-40)" class="t end">{}</text>').format(
                f"{margin + at:.1f}", size + 12, shorten(name, 16)
            )
        )
        for column, other in enumerate(names):
            value = values.get((name, other))
            if value is not None:
                dark = max(0.0, (value - low) / (1 - low)) ** 0.8 if low < 1 else 1.0
                drawn.append(
                    _CELL.format(
                        margin + column * side,
                        row * side,
                        side - 1,
                        side - 1,
                        upper if row < column else "s",
                        f"{max(0.04, dark):.2f}",
                        f"{name}, {other}: {value:.2f}",
                    )
                )
    return _SVG.format(margin + size, size + 80, what, margin + size, Markup().join(drawn))


def scores_plot(baseline: float, scores: Sequence[tuple[str, str, Score]]) -> Markup:
    """Scores as dots with the spread of their fits, on a line from what guessing reaches to 1."""
    left, right = 110, 560
    scale = (right - left) / max(1e-9, 1 - baseline)

    def at(value: float) -> str:
        return f"{left + scale * (max(value, baseline) - baseline):.1f}"

    drawn: list[Markup] = []
    for place, (name, kind, score) in enumerate(scores):
        y = 16 + place * 26
        drawn += [
            _TEXT.format(left - 12, y + 4, "t end", name),
            Markup('<path d="M{} {}H{}" class="axis"/>').format(left, y, right),
            Markup('<path d="M{} {}H{}" class="{}-span"/>').format(at(score.low), y, at(score.high), kind),
            Markup('<circle cx="{}" cy="{}" r="5" class="{}"/>').format(at(score.mean), y, kind),
            _TEXT.format(right + 8, y + 4, "t", f"{score.mean:.3f}"),
        ]
    bottom = 16 + len(scores) * 26
    drawn += [
        _TEXT.format(left, bottom, "t", f"{baseline:g}, guessing"),
        _TEXT.format(right, bottom, "t end", "1"),
    ]
    return _SVG.format(right + 60, bottom + 6, "scores", right + 60, Markup().join(drawn))


def shorten(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
