"""The rules of a dataset that cannot be used with its plan, told before anything runs."""

from __future__ import annotations

from collections.abc import Collection

from orchestrator.accept_spec import check_accept_rules, refuse_unknown_fields
from orchestrator.dataset_spec import DatasetFields
from orchestrator.spec_error import SpecError, choices
from workers.acceptance.rules import Accept
from workers.columns.rule_places import RuleUseError, column_of, rule_columns


def check_dataset_rules(
    fields: DatasetFields, accept: Accept | None, *, grid: Collection[str], known: Collection[str] | None
) -> None:
    """Check rules against a plan.

    Args:
        fields: The plan.
        accept: The rules.
        grid: Names of the source's grid.
        known: What a row has before its columns are filled; None where that is known only when it is read.

    Raises:
        SpecError: a rule is about no column, or cannot be used in a dataset.
    """
    if accept is None:
        return
    try:
        rule_columns(accept, list(fields.plan))
    except RuleUseError as error:
        param = f"accept.rules[{error.rule}]"
        raise SpecError(f"{param}: {error.message}", param=param) from error
    subjects = list(dict.fromkeys((*fields.given(grid), *(fields.columns or ()))))
    for place, rule in enumerate(accept.rules):
        head = column_of(rule)
        if head is not None and head not in subjects:
            param = f"accept.rules[{place}].field"
            raise SpecError(f"{param}: there is no column {head!r}; {choices(head, subjects)}", param=param)
    if known is not None:
        named = check_accept_rules(accept, structured=True)
        refuse_unknown_fields(named, [*known, *(fields.columns or ())], file=None, line=None)
