"""From a batch's file to its job: the file is checked whole, and only then is there a job that reads it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
from sqlalchemy import Engine, Row

from models.errors import ModelError
from orchestrator.jobs import ConflictError, Jobs
from orchestrator.openai.batch_checks import CheckedFile, Limits, check_file
from orchestrator.openai.batch_views import BatchError
from orchestrator.openai.batches import cancel_quietly, move, status_of
from orchestrator.openai.files import content_key
from orchestrator.openai.statuses import BatchStatus
from orchestrator.settings import Settings
from orchestrator.spec import JobSpec, Source
from orchestrator.spec_error import SpecError
from orchestrator.static_checks import check_text_model
from workers.store import UPLOAD_SCHEME, MissingObjectError, ObjectStore

logger = logging.getLogger(__name__)
CHAT = "/v1/chat/completions"
ENDPOINTS = (CHAT,)


class Admission:
    """Admits batches. `clock` gives seconds since the epoch."""

    def __init__(
        self, engine: Engine, store: ObjectStore, settings: Settings, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._engine = engine
        self._store = store
        self._limits = Limits(settings.batch_max_requests, settings.batch_max_bytes)
        self._jobs = Jobs(engine, clock)
        self._clock = clock

    def admit(self, batch: Row) -> bool:  # type: ignore[type-arg]  # all columns of `batches`
        """Check the file of a batch that is validating, and give it a job; False where another was first.

        Raises:
            StoreError: the store cannot be reached.
        """
        now = self._clock()
        if now >= batch.expires_at:
            return self._end(batch, BatchStatus.EXPIRED)
        try:
            checked = check_file(
                self._store, content_key(batch.input_file), endpoint=batch.endpoint, limits=self._limits
            )
        except MissingObjectError:
            lost = BatchError(code="file_not_found", message="the input file is gone", param="input_file_id")
            return self._refuse(batch, [lost])
        if checked.errors or checked.model is None:
            return self._refuse(batch, checked.errors)
        try:
            return self._begin(batch, checked, checked.model)
        except ConflictError as error:
            # Somebody else has used the batch's id as the key of a job of his own.
            return self._refuse(batch, [BatchError(code="conflict", message=str(error))])
        except ModelError as error:
            return self._refuse(batch, [BatchError(code="model_not_found", message=error.message, param="body.model")])
        except SpecError as error:
            if self._clock() >= batch.expires_at:
                return self._end(batch, BatchStatus.EXPIRED)
            param = "body.model" if error.param == "model" else error.param
            return self._refuse(batch, [BatchError(code=error.code, message=error.message, param=param)])

    def _begin(self, batch: Row, checked: CheckedFile, model: str) -> bool:  # type: ignore[type-arg]
        spec = job_of(batch, model)
        check_text_model(spec)
        # The key makes it one job, whoever else is at this batch, or was before it died.
        job = self._create(spec, batch)
        values = {"job_id": job, "model": model, "total": checked.total, "in_progress_at": self._clock()}
        moved = move(self._engine, batch.id, BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, values)
        if moved:
            logger.info("%s: %d requests in job %s", batch.id, checked.total, job)
        elif status_of(self._engine, batch.id) is BatchStatus.CANCELLED:
            cancel_quietly(self._jobs, job)
        return moved

    def _create(self, spec: JobSpec, batch: Row) -> str:  # type: ignore[type-arg]
        try:
            return self._jobs.create(spec, tenant=batch.tenant, idempotency_key=batch.id).id
        except ConflictError:
            found = self._jobs.with_key(batch.id, tenant=batch.tenant)
            if found is None or self._jobs.spec(found).requests is None:
                raise
            return found  # of an admission that broke off, by a version that wrote jobs in other words

    def _refuse(self, batch: Row, errors: Sequence[BatchError]) -> bool:  # type: ignore[type-arg]
        logger.info("%s failed: %d errors in its file", batch.id, len(errors))
        return self._end(batch, BatchStatus.FAILED, errors)

    def _end(self, batch: Row, status: BatchStatus, errors: Sequence[BatchError] = ()) -> bool:  # type: ignore[type-arg]
        told = msgspec.json.encode(errors).decode() if errors else None
        values = {"errors": told, "ended_at": self._clock()}
        return move(self._engine, batch.id, BatchStatus.VALIDATING, status, values)


def job_of(batch: Row, model: str) -> JobSpec:  # type: ignore[type-arg]  # all columns of `batches`
    """The job of a batch: the same each time it is asked for."""
    return JobSpec(
        name=batch.id,
        kind="text",
        model=model,
        source=Source(file=f"{UPLOAD_SCHEME}{content_key(batch.input_file)}", format="jsonl", custom_id="custom_id"),
        requests="chat",
        deadline=datetime.fromtimestamp(batch.expires_at, UTC).isoformat(),
        metadata={} if batch.labels is None else msgspec.json.decode(batch.labels, type=dict[str, str]),
    )
