"""Bounds on a report's figures: a dataset that does not keep them is held back, and told why."""

from __future__ import annotations

from typing import Annotated, Final

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


def check_gate(report: Report, gate: Gate) -> tuple[str, ...]:
    """What holds a dataset back, a sentence for each bound that it breaks; empty where it keeps them all.

    A bound on a figure that the report does not have is broken: a dataset is not let through unseen.
    """
    fidelity, utility, privacy = report.fidelity, report.utility, report.privacy
    no_utility = _WITHOUT_SOURCE if fidelity is None else (report.no_utility or "it was not measured")
    no_holdout = _WITHOUT_SOURCE if fidelity is None else "there are no held-out rows"
    held = (
        _least("accuracy", fidelity and fidelity.accuracy, gate.min_accuracy, "min_accuracy", _WITHOUT_SOURCE),
        _least("utility", utility and utility.ratio, gate.min_utility, "min_utility", no_utility),
        _most(
            "share of rows equal to a training row",
            privacy and privacy.identical,
            gate.max_identical,
            "max_identical",
            _WITHOUT_SOURCE,
        ),
        _most(
            "share of rows closer to training rows than to held-out rows",
            privacy and privacy.closeness and privacy.closeness.share,
            gate.max_closer,
            "max_closer",
            no_holdout,
        ),
        _most(
            "AUC of membership inference",
            privacy and privacy.membership and privacy.membership.auc,
            gate.max_membership,
            "max_membership",
            no_holdout,
        ),
        *(
            _most(
                f"share of the values of {copied.column!r} that stand in the source",
                copied.share,
                gate.max_copied,
                "max_copied",
                _WITHOUT_SOURCE,
            )
            for copied in (privacy.copied if privacy else ())
        ),
    )
    unseen = gate.max_copied is not None and privacy is None
    return (
        *((f"max_copied is {gate.max_copied:g}, but it could not be measured: {_WITHOUT_SOURCE}",) if unseen else ()),
        *(sentence for sentence in held if sentence is not None),
    )


def _least(what: str, value: float | None, bound: float | None, name: str, absent: str) -> str | None:
    if bound is None:
        return None
    if value is None:
        return f"{name} is {bound:g}, but {what} could not be measured: {absent}"
    return None if value >= bound else f"{what} is {value:.4f}, below {name}, {bound:g}"


def _most(what: str, value: float | None, bound: float | None, name: str, absent: str) -> str | None:
    if bound is None:
        return None
    if value is None:
        return f"{name} is {bound:g}, but the {what} could not be measured: {absent}"
    return None if value <= bound else f"the {what} is {value:.4f}, above {name}, {bound:g}"
