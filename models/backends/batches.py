"""Which waiting sequences make the next batch, for an engine whose batches end as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from models.backends.engine import Generation

BATCH_ROWS = 32
BATCH_TOKENS = 32_768
"""Tokens of a plain batch, read and to be written, padding too: what bounds its memory. One sequence may have more."""
LOOK_AHEAD = 128
"""Waiting sequences from which a plain batch is chosen."""


def choose_batch(waiting: Sequence[Generation]) -> list[Generation]:
    """The sequence that has waited longest, and those nearest to it in length: they end about together."""
    oldest = _length(waiting[0])
    nearest = sorted(waiting[:LOOK_AHEAD], key=lambda generation: abs(_length(generation) - oldest))
    batch: list[Generation] = []
    read = written = 0
    for generation in nearest[:BATCH_ROWS]:
        read = max(read, len(generation.token_ids))
        written = max(written, generation.request.token_limit)
        if batch and (len(batch) + 1) * (read + written) > BATCH_TOKENS:
            break
        batch.append(generation)
    return batch


def _length(generation: Generation) -> int:
    return len(generation.token_ids) + generation.request.token_limit
