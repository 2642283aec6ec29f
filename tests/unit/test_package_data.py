"""Weights from packages: found by their pinned digest, or an error that says what to install."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import package_data
from models.errors import FailureKind, ModelError
from models.package_data import PackageFile
from models.smollm2 import sha256_of

LICENSE = "msgspec/__init__.py"


def installed(sha256: str, path: str = LICENSE) -> PackageFile:
    return PackageFile("msgspec", "1", path, sha256)


def test_a_file_with_its_digest_is_located() -> None:
    import msgspec

    path = Path(msgspec.__file__)
    assert installed(sha256_of(path)).locate() == path


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (PackageFile("nightmill-no-such-package", "1", "a/b.onnx", "0" * 64), "weights_missing"),
        (installed("0" * 64, "msgspec/no_such_file"), "weights_missing"),
        (installed("0" * 64), "weights_changed"),
    ],
)
def test_any_other_is_an_error_that_no_retry_mends(file: PackageFile, code: str) -> None:
    with pytest.raises(ModelError) as raised:
        file.locate()
    assert (raised.value.kind, raised.value.code) == (FailureKind.MODEL, code)
    assert f"{file.package}==1" in raised.value.message


def test_a_revision_stands_for_every_file() -> None:
    one, other = installed("1" * 64), installed("2" * 64)
    assert package_data.revision([one]) == f"sha256:{'1' * 16}"
    assert len({package_data.revision(files) for files in ([one], [other], [one, other], [other, one])}) == 4
