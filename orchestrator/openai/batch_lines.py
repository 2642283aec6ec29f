"""The lines of a batch's output and error files, made of its job's records.

A line's ids follow from the batch and the number of its request: whoever writes a file again writes the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec
import orjson

from models.spec import ItemError, Output, Usage
from orchestrator.openai.batch_checks import file_lines
from workers.records import Status
from workers.store import ObjectStore

NOT_RUN = {
    "cancelled": ("batch_cancelled", "This request was not run, because the batch was cancelled."),
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
}
BAD_REQUEST, SERVER_ERROR = 400, 500
_AT_ONCE = 1 << 18
_CLIENTS_FAULT = frozenset(
    {
        "chat_template_error",
        "context_length_exceeded",
        "invalid_request",
        "invalid_schema",
        "invalid_value",
        "missing_parameter",
        "prompt_denied",
        "unknown_parameter",
        "unsupported_parameter",
    }
)
"""Codes of items that would fail again however often they are asked."""
_PARAMS = {"chat_template_error": "messages", "context_length_exceeded": "messages", "prompt_denied": "messages"}
"""What is wrong with a request, where an engine found it."""


class _Record(msgspec.Struct, frozen=True):
    """As much of a record as a line is made of."""

    index: int
    status: Status
    custom_id: str | None = None
    output: str | None = None
    outputs: tuple[Output, ...] = ()
    finish_reason: str = "stop"
    error: ItemError | None = None
    usage: Usage = Usage()
    model: str = ""
    model_revision: str | None = None
    created: int = 0


_records = msgspec.json.Decoder(_Record)


def answered(batch_id: str, records: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of the output file: of the requests that were answered."""
    for line in records:
        record = _records.decode(line)
        if record.status == "ok":
            yield _line(batch_id, record.index, record.custom_id, response=_completion(batch_id, record))


def unanswered(batch_id: str, records: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of the error file: of all other requests."""
    for line in records:
        if b'"status":"ok"' in line and _records.decode(line).status == "ok":
            continue
        record = _records.decode(line)
        if record.status == "ok":
            continue
        if record.status in NOT_RUN:
            yield not_run(batch_id, record.index, record.custom_id, record.status)
        else:
            yield _line(batch_id, record.index, record.custom_id, response=_refusal(record))


def never_run(batch_id: str, store: ObjectStore, key: str, status: str) -> Iterator[bytes]:
    """The lines of the error file of a batch whose job was cancelled or expired before it was planned."""
    for index, line in enumerate(file_lines(store, key)):
        custom_id = orjson.loads(line.data).get("custom_id")
        yield not_run(batch_id, index, custom_id, status)


def not_run(batch_id: str, index: int, custom_id: str | None, status: str) -> bytes:
    """The line of a request that was cancelled or expired."""
    code, message = NOT_RUN[status]
    return _line(batch_id, index, custom_id, error={"code": code, "message": message})


def gathered(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Lines as larger pieces of a file."""
    piece = bytearray()
    for line in lines:
        piece += line
        piece += b"\n"
        if len(piece) >= _AT_ONCE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _line(
    batch_id: str,
    index: int,
    custom_id: str | None,
    *,
    response: tuple[int, Any] | None = None,  # a status, and a body of any JSON
    error: dict[str, str] | None = None,
) -> bytes:
    answer = None
    if response is not None:
        status, body = response
        answer = {"status_code": status, "request_id": _id("req_", batch_id, index), "body": body}
    line = {"id": _id("batch_req_", batch_id, index), "custom_id": custom_id, "response": answer, "error": error}
    return orjson.dumps(line)


def _completion(batch_id: str, record: _Record) -> tuple[int, Any]:  # JSON
    texts = [(output.text, output.finish_reason) for output in record.outputs]
    if not texts:
        texts = [(record.output or "", record.finish_reason)]  # type: ignore[list-item] # checked where it was written
    usage = record.usage
    return 200, {
        "id": _id("chatcmpl-", batch_id, record.index),
        "object": "chat.completion",
        "created": record.created,
        "model": record.model,
        "choices": [
            {
                "index": number,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
            for number, (text, reason) in enumerate(texts)
        ],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
        "system_fingerprint": record.model_revision,
    }


def _refusal(record: _Record) -> tuple[int, Any]:  # JSON
    error = record.error or ItemError("failed", "the request failed")
    clients = error.code in _CLIENTS_FAULT
    param = error.param if isinstance(error.param, str) else _PARAMS.get(error.code)
    body = {
        "message": error.message,
        "type": "invalid_request_error" if clients else "server_error",
        "param": param,
        "code": error.code,
    }
    return BAD_REQUEST if clients else SERVER_ERROR, {"error": body}


def _id(kind: str, batch_id: str, index: int) -> str:
    digest = hashlib.blake2b(f"{kind}{batch_id}/{index}".encode(), digest_size=16)
    return kind + digest.hexdigest()
