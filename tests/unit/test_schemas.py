"""JSON Schemas: the allow-list against the grammar engine itself, and the check afterwards."""

from __future__ import annotations

from typing import Any

import jsonschema
import orjson
import pytest
from llguidance import LLMatcher, LLTokenizer

from workers.schemas import KEYWORDS, SchemaError, Validator, check_schema


def having(**schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": schema}, "required": ["x"], "additionalProperties": False}


# For each keyword: a schema of x that uses it, a value that breaks it, and one that does not.
ENFORCED: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "type": ({"type": "integer"}, "a", 1),
    "enum": ({"enum": ["a", 1]}, "b", "a"),
    "const": ({"const": {"a": [1]}}, {"a": [2]}, {"a": [1]}),
    "minLength": ({"type": "string", "minLength": 3}, "ab", "abc"),
    "maxLength": ({"type": "string", "maxLength": 3}, "abcd", "abc"),
    "pattern": ({"type": "string", "pattern": "^a+$"}, "ab", "aa"),
    "format": ({"type": "string", "format": "date"}, "today", "2031-05-01"),
    "minimum": ({"type": "number", "minimum": 3}, 2.5, 3),
    "maximum": ({"type": "integer", "maximum": 3}, 4, 3),
    "exclusiveMinimum": ({"type": "integer", "exclusiveMinimum": 3}, 3, 4),
    "exclusiveMaximum": ({"type": "number", "exclusiveMaximum": 3}, 3, 2.5),
    "multipleOf": ({"type": "number", "multipleOf": 0.1}, 0.75, 0.7),
    "items": ({"type": "array", "items": {"type": "integer"}}, ["a"], [1]),
    "prefixItems": ({"type": "array", "prefixItems": [{"type": "integer"}], "items": False}, [1, 2], [1]),
    "minItems": ({"type": "array", "minItems": 2}, [1], [1, 2]),
    "maxItems": ({"type": "array", "maxItems": 2}, [1, 2, 3], [1, 2]),
    "properties": ({"type": "object", "properties": {"y": {"type": "integer"}}}, {"y": "a"}, {"y": 1}),
    "required": ({"type": "object", "required": ["y"]}, {}, {"y": 1}),
    "additionalProperties": ({"type": "object", "additionalProperties": {"type": "integer"}}, {"z": "a"}, {"z": 1}),
    "minProperties": ({"type": "object", "minProperties": 1}, {}, {"a": 1}),
    "maxProperties": ({"type": "object", "maxProperties": 1}, {"a": 1, "b": 1}, {"a": 1}),
    "allOf": ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, 2, 3),
    "anyOf": ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "a", None),
    "oneOf": ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, None, "a"),
    "$ref": ({"$ref": "#/$defs/a", "$defs": {}}, "q", 3),
    "$defs": ({"$ref": "#/$defs/a"}, "q", 3),
    "definitions": ({"$ref": "#/definitions/b"}, "q", 3),
}
NOTES = {"title": "t", "description": "d", "default": 1, "examples": [1], "deprecated": True, "readOnly": True,
         "writeOnly": True, "$comment": "c"}  # fmt: skip
TOKENS = LLTokenizer("byte")


def grammar_accepts(schema: dict[str, Any], value: object) -> bool:
    matcher = LLMatcher(TOKENS, LLMatcher.grammar_from_json_schema(orjson.dumps(schema).decode()))
    assert not matcher.is_error(), matcher.get_error()
    tokens = TOKENS.tokenize_str(orjson.dumps(value).decode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


@pytest.mark.parametrize("keyword", sorted(KEYWORDS))
def test_every_keyword_that_is_allowed_is_enforced_by_the_grammar(keyword: str) -> None:
    if keyword in NOTES:
        check_schema(having(**{keyword: NOTES[keyword], "type": "integer"}))
        return
    inner, bad, good = ENFORCED[keyword]
    schema = having(**inner) | {"$defs": {"a": {"type": "integer"}}, "definitions": {"b": {"type": "integer"}}}
    check_schema(schema)
    assert grammar_accepts(schema, {"x": good})
    assert not grammar_accepts(schema, {"x": bad})
    if keyword != "format":
        assert Validator(schema).error({"x": bad}) is not None
    assert Validator(schema).error({"x": good}) is None


OTHERS = sorted(
    {*jsonschema.Draft202012Validator.VALIDATORS, *jsonschema.Draft7Validator.VALIDATORS, "then", "else", "$anchor",
     "contentEncoding", "contentMediaType", "contentSchema", "nullable", "minContains", "maxContains"}
    - KEYWORDS
)  # fmt: skip


@pytest.mark.parametrize("keyword", OTHERS)
def test_every_other_keyword_is_refused_by_name(keyword: str) -> None:
    with pytest.raises(SchemaError, match=f"keyword '{keyword.replace('$', '.')}' cannot be enforced") as caught:
        check_schema(having(**{keyword: True}))
    assert "/properties/x" in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (True, "allows anything"),
        ({}, "allows anything"),
        (None, "must be an object"),
        ([], "must be an object"),
        ({"type": "object"}, "any object"),
        ({"type": "object", "description": "x", "properties": {}}, "any object"),
        ({"type": "object", "additionalProperties": True}, "any object"),
        ({"type": "object", "additionalProperties": False}, "nothing but {}"),
        ({"properties": {"a": {}}}, 'add "type": "object"'),
        ({"type": "string"}, "allows string; wrap it"),
        ({"type": ["object", "null"], "properties": {"a": {}}}, "allows null"),
        ({"enum": [{"a": 1}, "b"]}, "allows string"),
        ({"anyOf": [having(type="integer"), {"type": "array"}]}, "allows array"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "number"}}}, "allows number"),
        ({"$ref": "https://example.com/a.json"}, "leaves the schema"),
        ({"$ref": "#/$defs/a"}, "names nothing"),
        (having(minLenght=2), "did you mean 'minLength'"),
        (having(type="strin"), "not a valid JSON Schema: properties/x/type"),
        (having(minLength=-1), "minLength"),
        (having(**{"$id": "x"}), "'$id'"),
        (having(pattern="^(?=a)"), "not a regular expression that can be enforced"),
        (having(pattern="("), "not a regular expression"),
        (having(type="string", format="idn-email"), "'idn-email' cannot be enforced; known are date"),
        (having(oneOf=[{"type": "integer"}, {"type": "number"}]), "overlap"),
        (having(type="integer", minimum=5, maximum=3), "Unsatisfiable"),
        ({"type": "object", "properties": {"a": "string"}}, 'not "string" (at /properties/a)'),
        (having(enum=["x" * 300_000]), "256 KiB"),
        ({"type": "object", "properties": {"a": {1, 2}}}, "not JSON"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: object, says: str) -> None:
    with pytest.raises(SchemaError) as caught:
        check_schema(schema)
    assert says in str(caught.value)


def test_a_schema_that_is_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(100):
        schema = having(**schema)
    with pytest.raises(SchemaError, match="64 levels"):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        having(),
        {"type": "object", "required": ["a"]},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"$ref": "#/$defs/a", "$defs": {"a": having(type="integer")}},
        {"anyOf": [having(type="integer"), having(type="string")]},
        {"allOf": [{"type": "object"}, {"required": ["a"]}]},
        {"enum": [{"a": 1}, {"b": 2}]},
        {"const": {"a": 1}},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://a/b", **having(type="null")},
        {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}},
        {"$ref": "#/$defs/a~1b/anyOf/0", "$defs": {"a/b": {"anyOf": [having(type="integer")]}}},
    ],
)
def test_a_schema_of_an_object_is_fine(schema: dict[str, Any]) -> None:
    check_schema(schema)
    assert Validator(schema).error([]) is not None


def test_the_validator_says_where() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}, "required": ["a"]}
    validator = Validator(schema)
    assert validator.error({"a": [1]}) is None
    assert validator.error({"a": [1, "x"]}) == "a[1]: 'x' is not of type 'integer'"
    assert validator.error({}) == "'a' is a required property"
    assert len(validator.error({"a": "x" * 1000}) or "") < 350


def test_a_pattern_of_a_stranger_takes_linear_time() -> None:
    validator = Validator(having(type="string", pattern="^(a+)+$"))
    assert "does not match" in str(validator.error({"x": "a" * 100 + "b"}))
    assert validator.error({"x": "a" * 100}) is None
