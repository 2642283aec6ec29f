"""What the routes work with: one object, made once for the process and handed to the app."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from fastapi import Depends, Request
from sqlalchemy import Engine

from orchestrator import database
from orchestrator.api.errors import UNAUTHORIZED, RequestError
from orchestrator.jobs import Jobs
from orchestrator.model_catalog import TrainedModels
from orchestrator.settings import Settings
from workers.broker import Hints
from workers.store import ObjectStore, open_store


@dataclass(frozen=True, slots=True)
class Services:
    """SQL, the object store and Redis, as the settings name them."""

    settings: Settings
    engine: Engine
    jobs: Jobs
    store: ObjectStore
    hints: Hints

    @classmethod
    def open(cls, settings: Settings) -> Services:
        """Connect lazily to all three; what cannot be reached shows when it is first used."""
        engine = database.connect(settings.sql_url)
        return cls(settings, engine, Jobs(engine), open_store(settings.object_store_url), Hints(settings.redis_url))

    @property
    def trained(self) -> TrainedModels:
        """Models that jobs have trained."""
        return TrainedModels(self.engine, self.store)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()
        self.hints.close()


def services_of(request: Request) -> Services:
    """The services of the app that answers a request."""
    found: Services = request.app.state.services
    return found


ServicesOf: TypeAlias = Annotated[Services, Depends(services_of)]


def check_key(request: Request, services: ServicesOf) -> None:
    """Refuse a request without the API key, where one is set."""
    expected = services.settings.api_key
    if not expected:
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # As bytes, for compare_digest refuses text outside ASCII; Starlette reads a header's bytes as Latin-1.
    same = secrets.compare_digest(given.strip().encode("latin-1"), expected.encode())
    if scheme.lower() != "bearer" or not same:
        raise RequestError(
            "this service asks for a key: send `Authorization: Bearer …` (the command line takes it from "
            "NIGHTMILL_API_KEY)",
            status=UNAUTHORIZED,
            code="invalid_api_key",
        )
