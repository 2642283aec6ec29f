"""Jobs over HTTP: submit, look, steer, read results."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import anyio
import msgspec
import orjson
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from orchestrator.api.errors import ERROR_SCHEMA, TOO_LARGE, RequestError
from orchestrator.api.services import ServicesOf
from orchestrator.jobs import DEFAULT_TENANT
from orchestrator.lifecycle import JobStatus
from orchestrator.parents import find_parent
from orchestrator.replay import replay_spec
from orchestrator.source_files import check_uri
from orchestrator.spec import JobSpec, parse_job
from orchestrator.spec_error import SpecError
from orchestrator.static_checks import check_static
from orchestrator.train_spec import PARENT_FILE
from orchestrator.training_source import check_data_uri
from orchestrator.views import JobView
from workers.broker import BrokerError

log = logging.getLogger(__name__)

MAX_BODY = 32 << 20
"""Bytes of a job with its inline items. More rows belong into a file."""
GLANCES = 5
"""For those who watch a job: how often its status is looked at before all of it is, which costs much more."""
GLANCE_SECONDS = 0.2
_JOB_SCHEMA, _JOB_PARTS = msgspec.json.schema_components([JobView], ref_template="#/components/schemas/{name}")
SCHEMAS: dict[str, Any] = {**_JOB_PARTS, "Error": ERROR_SCHEMA}  # JSON Schema, by name
_ONE_JOB: dict[int | str, dict[str, Any]] = {  # OpenAPI
    200: {"description": "The job", "content": {"application/json": {"schema": _JOB_SCHEMA[0]}}},
}
_SPEC_BODY: dict[str, Any] = {  # OpenAPI
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}}},
    }
}
SCHEMAS |= {"JobSpec": JobSpec.model_json_schema(by_alias=True, ref_template="#/components/schemas/{model}")}
SCHEMAS |= SCHEMAS["JobSpec"].pop("$defs", {})

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]


async def whole_body(request: Request) -> bytes:
    """A request's body, up to a bound."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise RequestError(
                f"the body is over {MAX_BODY >> 20} MiB; put the rows into a file, upload it with PUT "
                "/v1/inputs/{filename}, and name it in source.file",
                status=TOO_LARGE,
                code="body_too_large",
            )
    return bytes(body)


def hint(*steps: Callable[[], None]) -> None:
    """Tell Redis what SQL has already: if that is lost, whoever it was for looks by itself, only later."""
    try:
        for step in steps:
            step()
    except BrokerError as error:
        log.warning("a hint was lost: %s", error)


def job_answer(job: JobView) -> Response:
    """A job as a response."""
    return Response(msgspec.json.encode(job), media_type="application/json")


@router.post("", operation_id="create_job", responses=_ONE_JOB, openapi_extra=_SPEC_BODY)
def create_job(
    body: Annotated[bytes, Depends(whole_body)],
    services: ServicesOf,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Response:
    """Submit a job. With an `Idempotency-Key` that was used for the same job, that job comes back."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error}", code="invalid_json") from error
    spec = parse_job(data)
    if idempotency_key is not None and (earlier := services.jobs.submitted(spec, idempotency_key=idempotency_key)):
        return job_answer(earlier)  # whatever has become of its deadline or its file since
    _check_uris(spec)
    check_static(
        spec,
        datetime.now(UTC),
        allow_faults=services.settings.allow_faults,
        find_trained=services.trained.find,
        find_adapter=services.trained.find_adapter,
        find_table=services.trained.find_table,
    )
    find_parent(services.engine, spec, DEFAULT_TENANT, services.trained.find_table)
    services.hints.ping()  # a job that nothing can run is refused, and leaves nothing behind
    job = services.jobs.create(spec, tenant=DEFAULT_TENANT, idempotency_key=idempotency_key)
    hint(services.hints.wake)
    return job_answer(job)


def _check_uris(spec: JobSpec) -> None:
    """Raise SpecError where what a job reads cannot be reached from another machine."""
    for param, each in ((spec.input_param, spec.over_rows()), (PARENT_FILE, spec.over_parent())):
        if each is not None and each.source.file is not None:
            try:
                check_uri(each.source.file)
            except SpecError as error:
                raise error.renamed("source.file", param) from error
    check_data_uri(spec)


@router.get("", operation_id="list_jobs")
def list_jobs(
    services: ServicesOf,
    status: JobStatus | None = None,
    after: Annotated[str | None, Query(description="Begin after the job of this id.")] = None,
    limit: Limit = 20,
) -> Response:
    """Jobs, the newest first."""
    found = list(services.jobs.list(status=status, after=after, limit=min(limit + 1, 1000)))
    page = {"object": "list", "data": found[:limit], "has_more": len(found) > limit}
    return Response(msgspec.json.encode(page), media_type="application/json")


@router.get("/{job_id}", operation_id="get_job", responses=_ONE_JOB)
def get_job(job_id: str, services: ServicesOf) -> Response:
    """A job as it is now."""
    return job_answer(services.jobs.get(job_id))


@router.post("/{job_id}/cancel", operation_id="cancel_job", responses=_ONE_JOB)
def cancel_job(job_id: str, services: ServicesOf) -> Response:
    """Stop a job. What is finished stays."""
    job = services.jobs.cancel(job_id)
    hint(lambda: services.hints.stop_job(job_id, "the job was cancelled"), services.hints.wake)
    return job_answer(job)


@router.post("/{job_id}/pause", operation_id="pause_job", responses=_ONE_JOB)
def pause_job(job_id: str, services: ServicesOf) -> Response:
    """Start nothing more of a job. What runs goes on to its end."""
    return job_answer(services.jobs.pause(job_id))


@router.post("/{job_id}/resume", operation_id="resume_job", responses=_ONE_JOB)
def resume_job(job_id: str, services: ServicesOf) -> Response:
    """Go on with a paused job."""
    job = services.jobs.resume(job_id)
    hint(services.hints.wake)
    return job_answer(job)


@router.post("/{job_id}/retry", operation_id="retry_job", responses=_ONE_JOB)
def retry_job(job_id: str, services: ServicesOf) -> Response:
    """Run the failed and expired items of a job again."""
    job = services.jobs.retry(job_id)
    hint(lambda: services.hints.forget_stop(job_id), services.hints.wake)
    return job_answer(job)


@router.post("/{job_id}/replay", operation_id="replay_image", responses=_ONE_JOB)
def replay_image(
    job_id: str,
    services: ServicesOf,
    index: Annotated[int, Query(ge=0, description="The item.")],
    image: Annotated[int, Query(ge=0, description="Which of its images.")] = 0,
) -> Response:
    """Make an image of a job again, as a small job of its own, in the batch shape in which it was made."""
    spec = replay_spec(services.store, services.jobs, job_id, index, image)
    services.hints.ping()
    # Whoever asks for it: what its tenant may not make, nobody may make again in its name.
    job = services.jobs.create(spec, tenant=services.jobs.tenant(job_id))
    hint(services.hints.wake)
    return job_answer(job)


def existing_job(job_id: str, services: ServicesOf) -> JobView:
    """The job that a path names; a stream can answer 404 only before it begins."""
    return services.jobs.get(job_id)


@router.get("/{job_id}/events", operation_id="watch_job", response_class=EventSourceResponse)
async def watch_job(
    job_id: str, services: ServicesOf, job: Annotated[JobView, Depends(existing_job)]
) -> AsyncIterator[ServerSentEvent]:
    """The job whenever it has changed, as server-sent events named `job`, until it has ended."""
    number = 0
    seen: JobView | None = None
    while True:
        if job != seen:
            yield ServerSentEvent(event="job", id=str(number), raw_data=msgspec.json.encode(job).decode())
            number += 1
            seen = job
        if job.ended:
            return
        for _ in range(GLANCES):
            await anyio.sleep(GLANCE_SECONDS)
            if await run_in_threadpool(services.jobs.generation, job_id) != job.generation:
                break
        job = await run_in_threadpool(services.jobs.get, job_id)
