"""From messages to token ids, the same for every text engine: chat template, token count, length check."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import jinja2
from msgspec import structs

from models.errors import FailureKind, ModelError
from models.spec import ItemError, TextRequest
from models.weights import first_line


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    chat_template: str | None

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, add_generation_prompt: bool, tokenize: Literal[False]
    ) -> str:
        """A conversation as the model was trained to read it."""
        ...

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Mapping[str, list[list[int]]]:
        """Texts as token ids, under the key `input_ids`."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Tokens as text."""
        ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request as an engine reads it."""

    request: TextRequest
    token_ids: list[int]


class ChatFormat:
    """A model's chat template and tokenizer."""

    def __init__(self, tokenizer: Tokenizer, context_length: int, model: str) -> None:
        """`context_length` counts tokens, prompt and output together.

        Raises:
            ModelError: kind MODEL, the tokenizer has no chat template.
        """
        if tokenizer.chat_template is None:
            raise ModelError(
                FailureKind.MODEL,
                "no_chat_template",
                f"the model {model!r} has no chat template: Nightmill asks chat (instruct) models only",
            )
        self.tokenizer = tokenizer
        self.context_length = context_length
        self._encoding = threading.Lock()

    def encode(self, requests: Sequence[TextRequest]) -> tuple[list[Prompt], list[tuple[TextRequest, ItemError]]]:
        """Requests as token ids, and those that cannot be answered, each with its reason.

        Takes about 0.2 ms a request; may be called from any thread.
        """
        rendered: list[tuple[TextRequest, str]] = []
        refused: list[tuple[TextRequest, ItemError]] = []
        for request in requests:
            messages = [{"role": message.role, "content": message.content} for message in request.messages]
            try:
                text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            except jinja2.TemplateError as error:
                refused.append((request, ItemError("chat_template_error", f"the model's chat template says: {error}")))
            else:
                rendered.append((request, text))
        if not rendered:
            return [], refused
        texts = [text for _, text in rendered]
        with self._encoding:  # a tokenizer that is borrowed by one thread refuses another
            encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        prompts: list[Prompt] = []
        for (asked, _), token_ids in zip(rendered, encoded, strict=True):
            request = _filling(asked, len(token_ids), self.context_length) if asked.fill else asked
            too_long = length_error(len(token_ids), request.token_limit, self.context_length)
            if too_long is None:
                prompts.append(Prompt(request, token_ids))
            else:
                refused.append((request, too_long))
        return prompts, refused

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated tokens, without the model's control tokens."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text


def _filling(request: TextRequest, prompt_tokens: int, context_length: int) -> TextRequest:
    """A request whose outputs have what its prompt leaves of the context, and at least one token."""
    room = max(1, context_length - prompt_tokens)
    return structs.replace(request, max_tokens=min(request.token_limit, room))


def length_error(prompt_tokens: int, max_tokens: int, context_length: int) -> ItemError | None:
    """Why a prompt does not fit, or None where it does."""
    if prompt_tokens + max_tokens <= context_length:
        return None
    return ItemError(
        "context_length_exceeded",
        f"the prompt has {prompt_tokens} tokens and max_tokens is {max_tokens}: {prompt_tokens + max_tokens} together, "
        f"but the model's context holds {context_length}",
    )


def load_error(name: str, error: Exception) -> ModelError:
    """What a person needs to know of an engine's failure to load a model."""
    if isinstance(error, ModelError):
        return error
    if isinstance(error, MemoryError):
        return ModelError(FailureKind.ENGINE, "out_of_memory", f"there is not enough memory to load {name!r}: {error}")
    return ModelError(
        FailureKind.MODEL,
        "model_load_failed",
        f"the model {name!r} could not be loaded: {type(error).__name__}: {first_line(error)}",
    )
