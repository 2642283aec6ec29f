"""`/v1/batches`: created, shown, listed, cancelled."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import orjson
from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from orchestrator.api.errors import NOT_FOUND, RequestError
from orchestrator.api.jobs import hint, whole_body
from orchestrator.api.services import Services, ServicesOf
from orchestrator.deadlines import parse_span
from orchestrator.openai.admission import ENDPOINTS, Admission
from orchestrator.openai.batch_views import BatchView
from orchestrator.openai.batches import Batches, batch_row
from orchestrator.openai.expiry import expires_after
from orchestrator.openai.file_routes import list_answer
from orchestrator.openai.files import UPLOADED, Files, UnknownFileError
from orchestrator.spec_error import SpecError
from orchestrator.validation import explain

router = APIRouter(prefix="/v1/batches", tags=["batches"])
MAX_LIMIT = 100
_BATCH_SCHEMA, BATCH_SCHEMAS = msgspec.json.schema_components([BatchView], ref_template="#/components/schemas/{name}")
_ONE_BATCH: dict[int | str, dict[str, Any]] = {  # OpenAPI
    200: {"description": "The batch", "content": {"application/json": {"schema": _BATCH_SCHEMA[0]}}},
}


class BatchRequest(BaseModel):
    """What a batch is created with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_file_id: Annotated[str, Field(min_length=1, max_length=200)]
    endpoint: str
    completion_window: str
    """A span of time such as 24h, 90m or 3d."""
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    output_expires_after: JsonValue = None


BATCH_SCHEMAS |= {"BatchRequest": BatchRequest.model_json_schema(ref_template="#/components/schemas/{model}")}
_BODY: dict[str, Any] = {  # OpenAPI
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/BatchRequest"}}},
    }
}


@router.post("", operation_id="create_batch", responses=_ONE_BATCH, openapi_extra=_BODY)
def create_batch(
    body: Annotated[bytes, Depends(whole_body)],
    services: ServicesOf,
    validate: Annotated[
        Literal["sync"] | None, Query(description="Answer once the file has been checked, with what is wrong with it.")
    ] = None,
) -> Response:
    """Run every request of a file."""
    asked = _parsed(body)
    if asked.endpoint not in ENDPOINTS:
        message = f"endpoint: {asked.endpoint!r} is not supported; batches run {', '.join(ENDPOINTS)}"
        raise RequestError(message, param="endpoint", code="unsupported_endpoint")
    window = parse_span(asked.completion_window)
    if window is None:
        message = f"completion_window: {asked.completion_window!r} is no span of time; write one such as 24h, 90m or 3d"
        raise RequestError(message, param="completion_window", code="invalid_value")
    kept = asked.output_expires_after
    seconds = None if kept is None else expires_after(kept, "output_expires_after")
    _check_file(asked.input_file_id, services)
    services.hints.ping()  # a batch that nothing can run is refused, and leaves nothing behind
    batches = Batches(services.engine)
    batch = batches.create(
        input_file=asked.input_file_id,
        endpoint=asked.endpoint,
        window=asked.completion_window,
        window_seconds=window.total_seconds(),
        labels=asked.metadata,
        output_expires_seconds=seconds,
    )
    if validate == "sync":
        Admission(services.engine, services.store, services.settings).admit(batch_row(services.engine, batch.id))
        batch = batches.get(batch.id)
    hint(services.hints.wake)
    return batch_answer(batch)


@router.get("", operation_id="list_batches")
def list_batches(
    services: ServicesOf,
    after: Annotated[str | None, Query(description="Begin after the batch of this id.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="At most so many.")] = 20,
) -> Response:
    """Batches, the newest first."""
    found, more = Batches(services.engine).list(after=after, limit=limit)
    return list_answer(found, more=more)


@router.get("/{batch_id}", operation_id="get_batch", responses=_ONE_BATCH)
def get_batch(batch_id: str, services: ServicesOf) -> Response:
    """A batch as it is now."""
    return batch_answer(Batches(services.engine).get(batch_id))


@router.post("/{batch_id}/cancel", operation_id="cancel_batch", responses=_ONE_BATCH)
def cancel_batch(batch_id: str, services: ServicesOf) -> Response:
    """Stop a batch. What is finished goes into its output files."""
    batch = Batches(services.engine).cancel(batch_id)
    job = batch.job_id
    if job is not None:
        hint(lambda: services.hints.stop_job(job, "the batch was cancelled"), services.hints.wake)
    return batch_answer(batch)


def batch_answer(batch: BatchView) -> Response:
    """A batch as a response."""
    return Response(msgspec.json.encode(batch), media_type="application/json")


def _parsed(body: bytes) -> BatchRequest:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(data, dict):
        raise RequestError("the body must be an object with input_file_id, endpoint and completion_window")
    try:
        return BatchRequest.model_validate(data)
    except ValidationError as error:
        found = explain(error, BatchRequest, what="a batch")
        raise SpecError(found.message, param=found.param, code="invalid_value") from error


def _check_file(file_id: str, services: Services) -> None:
    try:
        file = Files(services.engine).get(file_id, "input_file_id")
    except UnknownFileError as error:
        raise RequestError(str(error), status=NOT_FOUND, param="input_file_id", code="file_not_found") from error
    if file.purpose != UPLOADED:
        message = f"the file {file_id} has the purpose {file.purpose!r}; upload one with purpose {UPLOADED!r}"
        raise RequestError(message, param="input_file_id", code="invalid_value")
