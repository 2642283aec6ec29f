"""What a worker is told by its environment: one frozen object, built in the entry point and passed in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "NIGHTMILL_"


class SettingsError(Exception):
    """A setting has a bad value; the message names its environment variable."""


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """Where an operator's certificate and key lie."""

    certificate: str
    """PEM: the certificate, then those that issued it, without the root."""
    key: str
    """PEM, without a passphrase."""


class Settings(BaseSettings):
    """Settings of a worker. Each is read from the environment variable of its name with the prefix `NIGHTMILL_`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    data_dir: Path = Path("~/.nightmill")
    redis_url: str = "redis://127.0.0.1:6379/0"
    store_url: str = ""
    """`file:///folder` or `s3://bucket/prefix`; by default the folder `store` in the data directory."""
    ray_address: str = ""
    """`host:port` of the Ray cluster's head; workers connect to Ray and never start one."""
    cache_dir: Path = Path("~/.cache/nightmill")
    lease_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    hang_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """An engine that has work and makes no step for so long is taken to hang, and is started anew."""
    shards_at_once: Annotated[int, Field(ge=1, le=256)] = 8
    """Shards that one generation worker runs side by side."""
    prewarm: bool = True
    """Import the text engine when the worker starts, so that its first model loads sooner."""
    c2pa_certificate: Path | None = None
    """PEM: with it, images are signed; see `workers.content_credentials`."""
    c2pa_key: Path | None = None
    allow_faults: bool = False
    """Let jobs tell the `echo` model to fail, crash and hang. For tests."""

    @field_validator("c2pa_certificate", "c2pa_key")
    @classmethod
    def _absolute_file(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("c2pa_key")
    @classmethod
    def _goes_with_certificate(cls, value: Path | None, found: ValidationInfo) -> Path | None:
        if "c2pa_certificate" in found.data and (value is None) != (found.data["c2pa_certificate"] is None):
            raise ValueError("NIGHTMILL_C2PA_CERTIFICATE and NIGHTMILL_C2PA_KEY go together; set both or neither")
        return value

    @field_validator("data_dir", "cache_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return value

    @field_validator("store_url")
    @classmethod
    def _store(cls, value: str) -> str:
        if value and not value.startswith(("file:///", "s3://")):
            raise ValueError("must be file:///a/folder or s3://bucket/prefix")
        return value

    @property
    def credential_files(self) -> CredentialFiles | None:
        """What images are signed with; None where they are not."""
        if self.c2pa_certificate is None or self.c2pa_key is None:
            return None
        return CredentialFiles(str(self.c2pa_certificate), str(self.c2pa_key))

    @property
    def object_store_url(self) -> str:
        """URL of the object store, the default filled in."""
        return self.store_url or (self.data_dir / "store").as_uri()


AnySettings = TypeVar("AnySettings", bound=Settings)


def load_settings(kind: type[AnySettings]) -> AnySettings:
    """Settings from the environment.

    Raises:
        SettingsError: a value is bad; every bad variable is named.
    """
    try:
        return kind()
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            variable = PREFIX + "_".join(str(part) for part in problem["loc"]).upper()
            lines.append(f"{variable}={os.environ.get(variable, '')!r}: {problem['msg'].removeprefix('Value error, ')}")
        raise SettingsError("; ".join(lines)) from error
