"""What the shards whose items end as files have in common: how they store, read, and what they say of a failure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

THREADS = 4
"""Files of a shard that are read, encoded or stored at one moment."""
Answer = TypeVar("Answer")
Write = Callable[[str, bytes, str], Awaitable[None]]
"""Stores bytes under a key with a content type, and tries again while the store is away."""


class Ask(Protocol):
    """Asks something of the store in a thread, and tries again while that is away."""

    async def __call__(self, ask: Callable[[], Answer], what: str, /) -> Answer:
        """The answer; `what` is for the log."""
        ...


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """What happened, of a group of tasks of which all others were cancelled for the first one's sake."""
    inner = errors.exceptions[0]
    return first_error(inner) if isinstance(inner, BaseExceptionGroup) else inner
