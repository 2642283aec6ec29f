"""What a report's figures mean, in plain words: what is good, what is weak, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from workers.dataset_report.figures import (
    Comparison,
    Fidelity,
    Level,
    LinkedFigures,
    PairFigures,
    Privacy,
    Remark,
    Report,
    TextFigures,
    Utility,
)

CLEAR: Final = 3.0
"""So many standard errors from chance, a figure is no accident."""
_CLOSE, _FAR = 0.015, 0.08
"""An accuracy less than the first below what a fresh sample would reach is good; more than the second, weak."""
_BOUND: Final = 0.2
"""Columns of such an association belong together."""
_KEPT, _LOST = 0.85, 0.6
"""Of the associations of such columns, what a dataset keeps that is good or weak."""
_SENTENCE: Final = 5
"""Of fewer words, texts are names or numbers, which are alike by nature."""
_USEFUL, _POOR = 0.9, 0.7
_LEAKS: Final = 0.02
"""A share or AUC so far above chance, and clearly so, gives members away."""


def remarks_on(report: Report) -> tuple[Remark, ...]:
    """The sentences at the top of the page, the weak ones first."""
    found = [
        *_comparison(report.comparison),
        *_fidelity(report),
        *_linked(report.linked),
        *_utility(report.utility),
        *_privacy(report.privacy),
        *_itself(report),
    ]
    order: dict[Level, int] = {"weak": 0, "fair": 1, "good": 2}
    return tuple(sorted(found, key=lambda remark: order[remark.level]))


def _comparison(figures: Comparison | None) -> Iterator[Remark]:
    """What cannot be compared with what was asked for."""
    if figures is None:
        return
    if figures.nothing_alike:
        asked = " and ".join(f"{name!r} {_value(value)}" for name, value in figures.asked.where.items())
        yield Remark(
            level="fair",
            subject="comparison",
            text=f"No row of its source has {asked}, as all of its rows: it is described alone.",
        )
    for one in figures.unreached:
        yield Remark(
            level="fair",
            subject="comparison",
            text=f"{_percent(one.asked)} of its rows were to have {one.value!r} in {one.column!r}; the rows of the "
            f"source can be weighted to {_percent(one.reached)}, with which it is compared.",
        )


def _value(value: object) -> str:
    return "missing" if value is None else f"= {value!r}"


def _fidelity(report: Report) -> Iterator[Remark]:
    figures = report.fidelity
    if figures is None:
        return
    below = figures.accuracy_expected - figures.accuracy
    level: Level = "good" if below < _CLOSE else "fair" if below < _FAR else "weak"
    yield Remark(
        level=level,
        subject="fidelity",
        text=f"Accuracy is {_percent(figures.accuracy)}; a fresh sample of the source of this size would reach "
        f"{_percent(figures.accuracy_expected)}."
        if report.comparison is None
        else f"Accuracy is {_percent(figures.accuracy)}, beside the source as it was asked to differ from it; a fresh "
        f"sample of that would reach {_percent(figures.accuracy_expected)}.",
    )
    yield from _columns_off(report)
    yield from _pairs_lost(report)
    yield from _told_apart(figures)


def _linked(figures: LinkedFigures | None) -> Iterator[Remark]:
    """Whether rows belong to their subjects as in the source."""
    if figures is None:
        return
    if figures.orphans is not None:
        yield Remark(
            level="weak" if figures.orphans else "good",
            subject="subjects",
            text=f"{figures.orphans:,} rows have a {figures.foreign_key!r} that no row of the parent has."
            if figures.orphans
            else f"Every {figures.foreign_key!r} is that of a row of the parent.",
        )
    length = figures.rows_per_subject
    if length.accuracy is None or length.accuracy_expected is None or figures.mean_rows_original is None:
        return
    below = length.accuracy_expected - length.accuracy
    yield Remark(
        level="good" if below < 2 * _CLOSE else "fair" if below < _FAR else "weak",
        subject="subjects",
        text=f"A subject has {figures.mean_rows:.1f} rows in the mean, in the source {figures.mean_rows_original:.1f}; "
        f"their spread is {_percent(length.accuracy)} accurate, a fresh sample's {_percent(length.accuracy_expected)}.",
    )
    yield from _pairs_off(figures.coherence, "The rows of a subject follow each other")
    yield from _pairs_off(figures.with_parent, "Rows belong to the parent's")


def _pairs_off(pairs: Sequence[PairFigures], what: str) -> Iterator[Remark]:
    """Of pairs of columns of rows that belong together, how far they are from the source."""
    lost = [(pair.accuracy_expected or 0.0) - (pair.accuracy or 0.0) for pair in pairs]
    if not lost:
        return
    below = max(lost)
    worst = pairs[lost.index(below)]
    found, expected = _percent(worst.accuracy or 0.0), _percent(worst.accuracy_expected or 0.0)
    yield Remark(
        level="good" if below < _FAR else "fair" if below < 2 * _FAR else "weak",
        subject="subjects",
        text=f"{what} as in the source."
        if below < _FAR
        else f"{what} otherwise than in the source: {worst.first!r} with {worst.second!r}, "
        f"{found} accurate where a fresh sample is {expected}.",
    )


def _columns_off(report: Report) -> Iterator[Remark]:
    lost = {
        column.name: (column.accuracy_expected or 0.0) - column.accuracy
        for column in report.columns
        if column.accuracy is not None
    }
    worst = sorted((name for name in lost if lost[name] >= _FAR), key=lambda name: -lost[name])
    if worst:
        yield Remark(
            level="weak" if lost[worst[0]] > 2 * _FAR else "fair",
            subject="fidelity",
            text=f"Spread differently than in the source: {_list(worst)}.",
        )
    elif lost:
        yield Remark(level="good", subject="fidelity", text="Every column is spread as in the source.")


def _pairs_lost(report: Report) -> Iterator[Remark]:
    """Of the pairs that belong together in the source, what the dataset keeps."""
    strong = [pair for pair in report.pairs if (pair.association_original or 0.0) >= _BOUND]
    if not strong:
        return
    strong.sort(key=lambda pair: pair.association - (pair.association_original or 0.0))
    kept = sum(pair.association for pair in strong) / sum(pair.association_original or 0.0 for pair in strong)
    worst = strong[0]
    example = (
        f"{worst.first!r} with {worst.second!r}, {worst.association:.2f} where the source has "
        f"{worst.association_original:.2f}"
    )
    if kept >= _KEPT:
        yield Remark(level="good", subject="fidelity", text="Columns that belong together in the source do so in it.")
    else:
        yield Remark(
            level="fair" if kept >= _LOST else "weak",
            subject="fidelity",
            text=f"Columns that belong together in the source do so less in it: {example} (Cramer's V).",
        )


def _told_apart(figures: Fidelity) -> Iterator[Remark]:
    if figures.told_apart is None or figures.told_apart_error is None:
        return
    clear = figures.told_apart - 0.5 > CLEAR * figures.told_apart_error
    level: Level = "good" if not clear or figures.told_apart < 0.6 else "fair" if figures.told_apart < 0.8 else "weak"
    by = f", mostly by {figures.told_apart_by!r}" if figures.told_apart_by else ""
    yield Remark(
        level=level,
        subject="fidelity",
        text=f"A classifier tells its rows from real ones{by} (AUC {figures.told_apart:.2f}; 0.50 is chance)."
        if clear
        else f"A classifier cannot tell its rows from real ones (AUC {figures.told_apart:.2f}; 0.50 is chance).",
    )


def _utility(figures: Utility | None) -> Iterator[Remark]:
    if figures is None:
        return
    what = f"{figures.measure} {figures.synthetic.mean:.3f} against {figures.real.mean:.3f} from real rows"
    if figures.ratio is None or figures.ratio_low is None or figures.ratio_high is None:
        yield Remark(
            level="fair",
            subject="utility",
            text=f"The real rows do not teach a model to predict {figures.target!r} either ({what}): another target "
            "would say more.",
        )
        return
    level: Level = "good" if figures.ratio >= _USEFUL else "fair" if figures.ratio >= _POOR else "weak"
    yield Remark(
        level=level,
        subject="utility",
        text=f"A model that learns to predict {figures.target!r} from it gets {_percent(figures.ratio)} of the way "
        f"that real rows bring it ({what}; 95 % interval {_percent(figures.ratio_low)} to "
        f"{_percent(figures.ratio_high)}).",
    )


def _privacy(figures: Privacy | None) -> Iterator[Remark]:
    if figures is None:
        return
    yield _identical(figures)
    if (near := figures.closeness) is not None:
        leaks = near.share - 0.5 > max(_LEAKS, CLEAR * near.error)
        yield Remark(
            level="weak" if leaks else "good",
            subject="privacy",
            text=f"{_percent(near.share)} of its rows lie closer to training rows than to rows that the model has not "
            f"seen; chance is 50 %, give or take {_percent(2 * near.error)}"
            + (": it remembers training rows." if leaks else "."),
        )
    if (attack := figures.membership) is not None:
        leaks = attack.auc - 0.5 > max(_LEAKS, CLEAR * attack.error)
        yield Remark(
            level="weak" if leaks else "good",
            subject="privacy",
            text=f"Who was in the training rows can{'' if leaks else 'not'} be told by the distance to its closest row "
            f"(AUC {attack.auc:.2f}; 0.50 is chance).",
        )
    if (groups := figures.small_groups) is not None and groups.values:
        shown = (
            f"{groups.values_shown} of {groups.values} categories that fewer than {groups.least} training rows share"
        )
        yield Remark(
            level="fair" if groups.values_shown else "good",
            subject="privacy",
            text=f"It shows {shown}, in {_list(list(groups.columns))}."
            if groups.values_shown
            else f"It shows {shown}.",
        )
    copied = [one for one in figures.copied if one.copied]
    for one in copied:
        yield Remark(
            level="weak",
            subject="privacy",
            text=f"{one.copied:,} values of {one.column!r} ({_percent(one.share)}) stand in the source as they are.",
        )
    if figures.copied and not copied:
        yield Remark(level="good", subject="privacy", text="No text and no id of the source stands in it.")


def _identical(figures: Privacy) -> Remark:
    usual = figures.identical_holdout
    beside = "" if usual is None else f"; of unseen real rows {_percent(usual)} do"
    clear = figures.identical > max(0.001, 1.5 * (usual or 0.0) + 0.005)
    return Remark(
        level="good" if not clear else "fair" if figures.identical < 0.05 else "weak",
        subject="privacy",
        text=f"{figures.identical_rows:,} rows ({_percent(figures.identical)}) equal a training row{beside}.",
    )


def _itself(report: Report) -> Iterator[Remark]:
    """What can be said without a source."""
    if report.training_rows is None and report.texts and report.repeated > 0.01:
        yield Remark(
            level="fair",
            subject="rows",
            text=f"{_percent(report.repeated)} of its rows repeat an earlier one.",
        )
    for column in report.columns:
        if report.training_rows is None and column.missing == 1:
            yield Remark(level="weak", subject="columns", text=f"Every value of {column.name!r} is missing.")
    for text in report.texts:
        yield from _text(text)


def _text(figures: TextFigures) -> Iterator[Remark]:
    if figures.near is None or figures.words.median < _SENTENCE:
        return
    level: Level = "good" if figures.near < 0.02 else "fair" if figures.near < 0.1 else "weak"
    yield Remark(
        level=level,
        subject="texts",
        text=f"{_percent(figures.near)} of the texts of {figures.column!r} have one beside them that is nearly the "
        f"same; {figures.words.median:.0f} words in the median.",
    )
    if figures.openings > 0.2:
        yield Remark(
            level="fair",
            subject="texts",
            text=f"{_percent(figures.openings)} of the texts of {figures.column!r} begin with the same three words.",
        )


def _percent(share: float) -> str:
    """A share in per cent: with a digit after the point, and two below one per cent, so that little is not nothing."""
    value = 100 * share
    if 0 < value < 0.005:
        return "under 0.01 %"
    return f"{value:.{2 if value < 1 and value else 1}f} %"


def _list(names: list[str]) -> str:
    shown = [repr(name) for name in names[:5]]
    if len(names) > 5:
        return f"{', '.join(shown)} and {len(names) - 5} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
