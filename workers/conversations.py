"""Questions to a text engine that lead to more questions: each is asked as soon as what it follows from is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import TypeAlias

from models.backend import Backend
from models.spec import TextRequest, TextResult

Settle: TypeAlias = Callable[[Sequence[TextResult]], list[TextRequest]]
"""Takes answers, and gives what is to be asked next. May take its time: it is called in a thread, once at a time."""


async def converse(backend: Backend, requests: Sequence[TextRequest], settle: Settle) -> None:
    """Ask everything, and what follows from the answers, until nothing follows.

    Calls of `generate` run side by side, so that the engine mixes what follows with what was asked first, and goes on
    while answers are settled. All answers that are there at one moment are followed up by one call.

    Raises:
        ModelError: the engine broke, or whatever settles answers has; every call is closed by then.
    """
    calls = _Calls(backend)
    calls.begin(requests)
    try:
        while calls.open:
            following: list[TextRequest] = []
            for group in await calls.arrived():
                following += await asyncio.to_thread(settle, group)
            calls.begin(following)
    finally:
        await calls.close()


class _Calls:
    """Calls of one engine's `generate` that run side by side."""

    def __init__(self, backend: Backend) -> None:
        self.open: set[asyncio.Task[None]] = set()
        self._backend = backend
        self._answers: asyncio.Queue[Sequence[TextResult] | asyncio.Task[None]] = asyncio.Queue()

    def begin(self, requests: Sequence[TextRequest]) -> None:
        """Ask this beside what is asked already."""
        if requests:
            call = asyncio.create_task(self._ask(requests))
            call.add_done_callback(self._answers.put_nowait)
            self.open.add(call)

    async def arrived(self) -> list[Sequence[TextResult]]:
        """Wait for something to happen; returns the answers that are there.

        A call's error is raised once what came before it has been returned: that stays valid.
        """
        groups: list[Sequence[TextResult]] = []
        while not groups or not self._answers.empty():
            found = await self._answers.get()
            if not isinstance(found, asyncio.Task):
                groups.append(found)
                continue
            if groups and not found.cancelled() and found.exception() is not None:
                self._answers.put_nowait(found)
                break
            self.open.discard(found)
            found.result()
            if not self.open:
                break
        return groups

    async def close(self) -> None:
        """End the calls that still run."""
        for call in self.open:
            call.cancel()
        await asyncio.gather(*self.open, return_exceptions=True)

    async def _ask(self, requests: Sequence[TextRequest]) -> None:
        async with aclosing(self._backend.generate(requests)) as groups:
            async for group in groups:
                self._answers.put_nowait(group)
