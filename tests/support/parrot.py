"""A model that answers as the echo model does, and does something about what it is told is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import orjson

from models.backends.echo import EchoBackend
from models.spec import Output, TextRequest, TextResult, Usage
from workers.acceptance.judging import SCORE_SCHEMA
from workers.records import item_seed

SEED = 7
"""Of the jobs that it answers."""


class Parrot(EchoBackend):
    """Says what it was told, and mends what it is told is wrong: drops the numbers, and adds the words that lack.

    As a judge it gives a text as many points as it has words, 5 at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[TextRequest] = []

    async def generate(self, requests: Sequence[TextRequest]) -> AsyncIterator[Sequence[TextResult]]:
        self.asked += requests
        for request in requests:
            await asyncio.sleep(0)
            yield [TextResult(index=request.index, outputs=(self._say(request),), usage=Usage(3, 5))]

    def _say(self, request: TextRequest) -> Output:
        text = request.messages[-1].content
        if request.schema == SCORE_SCHEMA:
            text = orjson.dumps({"score": min(5, len(text.split()))}).decode()
        elif len(request.messages) > 1 and request.messages[-2].role == "assistant":
            told = text
            text = " ".join(word for word in request.messages[-2].content.split() if not word.isdigit())
            text += " please" if "lacks 'please'" in told else ""
        elif request.seed == item_seed(SEED, request.index, 1, 3):
            text = f"{text} please"  # the second draw is luckier
        return Output(text, "stop", request.seed)
