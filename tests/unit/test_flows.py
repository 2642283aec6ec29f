"""What follows for a flow from how its nodes stand; and what one node hands to another."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from models.spec import ItemError
from orchestrator.flow_results import joined
from orchestrator.flows import Node, judge
from orchestrator.lifecycle import JobStatus as S
from orchestrator.views import JobError
from workers.contracts import CountRange, ShardTask, Work, decode, encode
from workers.store import open_store
from workers.upstream import MadeFile, read_upstream

NEEDS: dict[str, tuple[str, ...]] = {"copy": (), "picture": ("copy",), "larger": ("picture",), "title": ("copy",)}


def nodes(**states: Any) -> list[Node]:
    """Nodes of a flow by their status, or a whole description; those that are not named are planned and blocked."""
    made = []
    for name, needs in NEEDS.items():
        given = states.get(name, {})
        given = given if isinstance(given, dict) else {"status": given}
        fields = {"status": S.IN_PROGRESS, "outcome": None, "planned": True, "blocked": True, **given}
        if fields["status"] in {S.COMPLETED, S.FAILED, S.EXPIRED, S.CANCELLED}:
            fields |= {"blocked": False, "outcome": fields["status"]}
        made.append(Node(job=f"job-{name}", name=name, needs=needs, **fields))
    return made


def names(found: Any) -> list[str]:
    return [each.name for each in found]


def test_nothing_begins_before_every_node_is_planned() -> None:
    assert not judge(S.VALIDATING, nodes(title={"status": S.VALIDATING, "planned": False}))
    changes = judge(S.VALIDATING, nodes())
    assert changes.opens
    assert names(changes.unblocks) == ["copy"]


def test_a_node_that_cannot_start_ends_the_flow_before_it_began() -> None:
    error = JobError("invalid_source", "no column 'nme'", "prompt")
    bad = {"status": S.FAILED, "planned": False, "error": error}
    changes = judge(S.VALIDATING, nodes(title=bad, larger={"status": S.VALIDATING, "planned": False}))
    assert names(changes.cancels) == ["copy", "picture", "larger"]
    assert changes.outcome is S.FAILED
    assert changes.error == JobError("invalid_source", "node title: no column 'nme'", "nodes.title.prompt")
    assert not changes.opens


def test_a_node_begins_when_those_that_it_needs_have_completed() -> None:
    running = {"status": S.IN_PROGRESS, "blocked": False}
    assert not judge(S.IN_PROGRESS, nodes(copy=running))
    assert not judge(S.IN_PROGRESS, nodes(copy={"status": S.FINALIZING, "outcome": S.COMPLETED, "blocked": False}))
    changes = judge(S.IN_PROGRESS, nodes(copy=S.COMPLETED))
    assert names(changes.unblocks) == ["picture", "title"]
    assert changes.outcome is None


def test_what_needs_a_node_that_failed_fails_and_the_others_go_on() -> None:
    states = {"copy": S.COMPLETED, "picture": S.FAILED, "title": {"status": S.IN_PROGRESS, "blocked": False}}
    changes = judge(S.IN_PROGRESS, nodes(**states))
    assert [(node.name, need) for node, need in changes.fails] == [("larger", "picture")]
    assert changes.outcome is None
    over = nodes(copy=S.COMPLETED, picture=S.FAILED, larger=S.FAILED, title=S.COMPLETED)
    assert judge(S.IN_PROGRESS, over).outcome is S.FAILED


def test_the_error_of_a_flow_is_that_of_the_node_that_failed_first() -> None:
    own = {"status": S.FAILED, "error": JobError("model_not_found", "there is no such model")}
    after = {"status": S.FAILED, "error": JobError("upstream_failed", "the node picture did not complete")}
    error = judge(S.IN_PROGRESS, nodes(copy=S.COMPLETED, larger=after, picture=own, title=S.COMPLETED)).error
    assert error is not None
    assert (error.code, error.message) == ("model_not_found", "node picture: there is no such model")


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ((S.COMPLETED, S.COMPLETED, S.COMPLETED, S.COMPLETED), S.COMPLETED),
        ((S.COMPLETED, S.EXPIRED, S.EXPIRED, S.COMPLETED), S.EXPIRED),
        ((S.COMPLETED, S.FAILED, S.FAILED, S.EXPIRED), S.FAILED),
    ],
)
@pytest.mark.parametrize("status", [S.IN_PROGRESS, S.PAUSED])
def test_a_flow_ends_as_its_nodes_ended(status: S, ends: tuple[S, ...], outcome: S) -> None:
    assert judge(status, nodes(**dict(zip(NEEDS, ends, strict=True)))).outcome is outcome


def record(index: int, status: str = "ok", **fields: Any) -> bytes:
    return msgspec.json.encode({"index": index, "status": status, **fields})


def test_records_of_nodes_are_joined_by_item() -> None:
    copy = [record(0, output="a", custom_id="s", input={"tone": "warm"}), record(1, output="b"), record(2, output="c")]
    picture = [record(0, images=[]), record(1, "failed", error={"code": "x", "message": "y"})]
    first, second = map(msgspec.json.decode, joined({"copy": copy, "picture": picture}))
    assert (first["index"], first["custom_id"], first["status"], first["input"]) == (0, "s", "ok", {"tone": "warm"})
    assert first["nodes"]["copy"]["output"] == "a"
    assert (second["status"], second["nodes"]["picture"]["error"]["code"]) == ("failed", "x")
    with pytest.raises(AssertionError, match="different items"):
        joined({"copy": [record(0)], "picture": [record(1)]})


def test_a_task_with_upstream_is_of_the_version_that_knows_it() -> None:
    task = upstream_task({"copy": ("k",)})
    assert decode(encode(task), ShardTask).version == 6
    assert decode(encode(task), ShardTask).upstream == {"copy": ("k",)}


def upstream_task(keys: dict[str, tuple[str, ...]]) -> ShardTask:
    work = Work(model="echo", engine="auto", messages=(), sampling={}, seed=0, upstream=tuple(keys))
    source = CountRange(start=0, count=9)
    return ShardTask(job="j", shard=0, token=1, first=2, count=4, source=source, work=work, upstream=keys)


def test_what_earlier_nodes_made_is_found_by_item_across_their_parts(folder_url: str) -> None:
    store = open_store(folder_url)
    store.put("a", b"\n".join([record(0, output="0"), record(1, output="1"), record(2, output="2"), b""]))
    third = record(3, "failed", error={"code": "context_length_exceeded", "message": "too long"})
    store.put("b", b"\n".join([third, record(4, output={"title": "4"}), record(6, output="6"), b""]))
    lines = [record(index, images=[{"key": f"jobs/p/{index}.png", "width": 8}]) for index in range(7)]
    store.put("p", b"\n".join([*lines, b""]))
    several = [record(index, outputs=[{"text": "x", "seed": 1}, {"text": "y"}]) for index in range(7)]
    store.put("s", b"\n".join([*several, b""]))
    found = read_upstream({"copy": ("a", "b"), "picture": ("p",), "ideas": ("s",)}, 2, 4, store)
    assert list(found) == [2, 3, 4, 5]
    assert found[2] == {"copy": "2", "picture": MadeFile("jobs/p/2.png"), "ideas": ["x", "y"]}
    assert found[3] == ItemError("upstream_failed", "the node copy failed: too long")
    assert isinstance(found[4], dict)
    assert found[4]["copy"] == {"title": "4"}
    assert found[5] == ItemError("upstream_failed", "the node copy has no result of this item")
