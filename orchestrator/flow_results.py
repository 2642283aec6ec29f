"""The records of a flow: for each item, those of all its nodes as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import orjson
from sqlalchemy import select

from orchestrator import database
from orchestrator.flows import FLOW, nodes_of
from orchestrator.jobs import Jobs
from orchestrator.tables import Job

SEVERITY = ("ok", "failed", "expired", "cancelled")
"""A flow's item is as the worst of its nodes' records."""


class _Outline(msgspec.Struct):
    """As much of a node's record as its flow's record repeats."""

    index: int
    status: str
    custom_id: str | None = None
    input: dict[str, Any] | None = None  # any JSON


_outlines = msgspec.json.Decoder(_Outline)


def node_jobs(jobs: Jobs, job_id: str) -> dict[str, str]:
    """The jobs of a flow's nodes by name, each behind all that it needs; none of another job."""
    with database.reading(jobs.engine) as connection:
        kind = connection.execute(select(Job.kind).where(Job.id == job_id)).scalar()
        return {node.name: node.job for node in nodes_of(connection, job_id)} if kind == FLOW else {}


def joined(pages: Mapping[str, list[bytes]]) -> list[bytes]:
    """Records of the same items, by node, as the records of a flow: as many as every node has."""
    return [_join(dict(zip(pages, lines, strict=True))) for lines in zip(*pages.values(), strict=False)]


def _join(lines: Mapping[str, bytes]) -> bytes:
    outlines = {name: _outlines.decode(line) for name, line in lines.items()}
    first = next(iter(outlines.values()))
    if {outline.index for outline in outlines.values()} != {first.index}:
        raise AssertionError(f"records of different items were to be joined: {sorted(outlines.items())}")
    record: dict[str, object] = {"index": first.index}
    if first.custom_id is not None:
        record["custom_id"] = first.custom_id
    record["status"] = max((outline.status for outline in outlines.values()), key=SEVERITY.index)
    if first.input is not None:
        record["input"] = first.input
    record["nodes"] = {name: orjson.Fragment(line) for name, line in lines.items()}
    return orjson.dumps(record)


def lines_of(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The records in the chunks of a file, one by one."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
