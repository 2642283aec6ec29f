"""Networks that a package ships, and that not every installation has."""

from __future__ import annotations

import os

import pytest

from models.errors import ModelError
from models.package_data import PackageFile


def needs(file: PackageFile) -> None:
    """Skip a test whose network is not installed; in CI, fail it."""
    try:
        file.locate()
    except ModelError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs every network: {error}")
        pytest.skip(str(error))
