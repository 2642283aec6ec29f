"""How far training jobs are: what their workers say of it, as it lies in SQL and as a job shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, select

from orchestrator.tables import Shard
from workers.contracts import ShardReport
from workers.training_progress import TrainingProgress


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """A report's progress, and when it was applied: by the orchestrator's clock, seconds since the epoch."""

    progress: TrainingProgress
    at: float

    @property
    def finish_at(self) -> float | None:
        """When the training is expected to end; None where nobody knows."""
        left = self.progress.seconds_left
        return None if left is None else self.at + left


_reported = msgspec.json.Decoder(Reported)


def training_values(report: ShardReport, now: float) -> dict[str, Any]:
    """The column of a shard that a report of a training changes; of another report, none."""
    if report.training is None:
        return {}
    return {"training": msgspec.json.encode(Reported(progress=report.training, at=now)).decode()}


def read_training(connection: Connection, job_ids: Sequence[str]) -> dict[str, Reported]:
    """How far those of the jobs are that train a model and have said so."""
    if not job_ids:
        return {}
    return {row.job_id: _reported.decode(row.training) for row in connection.execute(trainings(job_ids))}


def trainings(job_ids: Sequence[str]) -> Select[str, str | None]:
    """The one shard of each of these jobs, where it has said how far it is."""
    return select(Shard.job_id, Shard.training).where(
        Shard.job_id.in_(job_ids), Shard.number == 0, Shard.training.is_not(None)
    )
