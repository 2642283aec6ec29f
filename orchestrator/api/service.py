"""The service itself: is it up, what can it run, how much has it done."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from models import audio_catalog, catalog, image_catalog
from models.image_catalog import TRAINED_ENGINE
from orchestrator import database, metrics
from orchestrator.api.errors import NOT_FOUND, TYPES, UNAVAILABLE, RequestError
from orchestrator.api.services import Services, ServicesOf, check_key
from workers.broker import BrokerError
from workers.store import StoreError
from workers.trained_models import TrainedModel

open_router = APIRouter(tags=["service"])
"""Answers without a key: a load balancer has none."""
router = APIRouter(tags=["service"], dependencies=[Depends(check_key)])


@open_router.get("/healthz", operation_id="is_alive")
def is_alive() -> dict[str, str]:
    """Whether this process answers at all."""
    return {"status": "ok"}


@open_router.get("/readyz", operation_id="is_ready")
def is_ready(services: ServicesOf) -> Response:
    """Whether SQL, Redis and the store can be used; if not, which cannot, and where it is."""
    problems = find_problems(services)
    if not problems:
        return JSONResponse({"status": "ok"})
    error = {
        "message": "; ".join(problems.values()),
        "type": TYPES[UNAVAILABLE],
        "param": None,
        "code": f"{next(iter(problems))}_unavailable",
    }
    return JSONResponse({"error": error, "problems": problems}, UNAVAILABLE)


def find_problems(services: Services) -> dict[str, str]:
    """What is wrong with the services that everything stands on, by their names."""
    checks: dict[str, Callable[[], None]] = {
        "database": lambda: database.check(services.engine),
        "redis": services.hints.ping,
        "store": services.store.check,
    }
    problems = {}
    for name, check in checks.items():
        try:
            check()
        except (database.DatabaseError, BrokerError, StoreError) as error:
            problems[name] = str(error)
    return problems


@router.get("/v1/models", operation_id="list_models")
def list_models(services: ServicesOf) -> dict[str, object]:
    """The models that a job can name. A local folder of a worker's or a hub id can be named as well."""
    return {"object": "list", "data": known_models(services)}


@router.get("/v1/models/{model:path}", operation_id="get_model")
def get_model(model: str, services: ServicesOf) -> dict[str, object]:
    """A model that is known by name."""
    for known in known_models(services):
        if known["id"] == model:
            return known
    raise RequestError(
        f"there is no model {model!r}; GET /v1/models lists those that are known by name",
        status=NOT_FOUND,
        param="model",
        code="model_not_found",
    )


def known_models(services: Services) -> list[dict[str, object]]:
    """Models that are known by name: those that come along, and those that jobs have trained."""
    data: list[dict[str, object]] = [
        {
            "id": entry.name,
            "object": "model",
            "created": 0,
            "owned_by": "nightmill",
            "description": entry.description,
            "engines": entry.engines,
            "context_length": entry.context_length,
            "license": entry.license,
        }
        for entry in catalog.list_models()
    ]
    data += [
        {
            "id": entry.name,
            "object": "model",
            "created": 0,
            "owned_by": "nightmill",
            "kind": "image",
            "description": entry.description,
            "engines": [entry.engine],
            "license": entry.license,
        }
        for entry in image_catalog.list_image_models()
        if entry.name not in catalog.MODELS
    ]
    data += [
        {
            "id": entry.name,
            "object": "model",
            "created": 0,
            "owned_by": "nightmill",
            "kind": "audio",
            "description": entry.description,
            "engines": [entry.engine],
            "license": entry.license,
        }
        for entry in audio_catalog.list_audio_models()
        if entry.name not in catalog.MODELS
    ]
    data += [
        {
            "id": model.name,
            "object": "model",
            "created": int(model.trained_at),
            "owned_by": "nightmill",
            "kind": _kind(model),
            "description": f"{_what(model)}trained by job {model.version} on {model.source}",
            "engines": _engines(model),
            "license": model.license,
            "version": model.version,
            "family": model.family,
            "classes": model.classes,
            "size": [] if model.is_table else [model.width, model.height],
            "base": model.base,
            "metrics": model.metrics,
            "columns": msgspec.to_builtins(model.columns),
            "rows": model.rows,
        }
        for model in services.trained.newest()
    ]
    return data


def _what(model: TrainedModel) -> str:
    return "" if model.base is None else f"a LoRA adapter of {model.base}, "


def _kind(model: TrainedModel) -> str:
    if model.is_table:
        return "table"
    return "text" if model.is_text else "image"


def _engines(model: TrainedModel) -> list[str]:
    if model.is_table:
        return [model.family]
    if model.base is None:
        return [TRAINED_ENGINE]
    return list(catalog.TEXT_ENGINES) if model.is_text else ["diffusers"]


@router.get("/metrics", operation_id="read_metrics", response_class=Response)
def read_metrics(services: ServicesOf) -> Response:
    """Jobs, shards, items and tokens in Prometheus' text format."""
    return Response(metrics.exposition(services.engine), media_type=CONTENT_TYPE_LATEST)
