"""`/v1/files`: uploads that go into the store as they arrive, lists, contents with ranges, deletion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Annotated, Any, Literal, Protocol

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from orchestrator.api.errors import answer
from orchestrator.api.inputs import BodyReader
from orchestrator.api.services import ServicesOf
from orchestrator.openai.files import UPLOADED, Files, FileView, content_key
from orchestrator.openai.ranges import ByteSpan, UnsatisfiableRangeError, asked_range
from orchestrator.openai.uploads import CONTENT_TYPE, keep
from workers.store import CHUNK, ObjectStore

router = APIRouter(prefix="/v1/files", tags=["files"])
MAX_LIMIT = 10_000
UNSATISFIABLE = 416
_FILE_SCHEMA, FILE_SCHEMAS = msgspec.json.schema_components([FileView], ref_template="#/components/schemas/{name}")
_ONE_FILE: dict[int | str, dict[str, Any]] = {  # OpenAPI
    200: {"description": "The file", "content": {"application/json": {"schema": _FILE_SCHEMA[0]}}},
}
_CONTENT: dict[int | str, dict[str, Any]] = {  # OpenAPI
    200: {"description": "The file's bytes", "content": {CONTENT_TYPE: {}}},
    206: {"description": "The bytes that were asked for", "content": {CONTENT_TYPE: {}}},
}
_FORM: dict[str, Any] = {  # OpenAPI
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": [UPLOADED]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 1},
                    },
                }
            }
        },
    }
}


class Listed(Protocol):
    """What a list of OpenAI's form holds."""

    @property
    def id(self) -> str:
        """By which the next page is asked for."""
        ...


@router.post("", operation_id="create_file", responses=_ONE_FILE, openapi_extra=_FORM)
async def create_file(request: Request, services: ServicesOf) -> Response:
    """Keep a file of requests. It goes into the store as it arrives, and is checked when a batch names it."""
    body = BodyReader(request.stream())
    kind = request.headers.get("Content-Type", "")
    return file_answer(await run_in_threadpool(keep, body, kind, services))


@router.get("", operation_id="list_files")
def list_files(
    services: ServicesOf,
    purpose: str | None = None,
    after: Annotated[str | None, Query(description="Begin after the file of this id.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="At most so many.")] = MAX_LIMIT,
    order: Annotated[Literal["asc", "desc"], Query(description="By the time that they were made.")] = "desc",
) -> Response:
    """Files, the newest first."""
    found, more = Files(services.engine).list(purpose=purpose, after=after, limit=limit, ascending=order == "asc")
    return list_answer(found, more=more)


@router.get("/{file_id}", operation_id="get_file", responses=_ONE_FILE)
def get_file(file_id: str, services: ServicesOf) -> Response:
    """A file: all but its bytes."""
    return file_answer(Files(services.engine).get(file_id))


@router.delete("/{file_id}", operation_id="delete_file")
def delete_file(file_id: str, services: ServicesOf) -> dict[str, str | bool]:
    """Take a file away. A batch that reads it goes on to its end."""
    Files(services.engine).delete(file_id)
    return {"id": file_id, "object": "file", "deleted": True}


@router.get("/{file_id}/content", operation_id="download_file", responses=_CONTENT)
def download_file(
    file_id: str,
    services: ServicesOf,
    asked: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Response:
    """The bytes of a file: all, or one range of them."""
    file = Files(services.engine).get(file_id)
    etag = f'"{file.id}"'  # its bytes never change
    headers = {"Accept-Ranges": "bytes", "ETag": etag, "X-Content-Type-Options": "nosniff"}
    try:
        span = asked_range(asked if if_range in {None, etag} else None, file.bytes)
    except UnsatisfiableRangeError:
        refused = answer(UNSATISFIABLE, f"the file has {file.bytes} bytes, and {asked} is none of them", param="Range")
        refused.headers["Content-Range"] = f"bytes */{file.bytes}"
        return refused
    whole = span is None
    span = span or ByteSpan(0, file.bytes)
    if not whole:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{file.bytes}"
    headers["Content-Length"] = str(span.end - span.start)
    chunks = _chunks(services.store, content_key(file_id), span)
    first = next(chunks, b"")  # what cannot be read can still be answered with its status
    return StreamingResponse(chain([first], chunks), 200 if whole else 206, headers=headers, media_type=CONTENT_TYPE)


def file_answer(file: FileView) -> Response:
    """A file as a response."""
    return Response(msgspec.json.encode(file), media_type="application/json")


def list_answer(found: Sequence[Listed], *, more: bool) -> Response:
    """A page of a list in OpenAI's form."""
    page = {
        "object": "list",
        "data": found,
        "first_id": found[0].id if found else None,
        "last_id": found[-1].id if found else None,
        "has_more": more,
    }
    return Response(msgspec.json.encode(page), media_type="application/json")


def _chunks(store: ObjectStore, key: str, span: ByteSpan) -> Iterator[bytes]:
    """Part of an object, piece by piece."""
    for start in range(span.start, span.end, CHUNK):
        yield store.get(key, offset=start, length=min(CHUNK, span.end - start))
