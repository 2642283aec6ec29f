"""The `echo` model: answers with its prompt. No engine, and yet it is asked, mixed, aborted and broken like one.

Its options make the faults that tests and benchmarks need; without any it costs about a microsecond an item.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence

from models.spec import EchoOptions, ItemError, ModelInfo, Output, TextRequest, TextResult, Usage, output_seed

GROUP = 512
"""Items yielded at once; between groups the event loop has a turn."""
CONTEXT_LENGTH = 1 << 20
SHARDS_IN_FLIGHT = 4
REVISION = "echo-1"
_NO_FAULTS = EchoOptions()
_FULL_TURN = 1 << 53  # distinct values of a double between 0 and 1


class EchoBackend:
    """Answers every request with the content of its last user message, counted and cut in whitespace words."""

    def __init__(self, options: EchoOptions | None = None) -> None:
        """`options` hold for requests that bring none of their own."""
        self._options = options or _NO_FAULTS
        self._hangs_since: float | None = None
        self._generating = 0

    async def load(self) -> ModelInfo:
        """Nothing is loaded."""
        return ModelInfo(
            model="echo",
            revision=REVISION,
            engine="echo",
            context_length=CONTEXT_LENGTH,
            reproducible="exact",
            shards_in_flight=SHARDS_IN_FLIGHT,
        )

    async def generate(self, requests: Sequence[TextRequest]) -> AsyncIterator[Sequence[TextResult]]:
        """Answer in groups, in order. Items that are told to take time take it side by side."""
        self._generating += 1
        try:
            async for results in self._answer_all(requests):
                if self._hangs_since is not None:
                    await asyncio.Event().wait()  # an engine that hangs answers nobody
                yield results
        finally:
            self._generating -= 1

    async def _answer_all(self, requests: Sequence[TextRequest]) -> AsyncIterator[Sequence[TextResult]]:
        for start in range(0, len(requests), GROUP):
            group = requests[start : start + GROUP]
            faulty = [request for request in group if (request.options or self._options) is not _NO_FAULTS]
            if not faulty:
                await asyncio.sleep(0)
                yield [answer(request) for request in group]
                continue
            async for results in self._with_faults(group):
                yield results

    async def _with_faults(self, group: Sequence[TextRequest]) -> AsyncIterator[Sequence[TextResult]]:
        by_delay: dict[float, list[TextRequest]] = {}
        for request in group:
            options = request.options or self._options
            if request.index in options.crash_on:
                os.kill(os.getpid(), signal.SIGKILL)
            if request.index in options.hang_on:
                self._hangs_since = time.monotonic()
            else:
                by_delay.setdefault(options.delay_ms, []).append(request)
        waited = 0.0
        for delay in sorted(by_delay):
            await asyncio.sleep((delay - waited) / 1000)
            waited = delay
            yield [self._answer_or_fail(request) for request in by_delay[delay]]
        if self._hangs_since is not None:
            await asyncio.Event().wait()

    def quiet_seconds(self) -> float:
        """For how long an item has let it hang, while there is work."""
        if self._hangs_since is None or not self._generating:
            return 0.0
        return time.monotonic() - self._hangs_since

    def _answer_or_fail(self, request: TextRequest) -> TextResult:
        error = told_to_fail(request.index, request.seed, request.options or self._options)
        return answer(request) if error is None else TextResult(index=request.index, error=error)

    async def close(self) -> None:
        """Nothing was started."""


def answer(request: TextRequest) -> TextResult:
    """The answer to a request without its faults: the same every time, whatever is asked beside it."""
    prompt_tokens = 0
    text = ""
    for message in request.messages:
        prompt_tokens += len(message.content.split())
        if message.role == "user":
            text = message.content
    limit = request.token_limit
    words = text.split()
    completion_tokens = len(words)
    finish_reason: str = "stop"
    if completion_tokens > limit:
        text = " ".join(words[:limit])
        completion_tokens = limit
        finish_reason = "length"
    if request.n == 1:
        outputs: tuple[Output, ...] = (Output(text, finish_reason, request.seed),)  # type: ignore[arg-type]
    else:
        outputs = tuple(
            Output(text, finish_reason, output_seed(request.seed, k))  # type: ignore[arg-type]
            for k in range(request.n)
        )
    return TextResult(index=request.index, outputs=outputs, usage=Usage(prompt_tokens, completion_tokens * request.n))


def told_to_fail(index: int, seed: int, options: EchoOptions) -> ItemError | None:
    """The error of an item that is to fail by its options; None of one that is not."""
    if index in options.fail_on or share(seed) < options.fail_rate:
        return ItemError("echo_failure", f"echo was told to fail item {index}")
    return None


def share(seed: int) -> float:
    """A number from 0 to 1 that a seed determines: spreads neighbouring seeds evenly (splitmix64's finaliser)."""
    mixed = (seed + 0x9E3779B97F4A7C15) & 0xFFFF_FFFF_FFFF_FFFF
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFF_FFFF_FFFF_FFFF
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFF_FFFF_FFFF_FFFF
    return ((mixed ^ (mixed >> 31)) >> 11) / _FULL_TURN
