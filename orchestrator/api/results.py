"""Results over HTTP: pages of records, and whole files, in item order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from orchestrator import results
from orchestrator.api.errors import CONFLICT, NOT_FOUND, RequestError
from orchestrator.api.services import Services, ServicesOf
from orchestrator.job_files import find_file
from orchestrator.passes import HELD_BACK
from orchestrator.results import Page
from orchestrator.spec import JobSpec
from workers.records import StoredAudio, StoredImage

if TYPE_CHECKING:
    from orchestrator.exports import Outputs

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["results"])
After = Annotated[int | None, Query(ge=-1, description="Begin behind the item of this index.")]
Limit = Annotated[int, Query(ge=1, le=results.MAX_PAGE, description="At most so many records.")]
CONTENT_TYPES = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
Held = Annotated[bool, Query(description="Give a dataset that is held back, too.")]
FILE_COLUMNS: dict[str, Literal["images", "audio"]] = {"image": "images", "audio": "audio"}
"""Of kinds of jobs whose items end as files: the field of a record that names them."""
_FILE: dict[int | str, dict[str, Any]] = {  # OpenAPI
    200: {"description": "The file", "content": {kind: {} for kind in CONTENT_TYPES.values()}},
}

_IMAGE: dict[int | str, dict[str, Any]] = {  # OpenAPI
    200: {"description": "The image", "content": {kind: {} for kind in ("image/png", "image/jpeg", "image/webp")}},
}
_AUDIO: dict[int | str, dict[str, Any]] = {200: {"description": "The sound", "content": {"audio/wav": {}}}}  # OpenAPI


@router.get("/results", operation_id="list_results")
def list_results(
    job_id: str, services: ServicesOf, after: After = None, limit: Limit = 100, *, held: Held = False
) -> Response:
    """Records in item order, once each; of a job that runs, those up to the first item that is still open."""
    _refuse_held(services, job_id, held=held)
    return _page_answer(results.read(services.store, services.jobs, job_id, after=after, limit=limit))


@router.get("/errors", operation_id="list_errors")
def list_errors(job_id: str, services: ServicesOf, after: After = None, limit: Limit = 100) -> Response:
    """Records of the items that failed, in item order."""
    return _page_answer(results.errors(services.store, services.jobs, job_id, after=after, limit=limit))


@router.get("/results/content", operation_id="download_results", responses=_FILE)
def download_results(
    job_id: str,
    services: ServicesOf,
    form: Annotated[Literal["jsonl", "csv", "parquet"], Query(alias="format")] = "jsonl",
    *,
    held: Held = False,
) -> StreamingResponse:
    """All records as one file; of a table, all its rows."""
    _refuse_held(services, job_id, held=held)
    chunks = results.stream(services.store, services.jobs, job_id)
    if services.jobs.get(job_id).kind == "tabular":
        from orchestrator import table_results  # noqa: PLC0415 - pyarrow, as below

        chunks = table_results.stream(services.store, services.jobs, job_id, form)
    elif form != "jsonl":
        spec = services.jobs.spec(job_id)
        outputs = _outputs(spec)
        chunks = _exporter(form)(chunks, spec.kept, outputs, tuple(spec.nodes or ()))
    # What is wrong from the start can still be answered with its status.
    first = next(chunks, b"")
    headers = {"Content-Disposition": f'attachment; filename="results.{form}"'}
    return StreamingResponse(chain([first], chunks), media_type=CONTENT_TYPES[form], headers=headers)


@router.get("/images/{name}", operation_id="download_image", responses=_IMAGE)
def download_image(job_id: str, name: str, services: ServicesOf) -> StreamingResponse:
    """An image that a record of the job names: `7.png`, or `7-0.png` where items have several."""
    return _file_answer(services, find_file(services.store, services.jobs, job_id, "image", name))


@router.get("/audio/{name}", operation_id="download_audio", responses=_AUDIO)
def download_audio(job_id: str, name: str, services: ServicesOf) -> StreamingResponse:
    """A sound that a record of the job names: `7.wav`."""
    return _file_answer(services, find_file(services.store, services.jobs, job_id, "audio", name))


@router.get("/report", operation_id="read_report")
def read_report(
    job_id: str,
    services: ServicesOf,
    form: Annotated[Literal["html", "json"], Query(alias="format")] = "html",
) -> Response:
    """The report on the dataset that a job has made."""
    job = services.jobs.get(job_id)
    report = None if job.findings is None else job.findings.report
    if report is None:
        raise RequestError(f"job {job_id} has no report, or none yet", status=NOT_FOUND, code="no_report")
    data = services.store.get(report.html if form == "html" else report.json)
    # What a page shows came out of a model: it may show itself, and run nothing of anybody else's.
    policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"}
    kind = "text/html; charset=utf-8" if form == "html" else "application/json"
    return Response(data, media_type=kind, headers=policy)


@router.get("/training/samples", operation_id="download_samples", responses=_IMAGE)
def download_samples(job_id: str, services: ServicesOf) -> Response:
    """The newest sheet of samples of a model in training, a column for each class; also while it is trained."""
    return Response(_of_training(job_id, services, "samples"), media_type="image/png")


@router.get("/training/losses", operation_id="download_losses")
def download_losses(job_id: str, services: ServicesOf) -> Response:
    """The losses of a training so far, as JSON lines: step, losses, seconds, images a second."""
    return Response(_of_training(job_id, services, "history"), media_type=CONTENT_TYPES["jsonl"])


def _refuse_held(services: Services, job_id: str, *, held: bool) -> None:
    """Refuse to give a dataset that did not reach what was asked of it to whoever does not say that he wants it so."""
    error = services.jobs.get(job_id).error
    if error is not None and error.code == HELD_BACK and not held:
        raise RequestError(
            f"job {job_id}: {error.message}; to read it nevertheless, ask with held=true",
            status=CONFLICT,
            code=HELD_BACK,
        )


def _file_answer(services: Services, file: StoredImage | StoredAudio) -> StreamingResponse:
    chunks = services.store.stream(file.key)
    first = next(chunks, b"")
    headers = {
        "Content-Length": str(file.bytes),
        "ETag": f'"{file.sha256}"',
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(chain([first], chunks), media_type=file.content_type, headers=headers)


def _of_training(job_id: str, services: ServicesOf, what: Literal["samples", "history"]) -> bytes:
    job = services.jobs.get(job_id)
    key = None if job.training is None else getattr(job.training, what)
    if key is None:
        why = "it has none yet" if job.kind == "train" else f"it is of kind {job.kind}"
        raise RequestError(f"job {job_id} has no {what} of a training: {why}", status=NOT_FOUND, code="no_training")
    return services.store.get(key)


def _outputs(spec: JobSpec) -> Outputs:
    return spec.given(spec.source.grid or ()) if spec.kind == "dataset" else FILE_COLUMNS.get(spec.kind, spec.n)


def _exporter(form: Literal["csv", "parquet"]) -> Callable[..., Iterator[bytes]]:
    from orchestrator import exports  # noqa: PLC0415 - pyarrow takes 60 MB, and few ask for it

    return exports.to_csv if form == "csv" else exports.to_parquet


def _page_answer(page: Page) -> Response:
    """A page as JSON; the records go through as they lie in the store."""
    rest = orjson.dumps({"next_after": page.next_after, "has_more": not page.done})
    body = b'{"object":"list","data":[' + b",".join(page.records) + b"]," + rest[1:]
    return Response(body, media_type="application/json")
