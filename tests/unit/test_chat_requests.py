"""Bodies of chat completions: what is followed, what is taken without effect, and what is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import completion_create_params

from models.spec import MAX_TOKENS_LIMIT, Message
from workers.chat_requests import JSON_OBJECT, ChatError, ChatRequest, parse_chat

TALK = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def parsed(**parameters: Any) -> ChatRequest:
    return parse_chat({"model": "m", "messages": TALK, **parameters})


def refused(**parameters: Any) -> tuple[str | None, str]:
    with pytest.raises(ChatError) as caught:
        parsed(**parameters)
    return caught.value.param, caught.value.code


def test_a_body_becomes_a_request() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three", "refusal": None},
    ]
    asked = parsed(
        messages=messages,
        temperature=0,
        top_p=0.5,
        max_completion_tokens=7,
        n=2,
        seed=-1,
        stop="END",
        top_k=5,
        min_p=0.1,
        repetition_penalty=1.1,
        min_tokens=2,
        ignore_eos=True,
    )
    assert asked.messages == (
        Message("system", "be brief"),
        Message("user", "one two"),
        Message("assistant", "three"),
    )
    sampling = asked.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.stop) == (0, 0.5, 7, ("END",))
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (5, 0.1, 1.1)
    assert (sampling.min_tokens, sampling.ignore_eos) == (2, True)
    assert (asked.n, asked.seed, asked.limited, asked.schema) == (2, (1 << 63) - 1, True, None)


def test_a_body_without_a_limit_may_fill_the_context() -> None:
    asked = parsed()
    assert (asked.limited, asked.sampling.max_tokens, asked.seed, asked.n) == (False, MAX_TOKENS_LIMIT, None, 1)
    assert asked.sampling.temperature == 1


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, JSON_OBJECT),
        ({"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}, SCHEMA),
    ],
)
def test_a_response_format_becomes_a_schema(form: Any, schema: Any) -> None:
    assert parsed(response_format=form).schema == schema


def test_what_says_nothing_to_a_model_changes_nothing() -> None:
    names = ("metadata", "prompt_cache_key", "safety_identifier", "user")
    asks_nothing: dict[str, Any] = {
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "logit_bias": {},
        "logprobs": False,
        "modalities": ["text"],
        "service_tier": "default",
        "store": False,
        "stream": False,
        "tool_choice": "none",
        "tools": [],
        "audio": None,
        "prediction": None,
    }
    assert parsed(**dict.fromkeys(names, "x"), **asks_nothing) == parsed()


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("audio", {"voice": "alloy"}),
        ("frequency_penalty", 0.5),
        ("function_call", "auto"),
        ("functions", [{"name": "f"}]),
        ("logit_bias", {"50256": -100}),
        ("logprobs", True),
        ("modalities", ["text", "audio"]),
        ("moderation", {"model": "m"}),
        ("parallel_tool_calls", False),
        ("prediction", {"type": "content", "content": "x"}),
        ("presence_penalty", False),
        ("reasoning_effort", "high"),
        ("service_tier", "flex"),
        ("store", True),
        ("stream", True),
        ("stream_options", {}),
        ("tool_choice", "auto"),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("top_logprobs", 3),
        ("verbosity", "low"),
        ("web_search_options", {}),
    ],
)
def test_what_no_engine_follows_is_refused_by_its_name(parameter: str, value: Any) -> None:
    assert refused(**{parameter: value}) == (parameter, "unsupported_parameter")


def test_every_parameter_that_the_client_can_send_is_known() -> None:
    for name in completion_create_params.CompletionCreateParamsNonStreaming.__annotations__:
        with pytest.raises(ChatError) as caught:
            parse_chat({"model": "m", name: object()})
        assert caught.value.code != "unknown_parameter", name


@pytest.mark.parametrize(
    ("parameters", "param", "code"),
    [
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"model": None}, "model", "missing_parameter"),
        ({"model": 7}, "model", "invalid_value"),
        ({"messages": None}, "messages", "missing_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": ["hello"]}, "messages[0]", "invalid_value"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "unsupported_parameter"),
        ({"messages": [{"role": "user", "content": "x", "name": "Al"}]}, "messages[0].name", "unsupported_parameter"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
            "unsupported_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]},
            "messages[0].content[0].text",
            "invalid_value",
        ),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_value"),
        ({"temperature": "1"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_k": 1.5}, "top_k", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
        ({"seed": 1 << 63}, "seed", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": ["x"] * 17}, "stop", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format", "invalid_value"),
        ({"response_format": {"type": ["text"]}}, "response_format", "invalid_value"),
        ({"response_format": {"type": "text", "x": 1}}, "response_format.x", "unsupported_parameter"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            "response_format.json_schema.schema",
            "invalid_schema",
        ),
    ],
)
def test_what_is_wrong_is_told_by_its_place(parameters: dict[str, Any], param: str, code: str) -> None:
    assert refused(**parameters) == (param, code)


@pytest.mark.parametrize("body", [None, [], "x"])
def test_a_body_is_an_object(body: Any) -> None:
    with pytest.raises(ChatError, match="must be an object") as caught:
        parse_chat(body)
    assert caught.value.param == "body"
