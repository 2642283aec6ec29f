"""The app: every route, every error's shape, and the OpenAPI document that says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI

from orchestrator import database
from orchestrator.api import errors, inputs, jobs, results, service
from orchestrator.api.services import Services, check_key
from orchestrator.openai import batch_routes, file_routes

DESCRIPTION = """\
Large generative jobs on your own machines. Upload a source, submit a job, watch it, read its results.

Every error has the body `{"error": {"message", "type", "param", "code"}}`.
"""


def create_app(services: Services) -> FastAPI:
    """An app over these services, which it closes when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        services.close()

    app = FastAPI(title="Nightmill", version="1", description=DESCRIPTION, lifespan=lifespan)
    app.state.services = services
    keyed = [Depends(check_key)]
    app.include_router(jobs.router, dependencies=keyed)
    app.include_router(results.router, dependencies=keyed)
    app.include_router(inputs.router, dependencies=keyed)
    app.include_router(file_routes.router, dependencies=keyed)
    app.include_router(batch_routes.router, dependencies=keyed)
    app.include_router(service.router)
    app.include_router(service.open_router)
    errors.install(app, database.shown(services.settings.sql_url))
    _complete_openapi(app)
    return app


def _complete_openapi(app: FastAPI) -> None:
    """Make the OpenAPI document say what is true: the shapes that are not pydantic's, and our errors, not FastAPI's."""
    generate = app.openapi

    def complete() -> dict[str, Any]:  # OpenAPI
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = generate()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["responses"].update({str(status): shape for status, shape in errors.ERROR_RESPONSES.items()})
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas.update(jobs.SCHEMAS)
        schemas.update(file_routes.FILE_SCHEMAS)
        schemas.update(batch_routes.BATCH_SCHEMAS)
        return document

    app.openapi = complete  # type: ignore[method-assign] # the way that FastAPI's documentation gives
