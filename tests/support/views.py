"""Jobs as the service shows them, made by hand."""

from __future__ import annotations

from typing import Any

from models.spec import Usage
from orchestrator.lifecycle import JOB_TERMINAL, JobStatus
from orchestrator.totals import ItemCounts, JobTimings
from orchestrator.views import JobView


def job_view(status: JobStatus = JobStatus.IN_PROGRESS, *, ok: int = 0, failed: int = 0, **fields: Any) -> JobView:
    """A job of 100 items."""
    ended = status in JOB_TERMINAL
    given: dict[str, Any] = {
        "id": "01KB0000000000000000000000",
        "name": "night",
        "kind": "text",
        "model": "smollm2-135m",
        "engine": "auto",
        "status": status,
        "priority": "normal",
        "created_at": 1_700_000_000.0,
        "planned_at": None if status is JobStatus.VALIDATING else 1_700_000_001.0,
        "started_at": 1_700_000_002.0,
        "finished_at": 1_700_000_062.0 if ended else None,
        "deadline_at": None,
        "items": 100,
        "shard_count": 4,
        "shards": {"done": 1, "running": 3},
        "phase": None,
        "counts": ItemCounts(ok=ok, failed=failed),
        "usage": Usage(10 * ok, 5 * ok),
        "timings": JobTimings(queued=2.0, load=20.0, generate=90.0, wall=62.0 if ended else None),
        "losses": 0,
        "trouble": None,
        "failures": 0,
        "error": None,
        "metadata": {},
        "manifest_version": 1,
        "generation": 2,
    }
    return JobView(**{**given, **fields})
