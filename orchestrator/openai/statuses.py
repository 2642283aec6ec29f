"""What a batch can be, in OpenAI's words, and what may become what. Pure: no SQL, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class BatchStatus(StrEnum):
    """Where a batch stands."""

    VALIDATING = "validating"
    """Accepted; its file is being read and checked."""
    FAILED = "failed"
    """Its file is not as it must be, or its job could not go on: `errors` says why."""
    IN_PROGRESS = "in_progress"
    """Its file is in order, and its job at work."""
    FINALIZING = "finalizing"
    """Its job has ended; its output files are being written."""
    COMPLETED = "completed"
    """Every request was tried."""
    EXPIRED = "expired"
    """Its window is over. What was finished is in its output files."""
    CANCELLING = "cancelling"
    """Cancelled; what runs has been told to stop."""
    CANCELLED = "cancelled"
    """Cancelled, and nothing runs any more. What was finished is in its output files."""


BATCH_TRANSITIONS: Mapping[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.VALIDATING: frozenset(
        {BatchStatus.IN_PROGRESS, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}
    ),
    # Of a job that could not be planned, or was removed, there is nothing to write.
    BatchStatus.IN_PROGRESS: frozenset({BatchStatus.FINALIZING, BatchStatus.CANCELLING, BatchStatus.FAILED}),
    # Its job can be retried meanwhile, and end in another way.
    BatchStatus.FINALIZING: frozenset(
        {BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.FAILED, BatchStatus.CANCELLED}
    ),
    BatchStatus.CANCELLING: frozenset({BatchStatus.CANCELLED, BatchStatus.FAILED}),
    BatchStatus.FAILED: frozenset(),
    BatchStatus.COMPLETED: frozenset(),
    BatchStatus.EXPIRED: frozenset(),
    BatchStatus.CANCELLED: frozenset(),
}
BATCH_OPEN = frozenset(status for status, following in BATCH_TRANSITIONS.items() if following)


class IllegalBatchTransitionError(Exception):
    """Code tried to make a change that the table above does not have: a bug, never bad luck."""


def check_batch(old: BatchStatus, new: BatchStatus) -> None:
    """Raise IllegalBatchTransitionError unless a batch may go from `old` to `new`."""
    if new not in BATCH_TRANSITIONS[old]:
        raise IllegalBatchTransitionError(f"a batch never goes from {old.value} to {new.value}")
