"""A command line and a data directory for each test; whatever a test leaves running is ended, and is a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.commands import Nightmill

AWS = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


def _end(nightmill: Nightmill) -> None:
    left = nightmill.processes()
    for pid in left:
        try:
            psutil.Process(pid).kill()
        except psutil.NoSuchProcess:
            continue
    assert not left


@pytest.fixture
def nightmill(tmp_path: Path) -> Iterator[Nightmill]:
    """Everything embedded: SQLite and a folder."""
    made = Nightmill(tmp_path / "data")
    yield made
    _end(made)


@pytest.fixture(params=["embedded", "services"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Nightmill]:
    """Everything embedded; and on PostgreSQL and S3."""
    settings = {}
    if request.param == "services":
        settings = {
            "NIGHTMILL_DATABASE_URL": str(request.getfixturevalue("postgres_url")),
            "NIGHTMILL_STORE_URL": str(request.getfixturevalue("s3_url")),
            **{name: os.environ[name] for name in AWS},
        }
    made = Nightmill(tmp_path / "data", settings)
    yield made
    _end(made)
