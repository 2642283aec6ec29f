"""JSON Schemas for outputs: which can be enforced while a model writes, and whether an output satisfies one."""

from __future__ import annotations

import jsonschema
import orjson
from llguidance import LLMatcher

from models.spec import JsonSchema


class SchemaError(Exception):
    """A JSON Schema cannot be used; the message names the keyword and says what would be right."""


class Validator:
    """Says whether values satisfy one schema. Made once a job, used once an item."""

    def __init__(self, schema: JsonSchema) -> None:
        self._validator = jsonschema.Draft202012Validator(schema)

    def error(self, value: object) -> str | None:
        """What is wrong with a value; None where it satisfies the schema."""
        found = next(self._validator.iter_errors(value), None)
        if found is None:
            return None
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in found.absolute_path)
        return f"{place.lstrip('.')}: {found.message}" if place else str(found.message)


def check_schema(schema: object) -> None:
    """Check that a schema describes an object and that the grammar can enforce all of it.

    Raises:
        SchemaError: it is invalid, trivially empty, not of an object, or has a keyword that cannot be enforced.
    """
    if not isinstance(schema, dict) or not schema.get("properties"):
        raise SchemaError("it must describe an object with properties")
    failed, warnings = LLMatcher.validate_grammar_with_warnings(
        LLMatcher.grammar_from_json_schema(orjson.dumps(schema).decode())
    )
    if failed:
        raise SchemaError(warnings[0])
