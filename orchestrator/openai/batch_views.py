"""How a batch looks from outside: field for field as OpenAI's API has it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from models.spec import Usage
from orchestrator.openai.statuses import BatchStatus
from orchestrator.totals import ItemCounts


class BatchError(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a batch's file."""

    code: str
    line: int | None = None
    """From 1."""
    message: str
    param: str | None = None


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    object: Literal["list"] = "list"
    data: tuple[BatchError, ...]


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of a batch. One that was not run, as it was cancelled or expired, is only in the total."""

    total: int
    completed: int
    failed: int


class InputDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Of the tokens that were read."""

    cached_tokens: int = 0


class OutputDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Of the tokens that were written."""

    reasoning_tokens: int = 0


class BatchUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of all requests of a batch."""

    input_tokens: int
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class BatchView(msgspec.Struct, frozen=True, kw_only=True):
    """A batch at one moment. Times are whole seconds since the epoch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None
    job_id: str | None
    """Nightmill's own: the job underneath."""


class Live(msgspec.Struct, frozen=True):
    """What the job of a batch that has not ended has come to."""

    counts: ItemCounts = ItemCounts()
    usage: Usage = Usage()


_errors = msgspec.json.Decoder(tuple[BatchError, ...])
_labels = msgspec.json.Decoder(dict[str, str])


def view_batch(row: Any, live: Live | None) -> BatchView:  # noqa: ANN401 - a row of `batches`, all columns
    """The view of a row; `live` is of one that has not ended."""
    status = BatchStatus(row.status)
    ended = _whole(row.ended_at)
    counts = RequestCounts(total=row.total, completed=row.completed, failed=row.failed)
    usage = Usage(row.prompt_tokens, row.completion_tokens)
    if live is not None:
        counts = RequestCounts(total=row.total, completed=live.counts.ok, failed=live.counts.failed)
        usage = live.usage
    return BatchView(
        id=row.id,
        endpoint=row.endpoint,
        model=row.model,
        errors=None if row.errors is None else BatchErrors(data=_errors.decode(row.errors)),
        input_file_id=row.input_file,
        completion_window=row.completion_window,
        status=status,
        output_file_id=row.output_file,
        error_file_id=row.error_file,
        created_at=int(row.created_at),
        in_progress_at=_whole(row.in_progress_at),
        expires_at=int(row.expires_at),
        finalizing_at=_whole(row.finalizing_at),
        completed_at=ended if status is BatchStatus.COMPLETED else None,
        failed_at=ended if status is BatchStatus.FAILED else None,
        expired_at=ended if status is BatchStatus.EXPIRED else None,
        cancelling_at=_whole(row.cancelling_at),
        cancelled_at=ended if status is BatchStatus.CANCELLED else None,
        request_counts=counts,
        usage=BatchUsage(
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
        ),
        metadata=None if row.labels is None else _labels.decode(row.labels),
        job_id=row.job_id,
    )


def _whole(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
