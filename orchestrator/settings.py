"""What the orchestrator is told by its environment: the worker's settings, and those of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from workers.settings import Settings as WorkerSettings


class Settings(WorkerSettings):
    """Settings of the API, the scheduler, the control worker and the command line."""

    database_url: str = ""
    """`sqlite:////path/file.db` or `postgresql://user@host/name`; by default `nightmill.db` in the data directory."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    api_url: str = ""
    """Where commands find a running service; by default the one that `nightmill up` started."""
    api_key: str = ""
    """Sent and asked for as a bearer token. Empty: none is asked for."""
    dispatch_window: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Shards of one model that wait in Redis or run at one time."""
    retention_days: Annotated[float, Field(ge=0, le=36_500)] = 0.0
    """Jobs that ended longer ago are removed with their results. 0: jobs are kept for ever."""
    file_max_bytes: Annotated[int, Field(ge=1)] = 512 << 20
    """How long a file may be that is uploaded to `/v1/files`."""
    batch_file_days: Annotated[float, Field(ge=0, le=3650)] = 30.0
    """How long a file for a batch is kept where its upload says nothing else. 0: until it is deleted."""
    batch_max_requests: Annotated[int, Field(ge=1)] = 50_000
    """Requests of one batch."""
    batch_max_bytes: Annotated[int, Field(ge=1)] = 200 << 20
    """How long the input file of one batch may be."""
    safety_file: Path | None = None
    """YAML or JSON: what no job may make, by tenant; see `orchestrator.safety_policy`."""

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str) -> str:
        if value:
            from orchestrator import database  # noqa: PLC0415 - most commands need no SQLAlchemy

            try:
                database.shown(value)
            except database.DatabaseError as error:
                raise ValueError(str(error)) from error
        return value

    @field_validator("safety_file")
    @classmethod
    def _absolute_file(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("api_url")
    @classmethod
    def _api(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")

    @property
    def sql_url(self) -> str:
        """URL of the database, the default filled in."""
        return self.database_url or f"sqlite:///{self.data_dir / 'nightmill.db'}"
