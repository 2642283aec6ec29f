"""Flows as people write them: what goes together, who needs whom, and what each node becomes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.flow_spec import MAX_NODES, in_order, node_specs, placeholder
from orchestrator.jobfile import load_job_file
from orchestrator.planning import plan_here
from orchestrator.spec import parse_job
from orchestrator.spec_error import SpecError
from orchestrator.static_checks import check_static

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
TEXT: dict[str, Any] = {"kind": "echo", "prompt": "on {{ name }}"}
PICTURE: dict[str, Any] = {"kind": "image", "model": "echo", "prompt": "{{ name }}"}
SPEECH: dict[str, Any] = {"kind": "audio", "model": "echo", "prompt": "{{ name }}"}
UPSCALE: dict[str, Any] = {"kind": "image", "steps": ["upscale"], "input": "picture"}


def flow(nodes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "kit", "kind": "flow", "source": {"items": [{"name": "x"}]}, "nodes": nodes, **fields}


RULED: dict[str, Any] = {**TEXT, "accept": {"rules": [{"required": ["{{ b }}"]}]}}


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no nodes": (flow({}), "nodes", "at least one"),
    "nodes of a text job": ({**flow({"a": TEXT}), "kind": "text"}, "nodes", "set kind: flow"),
    "too many": (flow({f"n{number}": TEXT for number in range(MAX_NODES + 1)}), "nodes", "at most, and this one 21"),
    "a prompt of the flow": (flow({"a": TEXT}, prompt="x"), "prompt", "is for a node"),
    "a schema of the flow": (flow({"a": TEXT}, schema={"type": "object"}), "schema", "is for a node"),
    "a source of a node": (flow({"a": {**TEXT, "source": {"count": 1}}}), "nodes.a.source", "to the whole flow"),
    "a name of a node": (flow({"a": {**TEXT, "name": "x"}}), "nodes.a.name", "to the whole flow"),
    "a flow in a flow": (flow({"a": {**TEXT, "kind": "flow", "nodes": {}}}), "nodes.a.nodes", "cannot be given"),
    "a training": (flow({"a": {"kind": "train", "model": "m"}}), "nodes.a", "data is missing"),
    "a name that no template can say": (flow({"my-copy": TEXT}), "nodes", "cannot be a node's name"),
    "a name of the grid": (
        flow({"tone": TEXT}, source={"items": [{"name": "x"}], "grid": {"tone": ["warm"]}}),
        "nodes.tone",
        "source.grid has a list of this name",
    ),
    "itself": (flow({"a": {**TEXT, "prompt": "{{ a }}"}}), "nodes.a.prompt", "the node itself"),
    "rules about a picture": (
        flow({"b": PICTURE, "a": RULED}),
        "nodes.a.accept",
        "uses b, which makes images",
    ),
    "a circle": (
        flow({"a": {**TEXT, "prompt": "{{ b }}"}, "b": {**TEXT, "prompt": "{{ a }}"}}),
        "nodes",
        "in a circle: a uses b uses a",
    ),
    "a picture in a prompt": (
        flow({"picture": PICTURE, "a": {**TEXT, "prompt": "{{ picture }}"}}),
        "nodes.a.prompt",
        "name it as input",
    ),
    "a text as a picture": (flow({"picture": TEXT, "a": UPSCALE}), "nodes.a.input", "makes text and no image"),
    "speech in a prompt": (
        flow({"voice": SPEECH, "a": {**TEXT, "prompt": "{{ voice }}"}}),
        "nodes.a.prompt",
        "uses voice, which makes sounds and no text",
    ),
    "speech as a picture": (flow({"picture": SPEECH, "a": UPSCALE}), "nodes.a.input", "makes sounds and no image"),
    "a voice that is not there": (
        flow({"a": {**SPEECH, "model": "hibari-tts", "audio": {"voice": "x"}}}),
        "nodes.a.audio.voice",
        "has no voice 'x'",
    ),
    "one picture of several": (
        flow({"picture": {**PICTURE, "n": 2}, "a": UPSCALE}),
        "nodes.a.input",
        "makes 2 images an item",
    ),
    "a misspelt field": (flow({"a": {**TEXT, "promt": "x"}}), "nodes.a.promt", "did you mean 'prompt'?"),
    "a broken template": (flow({"a": {**TEXT, "prompt": "{{ x"}}), "nodes.a.prompt", "nodes.a: prompt, line 1"),
    "an unknown model": (flow({"a": {"prompt": "x", "model": "nope"}}), "nodes.a.model", "there is no model 'nope'"),
    "a field for the service": ({**TEXT, "source": {"count": 1}, "upstream": {"a": "x"}}, "upstream", "write a flow"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_go_together_is_told(name: str) -> None:
    data, param, says = BAD[name]
    with pytest.raises(SpecError) as caught:
        check_static(parse_job(data), NOW)
    assert says in caught.value.message
    assert caught.value.param is not None
    assert caught.value.param.startswith(param)


def test_an_error_in_a_node_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "kit.yaml"
    file.write_text("kind: flow\nsource: {count: 1}\nnodes:\n  copy:\n    kind: echo\n    prompt: hi\n    n: none\n")
    with pytest.raises(SpecError, match=r"kit\.yaml, line 7: nodes\.copy\.n"):
        load_job_file(file)


def test_needs_follow_from_templates_and_inputs() -> None:
    nodes = {
        "larger": UPSCALE,
        "title": {**TEXT, "prompt": "Of {{ copy | trim }}"},
        "picture": {**PICTURE, "prompt": "{{ title }} in {{ name }}"},
        "copy": TEXT,
    }
    assert list(in_order(parse_job(flow(nodes))).items()) == [
        ("copy", ()),
        ("title", ("copy",)),
        ("picture", ("title",)),
        ("larger", ("picture",)),
    ]


def test_nodes_stay_as_they_were_written_as_far_as_they_can() -> None:
    nodes = {"b": TEXT, "d": {**TEXT, "prompt": "{{ b }}"}, "a": TEXT, "c": {**TEXT, "prompt": "{{ a }}"}}
    assert list(in_order(parse_job(flow(nodes)))) == ["b", "d", "a", "c"]


def test_a_flow_is_stored_as_it_was_written() -> None:
    spec = parse_job(flow({"copy": TEXT, "picture": {**PICTURE, "prompt": "{{ copy }}"}}, seed=4, deadline="2h"))
    stored = spec.to_json()
    assert parse_job(stored) == spec
    assert "source" not in stored["nodes"]["copy"]


def test_a_node_becomes_a_job_over_the_items_of_the_flow() -> None:
    nodes = {"copy": {**TEXT, "seed": 9}, "picture": {**PICTURE, "prompt": "{{ copy }}", "keep": ["name"]}}
    spec = parse_job(flow(nodes, seed=4, deadline="2h", priority="low", keep=[]))
    copy, picture = node_specs(spec).values()
    assert (copy.kind, copy.seed, copy.upstream, copy.name) == ("echo", 9, None, "kit: copy")
    assert (picture.kind, picture.seed, picture.upstream) == ("image", 4, {"copy": "<copy>"})
    assert (copy.keep, picture.keep) == ((), ("name",))
    for node in (copy, picture):
        assert (node.source, node.priority, node.deadline) == (spec.source, "low", "2h")
        assert parse_job(node.to_json()) == node


def test_a_placeholder_has_the_shape_of_what_it_stands_for() -> None:
    schema = {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "bullets": {"type": "array", "items": {"type": "string"}, "minItems": 2},
            "price": {"type": "number"},
            "gift": {"type": "boolean"},
            "size": {"enum": ["S", "M"]},
        },
    }
    node = parse_job({**TEXT, "source": {"count": 1}, "schema": schema})
    assert placeholder("copy", node) == {
        "title": "<copy.title>",
        "bullets": ["<copy.bullets>", "<copy.bullets>"],
        "price": 1,
        "gift": True,
        "size": "S",
    }
    assert placeholder("copy", node.model_copy(update={"output_schema": None, "n": 2})) == ["<copy>", "<copy>"]


def test_planning_knows_what_is_yet_to_be_made() -> None:
    nodes = {"copy": TEXT, "title": {**TEXT, "prompt": "{{ copy }} of {{ name }}"}}
    _, title = node_specs(parse_job(flow(nodes))).values()
    summary = plan_here(title)
    assert summary.samples[0][0].content == "<copy> of x"


@pytest.mark.parametrize("prompt", ["{{ copy }} {{ nme }}", "{{ copy | upper }} {{ nme }}"])
def test_planning_still_finds_fields_that_rows_lack(prompt: str) -> None:
    _, title = node_specs(parse_job(flow({"copy": TEXT, "title": {**TEXT, "prompt": prompt}}))).values()
    with pytest.raises(SpecError, match="nme"):
        plan_here(title)


def test_a_template_that_only_the_placeholder_fails_is_let_through() -> None:
    nodes = {"copy": TEXT, "title": {**TEXT, "prompt": "{{ copy.split(':')[1] }}"}}
    _, title = node_specs(parse_job(flow(nodes))).values()
    assert plan_here(title).items == 1


def test_a_field_of_the_rows_may_not_be_called_like_a_node(tmp_path: Path) -> None:
    nodes = {"name": {**TEXT, "prompt": "x"}, "title": {**TEXT, "prompt": "{{ name }}"}}
    _, title = node_specs(parse_job(flow(nodes))).values()
    with pytest.raises(SpecError, match="'name' is a node of the flow, and also a field of the rows"):
        plan_here(title)
    rows = tmp_path / "rows.csv"
    rows.write_text("name\nx\n")
    in_file = title.source.model_validate({"file": str(rows)})
    with pytest.raises(SpecError, match="'name' is a node of the flow"):
        plan_here(title.model_copy(update={"source": in_file}))


def test_pictures_of_a_flow_are_those_of_its_rows() -> None:
    nodes = {"picture": {**UPSCALE, "input": "photo"}, "larger": {**UPSCALE, "image": {"scale": 2}}}
    assert parse_job(flow(nodes)).input_fields == ("photo",)


def test_a_node_needs_what_its_rules_look_at() -> None:
    spec = parse_job(flow({"a": RULED, "b": TEXT}))
    assert in_order(spec) == {"b": (), "a": ("b",)}
    assert node_specs(spec)["a"].upstream == {"b": "<b>"}
