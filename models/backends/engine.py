"""What a text back-end asks of an engine, wherever that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from models.backends.chat import Tokenizer
from models.errors import ModelError
from models.spec import FinishReason, ItemError, TextRequest, output_seed


@dataclass(frozen=True, slots=True)
class Generation:
    """One sequence for an engine to generate: output `k` of a request."""

    id: str
    token_ids: list[int]
    request: TextRequest
    k: int

    @property
    def seed(self) -> int | None:
        """Seed of this output's sampler; None where nothing is sampled."""
        return output_seed(self.request.seed, self.k) if self.request.sampling.temperature > 0 else None


@dataclass(frozen=True, slots=True)
class Finished:
    """One sequence that an engine has finished, or an item that it could not start."""

    id: str
    text: str = ""
    tokens: int = 0
    finish_reason: FinishReason = "stop"
    error: ItemError | None = None
    index: int | None = None
    """Of an item that was refused before it became a sequence."""


Deliveries: TypeAlias = "asyncio.Queue[list[Finished] | ModelError]"


class Engine(Protocol):
    """A loaded engine. Its methods are called from the event loop's thread alone."""

    tokenizer: Tokenizer
    context_length: int
    """Tokens, prompt and output together."""

    async def submit(self, generations: Sequence[Generation], deliveries: Deliveries) -> None:
        """Begin to generate; what is finished, or the engine's death, is put into `deliveries`."""
        ...

    def abort(self, ids: Sequence[str]) -> None:
        """Forget sequences that are not finished."""
        ...

    def children(self) -> tuple[tuple[int, float], ...]:
        """(process id, start time) of each process that the engine started."""
        ...

    def quiet_seconds(self) -> float:
        """For how long it has had sequences and made no step with them; 0 where it has none."""
        ...

    async def close(self) -> None:
        """End the engine. May be called more than once."""
        ...
