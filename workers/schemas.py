"""JSON Schemas for outputs: which can be enforced while a model writes, and whether an output satisfies one.

What a schema may say is listed: each keyword below was tried against llguidance 1.7.6, the grammar engine of both text
engines, with a value that breaks it, and the grammar refused the value. A keyword that the grammar would not enforce
(`uniqueItems`, `contains`, `not`, …) or would silently pass over (`contentEncoding`, a misspelt one) is refused by
name, since a run of a million items is a bad place to find out.
https://json-schema.org/draft/2020-12/json-schema-validation
"""

from __future__ import annotations

import decimal
import difflib
from collections.abc import Iterator
from typing import Any, TypeAlias

import jsonschema
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from llguidance import LLMatcher

from models.spec import JsonSchema

MAX_BYTES = 256 << 10
MAX_DEPTH = 64
_Errors: TypeAlias = Iterator[jsonschema.ValidationError]

_ONE_SCHEMA = frozenset({"items", "additionalProperties"})
_SCHEMA_LISTS = frozenset({"prefixItems", "allOf", "anyOf", "oneOf"})
_SCHEMA_MAPS = frozenset({"properties", "$defs", "definitions"})
_CONSTRAINTS = frozenset(
    {"type", "enum", "const", "$ref", "required", "minProperties", "maxProperties", "minItems", "maxItems"}
    | {"minLength", "maxLength", "pattern", "format"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
)
_NOTES = frozenset({"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"})
KEYWORDS = _ONE_SCHEMA | _SCHEMA_LISTS | _SCHEMA_MAPS | _CONSTRAINTS | _NOTES
"""Every keyword that a schema may use. `$schema` and `$id` may stand at its top."""
_INSTEAD = {
    "nullable": 'write "type": ["string", "null"]',
    "dependencies": "state each case under anyOf",
    "dependentRequired": "state each case under anyOf",
    "dependentSchemas": "state each case under anyOf",
    "if": "state each case under anyOf",
    "then": "state each case under anyOf",
    "else": "state each case under anyOf",
    "not": "say what is allowed instead, with enum, pattern or anyOf",
    "patternProperties": "name the properties under properties",
    "propertyNames": "name the properties under properties",
    "unevaluatedProperties": "use additionalProperties",
    "unevaluatedItems": 'use prefixItems with "items": false',
    "additionalItems": 'use prefixItems with "items": false',
    "uniqueItems": "ask for distinct entries in the prompt, and check them afterwards",
    "contains": "describe the entries with items or prefixItems",
    "minContains": "describe the entries with items or prefixItems",
    "maxContains": "describe the entries with items or prefixItems",
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
    "$anchor": "refer to $defs by its path",
    "contentEncoding": "use pattern",
    "contentMediaType": "describe the value itself",
    "contentSchema": "describe the value itself",
}
# These name a value by itself; a schema that has none of them, and no type, allows anything.
_NOTHING_SAID = _NOTES | {"type", "$defs", "definitions", "$schema", "$id", "required"}


class SchemaError(Exception):
    """A JSON Schema cannot be used; the message names the keyword and says what would be right."""


class Validator:
    """Says whether values satisfy one schema. Made once a job, used once an item."""

    def __init__(self, schema: JsonSchema) -> None:
        self._validator = _Checker(schema)

    def error(self, value: object) -> str | None:
        """What is wrong with a value, with its place; None where it satisfies the schema."""
        found = next(self._validator.iter_errors(value), None)
        if found is None:
            return None
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in found.absolute_path)
        text = found.message if len(found.message) <= 300 else found.message[:297] + "…"
        return f"{place.lstrip('.')}: {text}" if place else text


def check_schema(schema: object) -> None:
    """Check that a schema describes an object and that all of it can be enforced.

    Raises:
        SchemaError: it is invalid, trivially empty, not of an object, or has a keyword that cannot be enforced.
    """
    if schema is True or schema == {}:
        raise SchemaError('it allows anything; describe the object: {"type": "object", "properties": {…}}')
    if not isinstance(schema, dict):
        raise SchemaError('it must be an object: {"type": "object", "properties": {…}}')
    try:
        text = orjson.dumps(schema)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise SchemaError(f"it is not JSON: {error}") from error
    if len(text) > MAX_BYTES:
        raise SchemaError(f"it is over {MAX_BYTES >> 10} KiB long")
    _walk(schema, "", 0)
    try:
        _Checker.check_schema(schema)
    except jsonschema.SchemaError as error:
        place = "/".join(map(str, error.absolute_path))
        raise SchemaError(f"it is not a valid JSON Schema: {place}: {error.message}") from error
    _check_refs(schema)
    _check_object(schema)
    failed, messages = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_json_schema(text.decode()))
    if failed or messages:
        raise SchemaError(_reworded(str(messages[0]) if messages else "the grammar cannot be made"))


def _walk(schema: object, place: str, depth: int) -> None:
    """Refuse keywords that are not known, and patterns that are not regular expressions."""
    if isinstance(schema, bool):
        return
    where = f" (at {place})" if place else ""
    if depth > MAX_DEPTH:
        raise SchemaError(f"it is nested more than {MAX_DEPTH} levels deep")
    if not isinstance(schema, dict):
        raise SchemaError(f"a schema must be an object, not {orjson.dumps(schema).decode()[:60]}{where}")
    for keyword, value in schema.items():
        if keyword not in KEYWORDS and not (keyword in {"$schema", "$id"} and not place):
            raise SchemaError(_unknown_keyword(keyword, where))
        if keyword == "pattern" and isinstance(value, str):
            _check_pattern(value, where)
        for step, inner in _inner_schemas(keyword, value):
            _walk(inner, f"{place}/{keyword}{step}", depth + 1)


def _inner_schemas(keyword: str, value: object) -> list[tuple[str, object]]:
    """The schemas below a keyword, each with the rest of its place."""
    if keyword in _ONE_SCHEMA:
        return [("", value)]
    if keyword in _SCHEMA_LISTS and isinstance(value, list):
        return [(f"/{index}", entry) for index, entry in enumerate(value)]
    if keyword in _SCHEMA_MAPS and isinstance(value, dict):
        return [(f"/{name}", entry) for name, entry in value.items()]
    return []


def _unknown_keyword(keyword: str, where: str) -> str:
    if keyword in _INSTEAD:
        return f"the keyword {keyword!r} cannot be enforced while the model writes{where}; {_INSTEAD[keyword]}"
    close = difflib.get_close_matches(keyword, KEYWORDS, n=1)
    right = f"did you mean {close[0]!r}?" if close else "leave it out"
    return f"{keyword!r} is no keyword that can be enforced{where}; {right}"


def _check_pattern(pattern: str, where: str) -> None:
    try:
        _found(pattern, "")
    except pa.ArrowInvalid as error:
        reason = str(error).partition(": ")[2] or str(error)
        raise SchemaError(
            f"the pattern {pattern!r} is not a regular expression that can be enforced: {reason}{where}"
        ) from error


def _check_refs(schema: JsonSchema) -> None:
    for place, reference in _refs(schema, ""):
        if not reference.startswith("#"):
            raise SchemaError(f"$ref {reference!r} leaves the schema{place}; put what it names under $defs")
        _resolved(schema, reference)


def _refs(value: object, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref" and isinstance(inner, str):
                yield f" (at {place})" if place else "", inner
            elif key not in {"enum", "const", "default", "examples"}:
                yield from _refs(inner, f"{place}/{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _refs(inner, f"{place}/{index}")


def _resolved(root: JsonSchema, reference: str) -> Any:  # noqa: ANN401 - whatever stands there; the caller looks
    target: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
            target = target[int(name)]
        elif isinstance(target, dict) and name in target:
            target = target[name]
        else:
            raise SchemaError(f"$ref {reference!r} names nothing in the schema")
    return target


def _check_object(root: JsonSchema) -> None:
    kinds = _kinds(root, root, 0)
    if kinds is None:
        raise SchemaError('it does not say that the output is an object; add "type": "object"')
    if kinds != {"object"}:
        found = " or ".join(sorted(kinds - {"object"}))
        raise SchemaError(
            f"the output must be an object, and the schema allows {found}; wrap it: "
            '{"type": "object", "properties": {"value": …}, "required": ["value"]}'
        )
    if _says_nothing(root):
        raise SchemaError("it allows any object; say which properties it has, under properties")


def _kinds(schema: object, root: JsonSchema, depth: int) -> set[str] | None:
    """The JSON types that a schema allows; None where it does not say."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return None
    if "type" in schema:
        stated = schema["type"]
        return set(stated) if isinstance(stated, list) else {stated}
    if "const" in schema or "enum" in schema:
        return {_json_type(value) for value in schema.get("enum", [schema.get("const")])}
    if "$ref" in schema:
        return _kinds(_resolved(root, schema["$ref"]), root, depth + 1)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            branches = [_kinds(branch, root, depth + 1) for branch in schema[keyword]]
            return None if None in branches else set().union(*(branch for branch in branches if branch))
    known = [kinds for branch in schema.get("allOf", ()) if (kinds := _kinds(branch, root, depth + 1)) is not None]
    return set.intersection(*known) if known else None


def _says_nothing(schema: JsonSchema) -> bool:
    if schema.get("additionalProperties") is False and not schema.get("properties"):
        raise SchemaError("it allows nothing but {}; say which properties the object has, under properties")
    said = {keyword for keyword, value in schema.items() if value is not True and value not in ({}, [])} - _NOTHING_SAID
    return not said and not schema.get("required")


def _json_type(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null", int: "integer"}
    return names.get(type(value), "number")


def _reworded(message: str) -> str:
    if "oneOf" in message:
        return "oneOf whose alternatives overlap cannot be enforced; use anyOf"
    if "Unimplemented keys" in message:
        return f"keywords that cannot be enforced: {message.partition(': ')[2].strip('[]')}"
    if message.startswith("Unknown format"):
        return (
            f"the format {message.partition(': ')[2]!r} cannot be enforced; known are date, date-time, time, duration, "
            "email, hostname, ipv4, ipv6, uri and uuid"
        )
    return f"it cannot be enforced: {message}"


def _found(pattern: str, text: str) -> bool:
    # RE2, by way of pyarrow: a pattern of a stranger over a model's text must not take exponential time.
    return bool(pc.match_substring_regex(pa.scalar(text), pattern).as_py())


def _pattern(_: object, pattern: str, value: object, __: object) -> _Errors:
    if isinstance(value, str) and not _found(pattern, value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _multiple_of(_: object, step: float, value: object, __: object) -> _Errors:
    # Decimal, as people write numbers: 0.7 is a multiple of 0.1, though not in binary.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and decimal.Decimal(repr(value)) % decimal.Decimal(repr(step)):
        yield jsonschema.ValidationError(f"{value!r} is not a multiple of {step!r}")


_Checker = jsonschema.validators.extend(
    jsonschema.Draft202012Validator, {"pattern": _pattern, "multipleOf": _multiple_of}
)
