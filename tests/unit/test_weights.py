"""From a name to a folder: local folders, the hub, and what a folder's weights are called."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import pytest

from models import weights
from models.errors import FailureKind, ModelError


def _folder(path: Path, **files: bytes) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text("{}")
    for name, data in files.items():
        (path / f"{name}.safetensors").write_bytes(data)
    return path


def test_a_local_folder_is_itself(tmp_path: Path) -> None:
    assert weights.locate(str(_folder(tmp_path, model=b"w")), tmp_path / "cache") == tmp_path.resolve()


def test_the_revision_is_the_digest_of_the_only_file(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"w").hexdigest()
    assert weights.revision(_folder(tmp_path, model=b"w")) == f"sha256:{digest[:16]}"


def test_the_revision_of_several_files_changes_with_any_of_them(tmp_path: Path) -> None:
    found = {
        weights.revision(_folder(tmp_path / f"{number}", one=one, two=two))
        for number, (one, two) in enumerate([(b"a", b"b"), (b"a", b"c"), (b"b", b"b"), (b"b", b"a")])
    }
    assert len(found) == 4


@pytest.mark.parametrize("data", [b"", b"short", (9).to_bytes(8, "little") + b"{}", b"version https://git-lfs"])
def test_weights_that_are_not_whole_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ModelError, match=r"two\.safetensors is not a whole") as caught:
        weights.check_whole(_folder(tmp_path, one=(2).to_bytes(8, "little") + b"{}", two=data))
    assert (caught.value.kind, caught.value.code) == (FailureKind.MODEL, "weights_damaged")


def test_whole_weights_are_let_pass(tmp_path: Path) -> None:
    whole = (2).to_bytes(8, "little") + b"{}weights"
    assert weights.check_whole(_folder(tmp_path, one=whole)) is None  # type: ignore[func-returns-value]


def test_a_hub_that_cannot_be_reached_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"'org/name' could not be fetched .* A local folder") as caught:
        weights.locate("org/name", tmp_path)
    assert (caught.value.kind, caught.value.code) == (FailureKind.MODEL, "hub_model_unavailable")


def test_a_hub_model_without_safetensors_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "_fetch", lambda _: _folder(tmp_path))
    with pytest.raises(ModelError, match=r"has no \*.safetensors"):
        weights.locate("org/name", tmp_path)


def test_the_innermost_cause_is_what_is_said() -> None:
    error = ValueError("outer")
    error.__cause__ = OSError("the disk is gone\nmore of it")
    assert weights.first_line(error) == "the disk is gone"
    assert weights.first_line(KeyError()) == "KeyError"
