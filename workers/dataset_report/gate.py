"""Bounds on a report's figures: a dataset that does not keep them is held back, and told why."""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from workers.dataset_report.figures import Report

Share = Annotated[float, Field(ge=0, le=1)]


class Gate(BaseModel):
    """What a dataset must keep to be let through. A bound that is None is not looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_accuracy: Share | None = None
    """Of `fidelity.accuracy`."""
    max_identical: Share | None = None
    """Share of rows that equal a training row."""
    min_utility: Annotated[float, Field(ge=0, le=2)] | None = None
    """Of `utility.ratio`: what a model learns from the dataset, of what it learns from as many real rows."""
    max_closer: Share | None = None
    """Share of rows that lie closer to the training rows than to rows that the model has not seen; 0.5 is chance."""
    max_membership: Share | None = None
    """AUC of telling training rows from unseen rows by their distance to the dataset; 0.5 is chance."""
    max_copied: Share | None = None
    """Share of values of free text and of ids that stand in the source."""


_WITHOUT_SOURCE: Final = "there is no table to compare it with"
_TAUGHT: Final = "the real rows do not teach a model anything either"
_EQUAL: Final = "share of rows equal to a training row"
_CLOSER: Final = "share of rows closer to training rows than to held-out rows"
_MEMBERS: Final = "AUC of membership inference"


def check_gate(report: Report, gate: Gate) -> tuple[str, ...]:
    """What holds a dataset back, a sentence for each bound that it breaks; empty where it keeps them all.

    A bound on a figure that the report does not have is broken: a dataset is not let through unseen.
    """
    fidelity, utility, privacy = report.fidelity, report.utility, report.privacy
    closeness = None if privacy is None else privacy.closeness
    membership = None if privacy is None else privacy.membership
    no_holdout = _WITHOUT_SOURCE if privacy is None else "there are no held-out rows, or too few"
    bounds = (
        _Bound("min_accuracy", gate.min_accuracy, "accuracy", fidelity.accuracy if fidelity else None, _WITHOUT_SOURCE),
        _Bound(
            "min_utility", gate.min_utility, "utility", utility.ratio if utility else None, report.no_utility or _TAUGHT
        ),
        _Bound("max_identical", gate.max_identical, _EQUAL, privacy.identical if privacy else None, _WITHOUT_SOURCE),
        _Bound("max_closer", gate.max_closer, _CLOSER, closeness.share if closeness else None, no_holdout),
        _Bound("max_membership", gate.max_membership, _MEMBERS, membership.auc if membership else None, no_holdout),
        *_copies(report, gate),
    )
    return tuple(said for said in map(_broken, bounds) if said is not None)


class _Bound(NamedTuple):
    """A bound, and the figure that is to keep it."""

    name: str
    bound: float | None
    what: str
    value: float | None
    absent: str
    """Why there is no value."""


def _copies(report: Report, gate: Gate) -> list[_Bound]:
    if report.privacy is None:
        return [_Bound("max_copied", gate.max_copied, "share of copied values", None, _WITHOUT_SOURCE)]
    return [
        _Bound(
            "max_copied", gate.max_copied, f"share of values of {one.column!r} that stand in the source", one.share, ""
        )
        for one in report.privacy.copied
    ]


def _broken(bound: _Bound) -> str | None:
    if bound.bound is None:
        return None
    if bound.value is None:
        return f"{bound.name} is {bound.bound:g}, but the {bound.what} could not be measured: {bound.absent}"
    low = bound.name.startswith("min_")
    if bound.value >= bound.bound if low else bound.value <= bound.bound:
        return None
    return f"the {bound.what} is {bound.value:.4f}, {'below' if low else 'above'} {bound.name}, {bound.bound:g}"
