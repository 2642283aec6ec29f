"""What one version of Nightmill writes and another reads."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from models.errors import FailureKind
from models.spec import Usage
from workers import contracts
from workers.contracts import (
    WIRE_VERSION,
    ContractError,
    CountRange,
    Counts,
    Directive,
    Failure,
    Part,
    ShardReport,
    ShardTask,
    SourceRange,
    Timings,
    UnknownVersionError,
    Work,
    decode,
    encode,
)

WORK = Work(model="echo", engine="auto", messages=(), sampling={}, seed=0)


class FirstShardTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What readers of version 1 know of a shard, and what writers of it wrote: every field, defaults too."""

    job: str
    shard: int
    token: int
    first: int
    count: int
    source: SourceRange
    work: Work
    earlier: tuple[str, ...] = ()
    carry_from: str | None = None
    version: int = 1


class NextShardReport(ShardReport, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A report as a version to come might write it."""

    watts: float = 0.0


def task(**fields: Any) -> ShardTask:
    return ShardTask(
        job="j", shard=0, token=1, first=0, count=4, source=CountRange(start=0, count=4), work=WORK, **fields
    )


def report(**fields: Any) -> ShardReport:
    return ShardReport(job="j", shard=0, token=1, execution="e", worker="host:1", sequence=1, event="started", **fields)


PART = Part(key="jobs/j/parts/x", bytes=3, sha256="00", counts=Counts(2, 1), usage=Usage(3, 4))
MESSAGES = [
    task(),
    task(earlier=("a",), carry_from="b"),
    report(),
    report(counts=Counts(1, 2), timings=Timings(load=1.5), phase="writing", part=PART),
    report(failure=Failure(FailureKind.ENGINE, "engine_died", "it broke")),
    Directive(command="stop", acknowledged=3, reason="cancelled"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: Any) -> None:
    assert decode(encode(message), type(message)) == message


def test_what_only_the_second_version_can_say_comes_back_as_well() -> None:
    said = task(skip=3, alone=True)
    assert decode(encode(said), ShardTask) == msgspec.structs.replace(said, version=2)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_says_nothing_new_is_of_the_first_version(message: Any) -> None:
    written = msgspec.json.decode(encode(message))
    assert written.get("version", 1) == 1
    assert not {"skip", "alone"} & set(written)


def test_a_reader_of_the_version_before_understands_what_says_nothing_new() -> None:
    read = msgspec.json.decode(encode(task(carry_from="b")), type=FirstShardTask)
    assert (read.shard, read.count, read.carry_from, read.version) == (0, 4, "b", 1)


@pytest.mark.parametrize("new", [{"skip": 3}, {"alone": True}])
def test_a_reader_of_the_version_before_is_told_what_it_cannot_read(new: dict[str, Any]) -> None:
    text = encode(task(**new))
    assert msgspec.json.decode(text)["version"] == 2
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(text, type=FirstShardTask)


def test_what_a_writer_of_the_version_before_wrote_is_read() -> None:
    known = {name: getattr(task(), name) for name in FirstShardTask.__struct_fields__}
    assert decode(msgspec.json.encode(FirstShardTask(**known)), ShardTask) == task()


def test_an_optional_field_of_a_version_to_come_is_no_trouble_until_it_is_used() -> None:
    fields = msgspec.structs.asdict(report())
    assert decode(msgspec.json.encode(NextShardReport(**fields)), ShardReport) == report()
    used = NextShardReport(**{**fields, "watts": 80.0})
    with pytest.raises(ContractError, match="watts"):
        decode(msgspec.json.encode(used), ShardReport)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_of_an_unknown_version_is_told_from_garbage(message: Any) -> None:
    written = {**msgspec.json.decode(encode(message)), "version": WIRE_VERSION + 1}
    for more in ({}, {"nobody": "knows"}):
        with pytest.raises(UnknownVersionError, match=f"wire version {WIRE_VERSION + 1}"):
            decode(msgspec.json.encode({**written, **more}), type(message))


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", "{}", '{"version": 1}', '{"version": 0}', '{"version": -3}', '{"version": "9"}', "9"]
)
def test_garbage_is_no_message_of_any_version(text: str) -> None:
    for kind in (ShardTask, ShardReport, Directive):
        with pytest.raises(ContractError) as refused:
            decode(text, kind)
        assert not isinstance(refused.value, UnknownVersionError)


def test_every_message_leaves_out_what_is_as_it_would_be_anyway() -> None:
    kinds = [kind for kind in vars(contracts).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    ours = [kind for kind in kinds if kind.__module__ == contracts.__name__ and not kind.__name__.startswith("_")]
    assert len(ours) >= 21
    assert all(kind.__struct_config__.omit_defaults and kind.__struct_config__.forbid_unknown_fields for kind in ours)


def test_a_batch_of_requests_is_of_the_ninth_version() -> None:
    said = msgspec.structs.replace(task(), work=msgspec.structs.replace(WORK, requests="chat"))
    assert msgspec.json.decode(encode(said))["version"] == 9
    assert decode(encode(said), ShardTask).work.requests == "chat"
