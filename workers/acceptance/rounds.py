"""A shard's items through the engine and, of a job with rules, the checks, beside each other.

The engine stays full: while an answer is checked, in a thread, the others are generated, and what has to be asked again
is a further call beside those that run. So the time of the checks is hidden, as long as the engine is slower than they.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from models.backend import Backend
from models.spec import TextRequest, TextResult
from workers.text_items import TextItems

BATCH = 64
"""Answers that are checked at once, at most: a classifier is faster by the batch, and nobody waits long for one."""


async def answer(items: TextItems, backend: Backend) -> None:
    """Ask for every item of a shard, until each has ended.

    Raises:
        ModelError: the engine broke, or a classifier that a rule needs cannot be loaded.
    """
    if items.on_trial:
        await Rounds(items, backend).run()
        return
    async with aclosing(backend.generate(items.requests)) as groups:
        async for group in groups:
            for result in group:
                items.settle(result)


class Rounds:
    """One shard's tries.

    Args:
        items: Of a job that has rules.
        backend: The engine.
    """

    def __init__(self, items: TextItems, backend: Backend) -> None:
        self._items = items
        self._backend = backend
        self._answers: asyncio.Queue[TextResult | None] = asyncio.Queue()
        self._running = 0
        """Calls of the engine that have not ended."""

    async def run(self) -> None:
        """Ask, check, and ask again, until every item has ended; raises as `answer` does."""
        try:
            async with asyncio.TaskGroup() as group:
                self._ask(group, self._items.requests)
                while self._running or not self._answers.empty():
                    await self._check(group, await self._next_answers())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors  # what broke first; the rest was called off for it

    def _ask(self, group: asyncio.TaskGroup, requests: Sequence[TextRequest]) -> None:
        if requests:
            self._running += 1
            group.create_task(self._generate(requests))

    async def _generate(self, requests: Sequence[TextRequest]) -> None:
        async with aclosing(self._backend.generate(requests)) as groups:
            async for results in groups:
                for result in results:
                    self._answers.put_nowait(result)
        self._running -= 1
        self._answers.put_nowait(None)  # whoever waits for an answer may wait for none

    async def _next_answers(self) -> list[TextResult]:
        answers = [await self._answers.get()]
        while len(answers) < BATCH and not self._answers.empty():
            answers.append(self._answers.get_nowait())
        return [answer for answer in answers if answer is not None]

    async def _check(self, group: asyncio.TaskGroup, results: Sequence[TextResult]) -> None:
        if not results:
            return
        verdicts = await asyncio.to_thread(self._items.look, results)
        again = [self._items.take(result, verdict) for result, verdict in zip(results, verdicts, strict=True)]
        self._ask(group, [request for request in again if request is not None])
