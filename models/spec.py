"""What a model is asked and what it answers: frozen types, shared by every back-end and by the layers above.

Types that exist once an item are `msgspec` structs (a tenth of a microsecond each); `Sampling`, which exists once a
job and is written by people, is a pydantic model so that its errors name the field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import BaseModel, ConfigDict, Field

JsonSchema: TypeAlias = dict[str, Any]  # a JSON Schema is a JSON object of any shape
Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]
Reproducible = Literal["exact", "seeded"]
MAX_TOKENS_LIMIT = 32_768


class Sampling(BaseModel):
    """How the next token is chosen. Names and meanings are those of vLLM's `SamplingParams`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    """Only the k likeliest tokens; 0 means all."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.0
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS_LIMIT)] = 256
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS_LIMIT)] = 0
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    ignore_eos: bool = False
    """Go on past the model's own end until `max_tokens`: fixed output lengths, for benchmarks."""


class EchoOptions(BaseModel):
    """Faults and delays that the `echo` model can be told to make. For tests and benchmarks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    delay_ms: Annotated[float, Field(ge=0, le=3_600_000)] = 0.0
    """How long an item takes; items of a call run side by side."""
    fail_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of items that fail, chosen by the item's seed."""
    fail_on: tuple[int, ...] = ()
    crash_on: tuple[int, ...] = ()
    """Indexes at which the process that holds the engine ends, as a crashed engine does."""
    hang_on: tuple[int, ...] = ()


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message of a chat."""

    role: Role
    content: str


class Adapter(msgspec.Struct, frozen=True, gc=False):
    """A LoRA adapter on this machine: what it changes is the model that is asked."""

    folder: str
    """With adapter_config.json and adapter_model.safetensors, as peft writes them."""
    revision: str
    """`sha256:` and 16 hexadecimal digits of its weights' digest; two of one revision are the same."""


class TextRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One item for a text model.

    `seed` is a 63-bit number made from the job's seed and the item's index alone; output k of `n` is sampled with
    `output_seed(seed, k)`.
    """

    index: int
    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int
    n: int = 1
    max_tokens: int | None = None
    """Bounds this item's outputs in place of `sampling.max_tokens`."""
    fill: bool = False
    """Where the prompt leaves less room in the context than that, less will do: outputs may fill what is left."""
    schema: JsonSchema | None = None
    options: EchoOptions | None = None
    adapter: Adapter | None = None
    """Answers with the model as this changes it. Requests with different ones, or none, may share a batch."""

    @property
    def token_limit(self) -> int:
        """Tokens that one of its outputs may have."""
        return self.sampling.max_tokens if self.max_tokens is None else self.max_tokens


class Output(msgspec.Struct, frozen=True, gc=False):
    """One generated text."""

    text: str
    finish_reason: FinishReason
    seed: int


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens read and written. Of a request with n outputs, the prompt counts once."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


class ItemError(msgspec.Struct, frozen=True, gc=False):
    """Why one item failed. `code` is for programs (`context_length_exceeded`), `message` for people."""

    code: str
    message: str
    param: str | UnsetType = UNSET
    """Of a request with parameters of its own: the one that is wrong."""


class TextResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to the request of the same `index`: either outputs, or an error."""

    index: int
    outputs: tuple[Output, ...] = ()
    usage: Usage = Usage()
    error: ItemError | None = None


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded model says of itself."""

    model: str
    revision: str
    """`sha256:` and the first 16 hexadecimal digits of the digest of its weights."""
    engine: str
    context_length: int
    """Tokens, prompt and output together."""
    reproducible: Reproducible
    """`exact` only where output does not depend on what else is in the batch, proved by a test."""
    shards_in_flight: int
    """How many shards the engine should be given at once so that it never drains."""
    load_seconds: float = 0.0
    child_pids: tuple[tuple[int, float], ...] = ()
    """(process id, start time in seconds since the epoch, as psutil gives it) of each process the engine started."""


def output_seed(seed: int, k: int) -> int:
    """Seed of output `k` of an item whose seed is `seed`; output 0 has the item's own."""
    return (seed + k * 0x9E3779B97F4A7C15) & 0x7FFF_FFFF_FFFF_FFFF
