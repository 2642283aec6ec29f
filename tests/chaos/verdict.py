"""What is checked of every job at the end, and what is measured of its way there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson

from orchestrator.lifecycle import SHARD_OPEN, JobStatus
from tests.chaos.run import ExecutionRow, Run

NOTICED_SECONDS = 0.5
"""An engine that waits for less than this waits between two rounds of shards."""
CLOCK_SECONDS = 1.5
"""How late a part may be seen: S3 and its watcher are slow beside the database."""


@dataclass(frozen=True)
class Strike:
    """What a fault did."""

    at: float
    """When it struck, in seconds since the epoch."""
    over_at: float
    """When whatever it took away was there again, or could be replaced."""
    ends_executions: bool = False
    """Whether executions that ran at that time ended with it."""
    said: str = ""
    """More about it, for people."""
    moment: str = ""
    """When it was to strike, where a demand needs to know."""


@dataclass(frozen=True)
class Figures:
    """What a fault cost. Times are in seconds."""

    total_seconds: float
    """From the job's submission to its end."""
    recover_seconds: float
    """From when the fault was over to the end of the last stretch in which the engine waited for work; 0 if it never
    did."""
    again_seconds: float | None
    """From when the worker was there again to when the last shard that the fault had cut off ran again."""
    items_again: int
    """Items of executions that left nothing of them: at most so many were computed twice."""
    idle_seconds: float
    """While shards were open and none ran, in all."""


def problems(run: Run) -> list[str]:
    """Everything that is wrong with a job that has ended."""
    return [*_of_records(run), *_of_state(run), *_of_parts(run), *_of_processes(run)]


def _of_records(run: Run) -> Iterator[str]:
    with run.stand.client() as client:
        job = client.job(run.job)
        lines = b"".join(run.workload.records(client, run.job)).splitlines()
    if job.status is not JobStatus.COMPLETED:
        yield f"the job is {job.status.value}: {job.error}"
    records = [orjson.loads(line) for line in lines]
    times = Counter(record["index"] for record in records)
    if [record["index"] for record in records] != list(range(run.workload.items)):
        missing = [index for index in range(run.workload.items) if not times[index]]
        twice = [index for index, count in times.items() if count > 1]
        yield f"{len(records)} records of {run.workload.items}: missing {missing[:5]}, more than once {twice[:5]}"
    good = [record for record in records if record["status"] == "ok"]
    wrong = [record["index"] for record in good if not run.workload.is_right(record, run.answers)]
    if wrong:
        yield f"{len(wrong)} records have another item's answer, or none: {wrong[:5]}"
    failed = {record["index"]: record.get("error") for record in records if record["status"] != "ok"}
    if failed.keys() != run.workload.bad:
        unexpected = {index: failed[index] for index in sorted(failed.keys() - run.workload.bad)[:3]}
        yield f"{len(failed)} items failed, {len(run.workload.bad)} should have; not to fail were {unexpected}"
    if any(not error or not error.get("code") or not error.get("message") for error in failed.values()):
        yield "an item failed without a reason"
    statuses = Counter(record["status"] for record in records)
    counts = (job.counts.ok, job.counts.failed, job.counts.cancelled, job.counts.expired)
    if counts != (statuses["ok"], statuses["failed"], statuses["cancelled"], statuses["expired"]):
        yield f"the job counts {counts}, its records are {dict(statuses)}"


def _of_state(run: Run) -> Iterator[str]:
    for shard in run.shards():
        if shard.status in SHARD_OPEN:
            yield f"shard {shard.number} is still {shard.status}"
    for execution in run.executions():
        if execution.ended_at is None:
            yield f"execution {execution.id} of shard {execution.shard} has no end"


def _of_parts(run: Run) -> Iterator[str]:
    for key in run.parts.broken:
        yield f"{key} was visible before it was whole"
    granted = {execution.id: execution.granted_at for execution in run.executions()}
    first: dict[str, float] = {}
    for key in run.parts.whole():
        shard, _, execution = key.rpartition("/")[2].removesuffix(".jsonl").split("-")
        seen = run.parts.seen[key].at
        if not run.workload.judged and shard in first and granted.get(execution, 0.0) > first[shard] + CLOCK_SECONDS:
            late = granted[execution] - first[shard]
            yield f"{key} was computed by an execution granted {late:.1f} s after a whole part of its shard was there"
        first[shard] = min(seen, first.get(shard, seen))
    for shard_row in run.shards():
        if shard_row.part_key is not None and run.stand.store.head(shard_row.part_key) is None:
            yield f"shard {shard_row.number} names a part that is not there"


def _of_processes(run: Run) -> Iterator[str]:
    actors = run.stand.pids("ray:ModelActor")
    if len(actors) > (os.cpu_count() or 1):
        yield f"{len(actors)} actors run: {actors}"


def figures(run: Run, strike: Strike) -> Figures:
    """What the fault cost."""
    executions = run.executions()
    shards = run.shards()
    row = run.row()
    assert row.finished_at is not None
    began = row.planned_at or row.finished_at
    ended = max((shard.finished_at for shard in shards if shard.finished_at is not None), default=began)
    idle = _idle_stretches(executions, strike, began, ended)
    noticed = [end for start, end in idle if end - start > NOTICED_SECONDS and end > strike.over_at]
    return Figures(
        total_seconds=round(row.finished_at - run.submitted_at, 2),
        recover_seconds=round(max(noticed, default=strike.over_at) - strike.over_at, 2),
        again_seconds=_again(run, executions, strike),
        items_again=_items_again(run, executions),
        idle_seconds=round(sum(end - start for start, end in idle), 2),
    )


def _again(run: Run, executions: Sequence[ExecutionRow], strike: Strike) -> float | None:
    if not strike.ends_executions:
        return None
    there = max(strike.at, run.stand.restarted_at("worker") or 0.0)
    waits = []
    for cut in executions:
        if cut.granted_at < strike.at and cut.ending != "finished":
            later = [one.granted_at for one in executions if one.shard == cut.shard and one.granted_at > strike.at]
            waits += [min(later) - there] if later else []
    return round(max(waits), 2) if waits else None


def _items_again(run: Run, executions: Sequence[ExecutionRow]) -> int:
    items = {shard.number: shard.items for shard in run.shards()}
    last = {execution.shard: execution.id for execution in executions}
    again = 0
    for execution in executions:
        if execution.id == last[execution.shard]:
            continue
        kept = sum(part.records for key, part in run.parts.seen.items() if execution.id in key)
        again += max(0, items.get(execution.shard, 0) - kept)
    return again


def _idle_stretches(
    executions: Sequence[ExecutionRow], strike: Strike, began: float, ended: float
) -> list[tuple[float, float]]:
    """The times from `began` to `ended` in which no execution ran."""
    idle = []
    until = began
    for execution in executions:
        stops = execution.ended_at or ended
        if strike.ends_executions and execution.granted_at < strike.at and execution.ending != "finished":
            stops = min(stops, strike.at)
        if min(execution.granted_at, ended) > until:
            idle.append((until, min(execution.granted_at, ended)))
        until = max(until, stops)
    return [*idle, (until, ended)] if ended > until else idle
