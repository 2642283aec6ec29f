"""Schemas as engines are given them: closed where that forbids nothing that was asked for."""

from __future__ import annotations

from typing import Any

import llguidance
import pytest

from models.backends.grammar import closed, grammar

NAME: dict[str, Any] = {"type": "object", "properties": {"name": {"type": "string"}}}


def test_objects_that_name_their_properties_are_closed_at_every_depth() -> None:
    nested = {"type": "object", "properties": {"one": NAME, "many": {"type": "array", "items": NAME}}}
    found = closed(nested)
    assert found["additionalProperties"] is False
    assert found["properties"]["one"]["additionalProperties"] is False
    assert found["properties"]["many"]["items"]["additionalProperties"] is False
    assert "additionalProperties" not in nested


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {**NAME, "additionalProperties": True},
        {**NAME, "additionalProperties": {"type": "integer"}},
        {"allOf": [NAME, {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}]},
        {
            **NAME,
            "anyOf": [{"properties": {"age": {"type": "integer"}}}, {"properties": {"size": {"type": "integer"}}}],
        },
        {"type": "object", "additionalProperties": False, "const": {"properties": {"a": 1}}},
    ],
)
def test_what_says_or_needs_otherwise_is_left_alone(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_alternatives_of_whole_objects_are_closed() -> None:
    assert closed({"anyOf": [NAME, {"type": "null"}]})["anyOf"][0]["additionalProperties"] is False


def test_a_property_may_have_the_name_of_a_keyword() -> None:
    schema = {"type": "object", "properties": {"properties": {"type": "string"}, "anyOf": NAME}}
    assert closed(schema)["properties"]["properties"] == {"type": "string"}
    assert closed(schema)["properties"]["anyOf"]["additionalProperties"] is False


def test_a_schema_becomes_a_grammar_that_is_accepted() -> None:
    assert llguidance.LLMatcher.validate_grammar(grammar(NAME)) == ""
