"""Pydantic's findings about a job in a person's words: which field, what is wrong, what would be right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.spec_error import SpecError, choices

_SHOWN_ERRORS = 3
_FIELD = re.compile(r"[a-z_]+(?:\.[a-z_]+)*")


def explain(error: ValidationError, model: type[BaseModel], *, what: str = "a job") -> SpecError:
    """The first findings of a validation of `model` as one error; `what` is what a `model` is to people."""
    found = error.errors(include_url=False)
    # A list whose entries are wrong is counted without them.
    inner = {detail["loc"][:-2] for detail in found}
    details = [detail for detail in found if detail["type"] != "too_short" or detail["loc"] not in inner]
    # A misspelt field also makes the right one missing: the misspelling is the one to name.
    details.sort(key=lambda detail: detail["type"] != "extra_forbidden")
    sentences = list(dict.fromkeys(_sentence(detail, model, what) for detail in details))
    more = f" (and {len(sentences) - _SHOWN_ERRORS} more)" if len(sentences) > _SHOWN_ERRORS else ""
    param = _param(details[0]["loc"]) or _named_first(sentences[0], model)
    return SpecError("; ".join(sentences[:_SHOWN_ERRORS]) + more, param=param)


def json_type(value: object) -> str:
    """What a JSON value is, for the end of "must be …, not …"."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {shown(value)}"
    return "an object" if isinstance(value, dict) else "a list"


def shown(value: object) -> str:
    """A value as it is shown in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


_TEMPLATES = {
    "missing": "{param} is missing",
    "string_too_short": "{param} is empty",
    "too_short": "{param} is empty",
    "string_too_long": "{param} is too long; at most {max_length} characters",
    "too_long": "{param} has too many entries; at most {max_length}",
    "literal_error": "{param}: {value} is not known; it must be {expected}",
    "greater_than_equal": "{param}: {value} is not allowed; it must be at least {ge}",
    "greater_than": "{param}: {value} is not allowed; it must be above {gt}",
    "less_than_equal": "{param}: {value} is not allowed; it must be at most {le}",
    "less_than": "{param}: {value} is not allowed; it must be below {lt}",
    "string_type": "{param} must be text, not {kind}",
    "int_type": "{param} must be a whole number, not {kind}",
    "int_parsing": "{param} must be a whole number, not {kind}",
    "int_from_float": "{param} must be a whole number, not {kind}",
    "float_type": "{param} must be a number, not {kind}",
    "float_parsing": "{param} must be a number, not {kind}",
    "bool_type": "{param} must be true or false, not {kind}",
    "bool_parsing": "{param} must be true or false, not {kind}",
    "dict_type": "{param} must be an object, not {kind}",
    "model_type": "{param} must be an object, not {kind}",
    "list_type": "{param} must be a list, not {kind}",
    "tuple_type": "{param} must be a list, not {kind}",
}


def _sentence(detail: ErrorDetails, model: type[BaseModel], what: str) -> str:
    param, context, value = _param(detail["loc"]), detail.get("ctx", {}), detail["input"]
    if detail["type"] == "extra_forbidden":
        owner = _param(detail["loc"][:-1]) or what
        right = choices(str(detail["loc"][-1]), _fields(detail["loc"], model))
        return f"{param}: {owner} has no field of this name; {right}"
    if detail["type"] == "value_error":
        reason = str(context["error"])
        return f"{param}: {reason}" if param else reason
    template = _TEMPLATES.get(detail["type"])
    if template is None:
        return f"{param}: {detail['msg']}"
    return template.format(param=param, value=shown(value), kind=json_type(value), **context)


def _param(location: Sequence[str | int]) -> str:
    text = ""
    for step in location:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step != "[key]":
            text += f".{step}" if text else step
    return text


def _named_first(sentence: str, model: type[BaseModel]) -> str | None:
    """The field that a sentence about fields that do not go together begins with; None where it begins otherwise."""
    words = _FIELD.match(sentence)
    known = {field.alias or name for name, field in model.model_fields.items()}
    return words[0] if words is not None and words[0].partition(".")[0] in known else None


def _fields(location: Sequence[str | int], model: type[BaseModel]) -> list[str]:
    for step in location[:-1]:
        for name, field in model.model_fields.items():
            if step in {name, field.alias}:
                model = _inner_model(field.annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _inner_model(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _inner_model(part))), None)
