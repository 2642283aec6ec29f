"""What Prometheus is told: jobs and shards by status, items and tokens. Counted in SQL when it asks.

Every process of a deployment would give the same figures, so they are gauges that any one API process can answer.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.orm import InstrumentedAttribute

from orchestrator import database
from orchestrator.lifecycle import JobStatus, ShardStatus
from orchestrator.tables import Job, Shard


class JobCollector(Collector):
    """Counts when it is scraped."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures of this moment."""
        with database.reading(self._engine) as connection:
            jobs = _by_status(connection, Job.status)
            shards = _by_status(connection, Shard.status)
            ok, failed, prompt, completion = connection.execute(
                select(
                    func.coalesce(func.sum(Shard.ok), 0),
                    func.coalesce(func.sum(Shard.failed), 0),
                    func.coalesce(func.sum(Shard.prompt_tokens), 0),
                    func.coalesce(func.sum(Shard.completion_tokens), 0),
                )
            ).one()
        by_status = ["status"]
        yield _family("nightmill_jobs", "Jobs by status.", by_status, {(s.value,): jobs.get(s, 0) for s in JobStatus})
        yield _family(
            "nightmill_shards", "Shards by status.", by_status, {(s.value,): shards.get(s, 0) for s in ShardStatus}
        )
        yield _family("nightmill_items", "Items with a record.", by_status, {("ok",): ok, ("failed",): failed})
        yield _family(
            "nightmill_tokens",
            "Tokens of items with a record.",
            ["kind"],
            {("prompt",): prompt, ("completion",): completion},
        )


def _by_status(connection: Connection, status: InstrumentedAttribute[str]) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(select(status, func.count()).group_by(status))}


def _family(name: str, text: str, labels: list[str], values: dict[tuple[str, ...], int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for label, value in values.items():
        family.add_metric(label, float(value))
    return family


def exposition(engine: Engine) -> bytes:
    """All figures in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(JobCollector(engine))
    return generate_latest(registry)
