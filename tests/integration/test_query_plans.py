"""Hot queries find their rows by an index, on both databases, however many rows there are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Select, event, insert, select, text

from orchestrator import (
    claims,
    collector,
    dispatch,
    endings,
    file_sweep,
    finalize,
    flows,
    forecasts,
    manifest,
    passes,
    reaper,
    removals,
    results,
    speeds,
    sums,
)
from orchestrator.jobs import Jobs
from orchestrator.lifecycle import JobStatus
from orchestrator.openai import batches, files
from orchestrator.tables import Execution, Job, Shard
from tests.support.clocks import ManualClock
from tests.support.shards import execution_id, planned_job

JOB = "01J0000000000000000000000A"
JOBS = 300
SHARDS = 60


@pytest.fixture
def full(engine: Engine) -> Engine:
    """A database with some jobs of every kind, and enough finished shards that a scan would be a mistake."""
    jobs, shards, executions = [], [], []
    for number in range(JOBS):
        job = JOB if number == 0 else f"01J{number:023d}"
        live = number < 3
        jobs.append(
            {
                **dict.fromkeys(("tenant", "name", "kind", "model", "engine", "spec_digest"), "x"),
                "id": job,
                "spec": "{}",
                "priority": 1,
                "idempotency_key": f"key-{number}",
                "status": "in_progress" if live else "completed",
                "generation": 1,
                "planner_beat": 0,
                "work": "{}",
                "items": SHARDS,
                "shard_count": SHARDS,
                "created_at": float(number),
                "planned_at": 1.0,
                "manifest_version": 1,
                "totals": None if live else "{}",
            }
        )
        for shard in range(SHARDS):
            state = "queued" if live and shard >= 50 else "dispatched" if live and shard >= 45 else "done"
            shards.append(
                {
                    **claims.shard_values(job, claims.NewShard(shard, shard * 10, 10, "{}")),
                    "status": state,
                    "part_key": "k" if state == "done" else None,
                    "part_ok": 10 if state == "done" else None,
                    "part_failed": 0 if state == "done" else None,
                }
            )
            executions.append(
                {"id": execution_id(), "job_id": job, "shard": shard, "token": 1, "worker": "w", "granted_at": 0.0}
            )
    with engine.begin() as connection:
        connection.execute(insert(Job), jobs)
        connection.execute(insert(Shard), shards)
        connection.execute(insert(Execution), executions)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    return engine


def plan(connection: Connection, statement: Select[Any]) -> str:
    """What the database would do, as text."""
    compiled = statement.compile(connection.engine, compile_kwargs={"literal_binds": True})
    if connection.dialect.name == "sqlite":
        return "\n".join(row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {compiled}")))
    [found] = connection.execute(text(f"EXPLAIN (FORMAT JSON) {compiled}")).one()
    return json.dumps(found if isinstance(found, list) else json.loads(found), indent=1)


def scans(connection: Connection, statement: Select[Any], table: str) -> bool:
    """Whether the whole table would be read."""
    found = plan(connection, statement)
    if connection.dialect.name == "sqlite":
        return any(line.strip().startswith(f"SCAN {table}") for line in found.split("\n"))
    nodes = [json.loads(found)[0]["Plan"]]
    while nodes:
        node = nodes.pop()
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] == table:
            return True
        nodes += node.get("Plans", [])
    return False


HOT = {
    "jobs with queued shards": dispatch.with_queued(1.0),
    "outstanding shards by model": dispatch.outstanding(),
    "the next queued shards": dispatch.queued(JOB, 1.0, 10),
    "jobs with queued shards of models that are not full": dispatch.with_queued(1.0, ["y", "z"]),
    "shards that are too large": dispatch.oversize(JOB, 1.0, 10, 16),
    "shards that were charged": dispatch.charged_shards(JOB, [3, 7]),
    "shards that run too long": speeds.running_long(JOB),
    "what is open of jobs": forecasts.open_items([JOB, "01J00000000000000000000001"]),
    "jobs in progress": forecasts.in_progress(),
    "outstanding shards": reaper.outstanding_shards(),
    "jobs without open shards": finalize.without_open_shards(),
    "jobs on their way to an end": finalize.ending_jobs(),
    "jobs that passes follow": finalize.followed(),
    "parts that a pass reads": passes.done_parts(JOB),
    "parts that hold some items": dispatch.parts_between(JOB, 55, 70),
    "shards of a job in item order": manifest.shards_after(JOB, 10),
    "the first open item": results.first_open_item(JOB),
    "shards from an item on": results.shards_from(JOB, 55, 600),
    "totals of a job": sums.sums([JOB]),
    "what the rules of a job came to": sums.checks_of(JOB),
    "one shard": endings.one_shard(JOB, 7),
    "what the shards of an ended job name": collector.shard_parts(collector.Ended(JOB, 1, planned=True), [3, 4]),
    "the shards that hold files of an ended job": file_sweep.shards_holding(JOB, 1, 55, 70),
}


def test_no_hot_query_reads_a_whole_table(full: Engine) -> None:
    with full.connect() as connection:
        bad = {name: plan(connection, query) for name, query in HOT.items() if scans(connection, query, "shards")}
        assert bad == {}
        if connection.dialect.name == "sqlite":  # PostgreSQL rightly reads all of so few jobs
            assert not scans(connection, dispatch.with_queued(1.0), "jobs")
            assert not scans(connection, forecasts.in_progress(), "jobs")
        assert not scans(connection, dispatch.executions_of(JOB, [3]), "executions")
        of_jobs = (
            collector.unswept(0.0),
            removals.jobs_ended_before(0.0),
            removals.naming("inputs/x/"),
            flows.node_rows(JOB),
        )
        if connection.dialect.name == "sqlite":
            for query in (batches.open_batches(), batches.listed("x", after="batch_5")):
                assert not scans(connection, query, "batches")
            for query in (files.gone(1.0), files.listed("x", after="file-5")):
                assert not scans(connection, query, "files")
        for query in of_jobs:
            assert not scans(connection, query, "jobs")
        # Without this, a `scans` that never finds anything would go unnoticed.
        assert scans(connection, select(Shard.number).where(Shard.worker == "nobody"), "shards")
        assert scans(connection, select(Execution.id).where(Execution.worker == "nobody"), "executions")
        assert scans(connection, select(Job.id).where(Job.name == "nobody"), "jobs")


def test_a_look_at_jobs_takes_a_fixed_number_of_queries(engine: Engine, clock: ManualClock) -> None:
    ids = [planned_job(engine, clock) for _ in range(5)]
    seen: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    jobs = Jobs(engine)
    jobs.get(ids[0])
    one = sum(statement.startswith("SELECT") for statement in seen)
    seen.clear()
    assert len(jobs.list(status=JobStatus.IN_PROGRESS)) == 5
    many = sum(statement.startswith("SELECT") for statement in seen)
    assert (one, many) == (2, 2)
