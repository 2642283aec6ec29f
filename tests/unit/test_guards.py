"""Nothing but the guards writes a status, and they refuse what the tables forbid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import orchestrator
from orchestrator import guards
from orchestrator.lifecycle import IllegalTransitionError, JobStatus, ShardStatus


class NoConnection:
    """Any use of it is an error: a forbidden change must not reach the database."""


def test_a_forbidden_change_never_reaches_the_database() -> None:
    nowhere = NoConnection()
    with pytest.raises(IllegalTransitionError):
        guards.move_job(nowhere, "j", {JobStatus.COMPLETED}, JobStatus.CANCELLING)  # type: ignore[arg-type]
    with pytest.raises(IllegalTransitionError):
        guards.move_shards(nowhere, "j", {ShardStatus.QUEUED}, ShardStatus.RUNNING)  # type: ignore[arg-type]
    with pytest.raises(IllegalTransitionError):
        guards.close_shards(nowhere, "j", {ShardStatus.DONE}, ShardStatus.CANCELLED)  # type: ignore[arg-type]


def test_one_forbidden_state_among_allowed_ones_is_refused() -> None:
    with pytest.raises(IllegalTransitionError, match="from done to cancelled"):
        guards.move_shards(
            NoConnection(),  # type: ignore[arg-type]
            "j",
            {ShardStatus.QUEUED, ShardStatus.DONE},
            ShardStatus.CANCELLED,
        )


WRITES_STATUS = re.compile(r"update\((Job|Shard)\)[^;]{0,400}?\.values\([^)]*\bstatus\s*=")


def test_no_other_module_updates_a_status() -> None:
    package = Path(orchestrator.__file__).parent
    writers = [path.name for path in sorted(package.rglob("*.py")) if WRITES_STATUS.search(path.read_text())]
    assert writers == ["guards.py"]
