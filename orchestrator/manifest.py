"""`manifest.json`: the versioned list of a job's winning parts, and of the items that were never run.

Its content follows from the job's version alone: it is written when no shard is open any more, and only a retry, which
makes the next version, opens one again. So two writers of one version do each other no harm. One that was held up until
a later version was written would, and not every store can refuse it. Hence each looks, once it has written, whether the
job has ended anew meanwhile, and if so writes again. Whoever ends a later version after that look reads what it writes
after it, too, and so writes last. For a writer that dies before its look, the collector looks later (`mend_manifest`).
Only while a retry is at work may the manifest be of any earlier version.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import orjson
from sqlalchemy import Connection, Engine, Row, Select, select

from orchestrator import database
from orchestrator.lifecycle import JOB_LIVE, SHARD_OPEN, JobStatus, ShardStatus
from orchestrator.sums import sum_nodes, sum_shards
from orchestrator.tables import Job, Shard
from orchestrator.totals import Totals
from orchestrator.views import JobView, view_job
from workers.store import MissingObjectError, ObjectStore

MANIFEST_SCHEMA = 1
PAGE = 1000
MEMORY_BYTES = 8 << 20
_HEAD = re.compile(rb'\{"manifest":\d+,"version":(\d+),')
_HEAD_BYTES = 64


def manifest_key(job_id: str) -> str:
    """Where a job's manifest lies in the store."""
    return f"jobs/{job_id}/manifest.json"


def write_manifest(engine: Engine, store: ObjectStore, job_id: str) -> Totals:
    """Write the manifest of a job whose shards have all ended, in constant memory; the totals that it states.

    Where the job goes on meanwhile these are out of date, and nothing may be frozen by them.
    """
    while True:
        with database.reading(engine) as connection:
            row = connection.execute(select(*Job.__table__.columns).where(Job.id == job_id)).first()
            flow = row is not None and row.kind == "flow"
            totals = sum_nodes(connection, job_id) if flow else sum_shards(connection, [job_id]).get(job_id, Totals())
            nodes = {} if not flow else {node.node: node.id for node in connection.execute(nodes_of_flow(job_id))}
        if row is None or not SHARD_OPEN.isdisjoint(totals.shards):
            return totals  # it was removed, or is another's to write once its shards have ended
        with tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES) as file:
            _write(file, engine, row, view_job(row, totals), nodes)
            file.seek(0)
            if ended_version(engine, job_id) != row.manifest_version:
                return totals
            store.put_stream(manifest_key(job_id), file, content_type="application/json")
        if ended_version(engine, job_id) in {row.manifest_version, None}:
            return totals


def nodes_of_flow(flow_id: str) -> Select[str | None, str]:
    """The nodes of a flow, each behind all that it needs."""
    return select(Job.node, Job.id).where(Job.flow == flow_id).order_by(Job.id)


def mend_manifest(engine: Engine, store: ObjectStore, job_id: str) -> bool:
    """Write the manifest of an ended job again where the one that is there is of another version; whether it was so."""
    version = ended_version(engine, job_id)
    if version is None or written_version(store, job_id) == version:
        return False
    write_manifest(engine, store, job_id)
    return True


def written_version(store: ObjectStore, job_id: str) -> int | None:
    """The version of the manifest in the store; None where there is none."""
    try:
        head = _HEAD.match(store.get(manifest_key(job_id), length=_HEAD_BYTES))
    except MissingObjectError:
        return None
    return None if head is None else int(head[1])


def ended_version(engine: Engine, job_id: str) -> int | None:
    """The manifest version of a job that has ended or is about to; None where a retry is at work, or it is gone."""
    statement = select(Job.status, Job.manifest_version).where(Job.id == job_id)
    with database.reading(engine) as connection:
        row = connection.execute(statement).first()
    return None if row is None or JobStatus(row.status) in JOB_LIVE else int(row.manifest_version)


def shard_page(connection: Connection, job_id: str, after: int) -> list[Row]:  # type: ignore[type-arg]
    """The next rows of a job's shards in item order, all columns, those that begin after item `after`."""
    return list(connection.execute(shards_after(job_id, after)).all())


def shards_after(job_id: str, after: int) -> Select[Any]:
    """All columns of the shards that begin after item `after`, a page of them."""
    return (
        select(*Shard.__table__.columns)
        .where(Shard.job_id == job_id, Shard.first > after)
        .order_by(Shard.first)
        .limit(PAGE)
    )


def _write(file: IO[bytes], engine: Engine, row: Row, view: JobView, nodes: dict[str | None, str]) -> None:  # type: ignore[type-arg]
    head = {
        "manifest": MANIFEST_SCHEMA,
        "version": row.manifest_version,
        "job": row.id,
        "name": row.name,
        "kind": row.kind,
        "model": row.model,
        "spec": row.spec_digest,
        "outcome": row.outcome or "completed",
        "error": None if row.error is None else orjson.loads(row.error),
        "items": view.items,
        "counts": view.to_json()["counts"],
        "usage": view.to_json()["usage"],
        "created_at": row.created_at,
        **({"nodes": nodes} if nodes else {}),
    }
    # The list is written entry by entry: it may have more of them than fit in memory at once.
    file.write(orjson.dumps(head)[:-1] + b',"shards":[\n')
    for number, entry in enumerate(_entries(engine, row.id)):
        file.write((b",\n" if number else b"") + orjson.dumps(entry))
    file.write(b"\n]}\n")


def _entries(engine: Engine, job_id: str) -> Iterator[dict[str, Any]]:  # JSON
    after = -1
    while True:
        with database.reading(engine) as connection:
            rows = shard_page(connection, job_id, after)
        if not rows:
            return
        for row in rows:
            shard = row._mapping
            entry = {"shard": shard["number"], "first": shard["first"], "count": shard["count"]}
            if shard["part_key"] is not None:
                entry |= {
                    "status": shard["status"],
                    "key": shard["part_key"],
                    "bytes": shard["part_bytes"],
                    "sha256": shard["part_sha256"],
                    "ok": shard["part_ok"],
                    "failed": shard["part_failed"],
                }
            else:
                entry |= {"status": shard["status"]}
            if shard["status"] != ShardStatus.DONE.value and shard["error_code"] is not None:
                entry |= {"error": {"code": shard["error_code"], "message": shard["error_message"]}}
            yield entry
        after = rows[-1].first
