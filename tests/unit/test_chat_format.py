"""From messages to tokens: what does not fit the context, and what makes itself fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import pytest

from models.backends.chat import ChatFormat
from models.spec import Message, Sampling, TextRequest

CONTEXT = 16


class Words:
    """A tokenizer whose tokens are words."""

    chat_template: str | None = "words"

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, add_generation_prompt: bool, tokenize: Literal[False]
    ) -> str:
        return " ".join(message["content"] for message in conversation)

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Mapping[str, list[list[int]]]:
        return {"input_ids": [list(range(len(one.split()))) for one in text]}

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return " ".join(map(str, token_ids))


def request(words: int, limit: int, *, fill: bool) -> TextRequest:
    text = " ".join(["word"] * words)
    sampling = Sampling(max_tokens=limit)
    return TextRequest(index=0, messages=(Message("user", text),), sampling=sampling, seed=1, fill=fill)


@pytest.mark.parametrize(("words", "limit", "room"), [(10, 100, 6), (10, 4, 4), (15, 100, 1)])
def test_a_request_may_fill_what_its_prompt_leaves(words: int, limit: int, room: int) -> None:
    prompts, refused = ChatFormat(Words(), CONTEXT, "words").encode([request(words, limit, fill=True)])
    assert refused == []
    assert prompts[0].request.token_limit == room


@pytest.mark.parametrize(("words", "limit", "fill"), [(10, 7, False), (16, 100, True), (40, 1, True)])
def test_what_leaves_no_room_is_refused(words: int, limit: int, fill: bool) -> None:
    prompts, [(_, error)] = ChatFormat(Words(), CONTEXT, "words").encode([request(words, limit, fill=fill)])
    assert (prompts, error.code) == ([], "context_length_exceeded")
