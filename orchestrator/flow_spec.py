"""A flow: a job of several nodes over the same rows, each with a model of its own; one may use what others made.

Which node needs which follows from the names that its templates and inputs use. Each becomes a job of its own kind,
with the same items as every other: `node_specs` makes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from orchestrator.accept_spec import fields_of_rules
from workers.prompts import PromptError, PromptTemplate

if TYPE_CHECKING:
    from orchestrator.spec import JobSpec

MAX_NODES = 20
NODE_KINDS = ("text", "image", "audio", "echo")
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_ROW: dict[str, Any] = {"count": 1}
"""The source of a node as long as it stands in its flow, whose source it has."""
_OF_THE_FLOW = ("source", "name", "priority", "deadline", "metadata", "nodes", "upstream", "replay", "data", "training")
"""Fields that a node cannot have."""
_FLOW_FIELDS = frozenset({"name", "kind", "source", "nodes", "seed", "keep", "priority", "deadline", "metadata"})


def with_sources(data: dict[str, Any]) -> dict[str, Any]:
    """A flow as it was written, with something for a source in each node, which it is not written with.

    Raises:
        ValueError: a node has a field that belongs to the whole flow.
    """
    nodes = data.get("nodes")
    if not isinstance(nodes, dict):
        return data
    for name, node in nodes.items():
        for field in _OF_THE_FLOW if isinstance(node, dict) else ():
            if field in node:
                raise ValueError(f"nodes.{name}.{field} cannot be given to a node; {_instead(field)}")
    return {
        **data,
        "nodes": {name: {**node, "source": _ROW} if isinstance(node, dict) else node for name, node in nodes.items()},
    }


def _instead(field: str) -> str:
    if field in _FLOW_FIELDS - {"nodes"}:
        return f"give {field} to the whole flow"
    return "a node is of kind text, image or audio, and has the fields of that"


def check_flow(flow: JobSpec) -> None:
    """Raise ValueError where the nodes of a flow do not go together; the message names the field."""
    nodes = flow.nodes or {}
    if not nodes:
        raise ValueError("nodes is missing; a flow has at least one, by its name")
    if len(nodes) > MAX_NODES:
        raise ValueError(f"nodes: a flow has {MAX_NODES} at most, and this one {len(nodes)}")
    for name, declared in type(flow).model_fields.items():
        if name not in _FLOW_FIELDS and getattr(flow, name) != declared.get_default(call_default_factory=True):
            raise ValueError(f"{declared.alias or name} is for a node, and not for the whole flow")
    for name, node in nodes.items():
        if NAME.fullmatch(name) is None:
            raise ValueError(
                f"nodes: {name!r} cannot be a node's name; take small letters, digits and _, at most 40, a letter first"
            )
        if name in (flow.source.grid or {}):
            raise ValueError(f"nodes.{name}: source.grid has a list of this name; give the node another")
        if node.kind not in NODE_KINDS:
            raise ValueError(f"nodes.{name}.kind is {node.kind}; a node is {' or '.join(NODE_KINDS)}")
        for field, needed in _uses(node, nodes):
            _check_use(name, field, needed, nodes[needed])
    in_order(flow)


def in_order(flow: JobSpec) -> dict[str, tuple[str, ...]]:
    """By node, the nodes that it needs; each stands behind all that it needs, else as they were written.

    Raises:
        ValueError: nodes need each other.
    """
    nodes = flow.nodes or {}
    needs = {name: tuple(dict.fromkeys(needed for _, needed in _uses(node, nodes))) for name, node in nodes.items()}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        raise ValueError(f"nodes need each other in a circle: {' uses '.join(reversed(error.args[1]))}") from error
    ordered: dict[str, tuple[str, ...]] = {}
    while len(ordered) < len(needs):
        following = next(name for name in needs if name not in ordered and ordered.keys() >= set(needs[name]))
        ordered[following] = needs[following]
    return ordered


def node_specs(flow: JobSpec) -> dict[str, JobSpec]:
    """The nodes of a flow as jobs, each behind all that it needs."""
    nodes = flow.nodes or {}
    return {
        name: nodes[name].model_copy(
            update={
                "name": f"{flow.name}: {name}"[:200],
                "source": flow.source,
                "priority": flow.priority,
                "deadline": flow.deadline,
                "seed": nodes[name].seed if "seed" in nodes[name].model_fields_set else flow.seed,
                "keep": nodes[name].keep if nodes[name].keep is not None else flow.keep,
                "upstream": {needed: placeholder(needed, nodes[needed]) for needed in needs} or None,
            }
        )
        for name, needs in in_order(flow).items()
    }


def placeholder(name: str, node: JobSpec) -> JsonValue:
    """Something of the shape of what a node makes, to render templates with that use it before there is any."""
    shown = f"<{name}>" if node.output_schema is None else example(name, node.output_schema)
    return [shown] * node.n if node.n > 1 else shown


def example(name: str, schema: Mapping[str, Any]) -> JsonValue:
    """Something that looks like what a schema describes."""
    if "enum" in schema:
        first: JsonValue = schema["enum"][0]
        return first
    match schema.get("type"):
        case "object":
            return {key: example(f"{name}.{key}", value) for key, value in schema.get("properties", {}).items()}
        case "array":
            return [example(name, schema.get("items", {}))] * max(1, int(schema.get("minItems", 1)))
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case _:
            return f"<{name}>"


def _uses(node: JobSpec, nodes: Mapping[str, JobSpec]) -> list[tuple[str, str]]:
    """Which nodes a node uses, and in which of its fields: a template, or an input."""
    found = []
    for message in node.templates:
        try:
            fields = PromptTemplate((message,)).fields
        except PromptError:
            continue  # it is told where templates are compiled
        found += [("prompt", name) for name in nodes if name in fields]
    found += [("accept", name) for name in fields_of_rules(node) if name in nodes]
    return found + [
        (field, name)
        for field in ("input", "mask", "style_image")
        if (name := getattr(node, field)) is not None and name in nodes
    ]


def _check_use(name: str, field: str, needed: str, maker: JobSpec) -> None:
    if name == needed:
        raise ValueError(f"nodes.{name}.{field} uses {name}, the node itself")
    if field in {"prompt", "accept"}:
        if maker.kind not in {"text", "echo"}:
            instead = "; name it as input, mask or style_image" if maker.kind == "image" else " and no text"
            raise ValueError(f"nodes.{name}.{field} uses {needed}, which makes {_made(maker)}{instead}")
    elif maker.kind != "image":
        raise ValueError(f"nodes.{name}.{field} names the node {needed}, which makes {_made(maker)} and no image")
    elif maker.n != 1:
        raise ValueError(
            f"nodes.{name}.{field} names the node {needed}, which makes {maker.n} images an item; one is used"
        )


def _made(node: JobSpec) -> str:
    return {"image": "images", "audio": "sounds"}.get(node.kind, "text")
