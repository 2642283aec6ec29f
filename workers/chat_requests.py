"""Requests in OpenAI's form: the body of `/v1/chat/completions` as a request to a text engine.

Every parameter is either followed, or refused by name: none is passed over. Those that say nothing to a model
(`user`, `metadata` and their like) are taken, and change nothing. A parameter that is null is one that is not given.
https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NoReturn, TypeAlias, cast

import msgspec
from pydantic import ValidationError

from models.spec import MAX_TOKENS_LIMIT, JsonSchema, Message, Role, Sampling
from workers.schemas import SchemaError, check_schema

MAX_MESSAGES = 2048
MAX_CHOICES = 64
MAX_STOPS = 16
MAX_NAME = 512
"""Characters of a model's name."""
_SEED_MASK = (1 << 63) - 1
Json: TypeAlias = Any  # any JSON
_ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos")
"""Ours under the same names; the last five are vLLM's additions to OpenAI's."""
_OWN = frozenset({"model", "messages", "n", "seed", "stop", "max_tokens", "max_completion_tokens", "response_format"})
_WITHOUT_EFFECT = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "safety_identifier", "user"}
)
"""They say nothing to a model."""
_ONLY: Mapping[str, tuple[Json, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "stream": (False,),
    "stream_options": (),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
"""Of parameters that no engine here follows, the values that ask for nothing."""
_KNOWN = sorted({*_SAMPLING, *_OWN, *_WITHOUT_EFFECT, *_ONLY})
JSON_OBJECT: JsonSchema = {"type": "object"}


class ChatError(Exception):
    """A body cannot be answered as it is."""

    def __init__(self, message: str, param: str | None, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A body, understood."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    n: int = 1
    seed: int | None = None
    schema: JsonSchema | None = None
    limited: bool
    """Whether the body bounds its outputs; else they may fill what is left of the context."""


def parse_chat(body: Json) -> ChatRequest:
    """The body of a chat completion.

    Raises:
        ChatError: it is not as it must be, or asks for what no engine here does.
    """
    if not isinstance(body, dict):
        _wrong("body", "must be an object", body)
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        _check_known(name, value)
    limit = _limit(given)
    settings = {name: given[name] for name in _SAMPLING if name in given}
    n = given.get("n", 1)
    if type(n) is not int or not 1 <= n <= MAX_CHOICES:
        _wrong("n", f"must be a whole number from 1 to {MAX_CHOICES}", n)
    return ChatRequest(
        model=checked_model(given.get("model")),
        messages=_messages(given.get("messages")),
        sampling=_sampling({**settings, "max_tokens": limit or MAX_TOKENS_LIMIT, "stop": _stops(given.get("stop"))}),
        n=n,
        seed=_seed(given.get("seed")),
        schema=_schema(given.get("response_format")),
        limited=limit is not None,
    )


def checked_model(model: Json) -> str:
    """The model that a body names.

    Raises:
        ChatError: it names none.
    """
    if model is None:
        _missing("model")
    if not isinstance(model, str) or not 1 <= len(model) <= MAX_NAME:
        _wrong("model", f"must be the name of a model, of at most {MAX_NAME} characters", model)
    return model


def _check_known(name: str, value: Json) -> None:
    if name in _ONLY:
        allowed = _ONLY[name]
        if not any(value is each or (value == each and type(value) is not bool) for each in allowed):
            instead = f"; it can be left out, or be {' or '.join(map(_shown, allowed))}" if allowed else ""
            message = f"{name}: {_shown(value)} is not supported here{instead}"
            raise ChatError(message, name, "unsupported_parameter")
    elif name not in _KNOWN:
        close = difflib.get_close_matches(name, _KNOWN, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ChatError(f"{_shown(name)} is no parameter{hint}", name[:MAX_NAME], "unknown_parameter")


def _limit(given: Mapping[str, Json]) -> int | None:
    limits = {name: given[name] for name in ("max_completion_tokens", "max_tokens") if name in given}
    for name, limit in limits.items():
        if type(limit) is not int or not 1 <= limit <= MAX_TOKENS_LIMIT:
            _wrong(name, f"must be a whole number from 1 to {MAX_TOKENS_LIMIT}", limit)
    if len(set(limits.values())) > 1:
        message = "max_tokens and max_completion_tokens say different things; give one of the two"
        raise ChatError(message, "max_tokens", "invalid_value")
    return next(iter(limits.values()), None)


def _sampling(settings: Mapping[str, Json]) -> Sampling:
    for name, value in settings.items():
        if name not in {"stop", "ignore_eos"} and (isinstance(value, bool) or not isinstance(value, int | float)):
            _wrong(name, "must be a number", value)
    try:
        return Sampling.model_validate(settings, strict=False)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        name = str(detail["loc"][0])
        raise ChatError(f"{name}: {detail['msg']}, not {_shown(detail['input'])}", name, "invalid_value") from error


def _stops(stop: Json) -> tuple[str, ...]:
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(one, str) and one for one in stops):
        _wrong("stop", f"must be a text, or a list of at most {MAX_STOPS} texts, none of them empty", stop)
    return tuple(stops)


def _seed(seed: Json) -> int | None:
    if seed is None:
        return None
    if type(seed) is not int or not -(1 << 63) <= seed < 1 << 63:
        _wrong("seed", "must be a whole number of 64 bits", seed)
    return seed & _SEED_MASK


def _schema(form: Json) -> JsonSchema | None:
    if form is None:
        return None
    kind = form.get("type") if isinstance(form, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        _wrong("response_format", 'must have the type "text", "json_object" or "json_schema"', form)
    _no_more(form, {"type", "json_schema"} if kind == "json_schema" else {"type"}, "response_format")
    if kind == "text":
        return None
    if kind == "json_object":
        return JSON_OBJECT
    inner = form.get("json_schema")
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        _wrong("response_format.json_schema", "must be an object with a name and a schema", inner)
    # What an engine's grammar enforces is always strict.
    _no_more(inner, {"name", "schema", "strict", "description"}, "response_format.json_schema")
    schema: Json = inner.get("schema")
    try:
        check_schema(schema)
    except SchemaError as error:
        param = "response_format.json_schema.schema"
        raise ChatError(f"{param}: {error}", param, "invalid_schema") from error
    return cast("JsonSchema", schema)


def _messages(messages: Json) -> tuple[Message, ...]:
    if messages is None:
        _missing("messages")
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        _wrong("messages", f"must be a list of 1 to {MAX_MESSAGES} messages", messages)
    return tuple([_message(message, f"messages[{place}]") for place, message in enumerate(messages)])


def _message(message: Json, place: str) -> Message:
    if not isinstance(message, dict):
        _wrong(place, "must be an object with role and content", message)
    role = _ROLES.get(message["role"]) if isinstance(message.get("role"), str) else None
    if role is None:
        if message.get("role") in ("tool", "function"):
            what = "is not supported here: tools are not"
            raise ChatError(f"{place}.role: {message['role']!r} {what}", f"{place}.role", "unsupported_parameter")
        _wrong(f"{place}.role", f"must be one of {', '.join(_ROLES)}", message.get("role"))
    _no_more(message, {"role", "content"}, place)
    return Message(role, _content(message.get("content"), f"{place}.content"))


def _content(content: Json, place: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        _wrong(place, "must be a text, or a list of parts of the type text", content)
    texts = []
    for number, part in enumerate(content):
        where = f"{place}[{number}]"
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            _wrong(where, "must be an object with type and text", part)
        if part["type"] != "text":
            message = f"{where}: a part of the type {part['type']!r} is not supported here; give texts"
            raise ChatError(message, where, "unsupported_parameter")
        if not isinstance(part.get("text"), str):
            _wrong(f"{where}.text", "must be a text", part.get("text"))
        _no_more(part, {"type", "text"}, where)
        texts.append(part["text"])
    return "".join(texts)


def _no_more(given: Mapping[str, Json], known: set[str], place: str) -> None:
    for name, value in given.items():
        if name not in known and value is not None:
            param = f"{place}.{name}"
            raise ChatError(f"{param} is not supported here; leave it out", param, "unsupported_parameter")


def _missing(param: str) -> NoReturn:
    raise ChatError(f"{param} is missing", param, "missing_parameter")


def _wrong(param: str, right: str, value: Json) -> NoReturn:
    raise ChatError(f"{param} {right}, and is {_shown(value)}", param, "invalid_value")


def _shown(value: Json) -> str:
    if value is None:
        return "not there"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
