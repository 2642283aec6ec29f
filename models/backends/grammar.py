"""A JSON Schema as the grammar that an engine follows: the same for every engine."""

from __future__ import annotations

from typing import Any

import llguidance

from models.spec import JsonSchema

# Keywords beside `properties` that may allow an object further properties: it is not closed then.
_COMPOSING = frozenset({"allOf", "anyOf", "oneOf", "$ref", "if", "then", "else", "dependentSchemas"})
_OPENING = _COMPOSING | {"additionalProperties", "unevaluatedProperties", "patternProperties"}
_ALTERNATIVES = frozenset({"anyOf", "oneOf"})
_VALUES = frozenset({"enum", "const", "default", "examples"})


def closed(schema: JsonSchema) -> JsonSchema:
    """The schema with objects that name their properties allowed no others, where it does not say.

    What satisfies it satisfies the schema as well; a small model that may invent properties does little else.
    """
    if _mentions(schema, "allOf"):  # an object may be described in several places, each of which must let the others be
        return schema
    closed_schema: JsonSchema = _closed(schema, within=False)
    return closed_schema


def _mentions(part: Any, keyword: str) -> bool:  # noqa: ANN401  # any part of a JSON Schema
    if isinstance(part, dict):
        return keyword in part or any(_mentions(value, keyword) for value in part.values())
    return isinstance(part, list) and any(_mentions(item, keyword) for item in part)


def _closed(part: Any, *, within: bool) -> Any:  # noqa: ANN401  # any part of a JSON Schema
    if isinstance(part, list):
        return [_closed(item, within=within) for item in part]
    if not isinstance(part, dict):
        return part
    result: dict[str, Any] = {}
    for key, value in part.items():
        if key in _VALUES:
            result[key] = value
        elif key in {"properties", "$defs", "definitions"} and isinstance(value, dict):
            result[key] = {name: _closed(inner, within=False) for name, inner in value.items()}
        else:
            result[key] = _closed(
                value, within=key in _COMPOSING and (within or "properties" in part or key == "allOf")
            )
    if "properties" in part and not within and not _OPENING & part.keys():
        result["additionalProperties"] = False
    return result


def grammar(schema: JsonSchema) -> str:
    """The grammar of a schema's compact JSON, in llguidance's own form.

    Raises:
        ValueError: it is no schema at all. What it holds is checked where a matcher is made of it.
    """
    compiled: str = llguidance.LLMatcher.grammar_from_json_schema(
        closed(schema), defaults={"whitespace_flexible": False}
    )
    return compiled
