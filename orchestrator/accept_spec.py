"""What a job file says of what is accepted: the field that `JobSpec` has for it, and what goes with it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from models.spec import Sampling
from orchestrator.spec_error import SpecError, choices
from workers.acceptance.rules import Accept
from workers.acceptance.templates import RuleError, check_rules


class AcceptFields(BaseModel):
    """The field of a job that is for text alone; a job of another kind leaves it out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accept: Accept | None = None
    """Rules that an answer has to satisfy, and how often one that does not is asked for again."""

    def accept_json(self) -> dict[str, Any] | None:  # any JSON
        """The rules as they stand, as workers get them."""
        return None if self.accept is None or not self.accept.rules else self.accept.to_json()

    def accept_work(self, sampling: Sampling) -> dict[str, Any] | None:  # any JSON
        """The rules as workers get them. What is drawn without chance would be drawn alike: it is not drawn again."""
        if self.accept is None or not self.accept.rules:
            return None
        accept = self.accept.model_copy(update={"draws": 0}) if sampling.temperature == 0 else self.accept
        return accept.to_json()


def check_accept(fields: AcceptFields, *, n: int, temperature: float) -> None:
    """Raise ValueError where a text job's rules do not go with the rest of it."""
    accept = fields.accept
    if accept is None:
        return
    if n != 1:
        raise ValueError(f"accept is for one result an item, and n is {n}")
    if temperature == 0 and accept.draws and "draws" in accept.model_fields_set:
        raise ValueError(
            "accept.draws: at sampling.temperature 0 an answer that is drawn anew is the same; set draws: 0, or a "
            "temperature"
        )


def check_accept_rules(accept: Accept | None, *, structured: bool) -> dict[str, str]:
    """Check all that can be told of rules without rows.

    Args:
        accept: The rules.
        structured: Whether the outputs are objects.

    Returns:
        The fields of a row that they name, each with the place of a rule that does.

    Raises:
        SpecError: a rule cannot be checked.
    """
    if accept is None:
        return {}
    try:
        fields = check_rules(accept, structured=structured)
    except RuleError as error:
        param = f"accept.rules[{error.rule}]"
        raise SpecError(f"{param}: {error.message}", param=param) from error
    return {field: f"accept.rules[{place}]" for field, place in fields.items()}


def fields_of_rules(fields: AcceptFields) -> tuple[str, ...]:
    """The fields of a row that a job's rules name; none where a rule cannot be checked, which is told elsewhere."""
    structured = getattr(fields, "output_schema", None) is not None
    try:
        return tuple(check_accept_rules(fields.accept, structured=structured))
    except SpecError:
        return ()


def refuse_unknown_fields(named: dict[str, str], available: list[str], *, file: str | None, line: int | None) -> None:
    """Raise SpecError where a rule names a field that no row has; `named` is as `check_accept_rules` returns it."""
    for field, param in named.items():
        if field not in available:
            raise SpecError(
                f"{param} names the field {field!r}, and there is no column of this name; {choices(field, available)}",
                file=file,
                line=line,
                param=param,
            )
