"""Folders of images on their way to a worker: packed the same way each time, and unpacked with distrust."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from models.errors import ModelError
from models.training.data import IMAGE_SUFFIXES as LOADED_SUFFIXES
from orchestrator.spec_error import SpecError
from orchestrator.training_source import check_local_folder, packed
from workers import training_data
from workers.contracts import TrainWork
from workers.store_folder import FolderStore
from workers.training_data import IMAGE_SUFFIXES, FetchStoppedError, fetch_images

KEY = "inputs/01A/photos.tar"
WORK = TrainWork(settings={}, uri=f"nightmill://{KEY}", name="photos")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("shoes/b.png", "shoes/a.JPG", "bags/old/c.webp", "notes.txt", "shoes/.hidden"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def put_tar(store: FolderStore, members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    store.put(KEY, buffer.getvalue())


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetch(store: FolderStore, folder: Path, work: TrainWork = WORK) -> str:
    return fetch_images(work, store, folder, threading.Event())


def test_images_arrive_as_they_were(photos: Path, store: FolderStore, tmp_path: Path) -> None:
    with packed(photos) as archive:
        assert archive.name == "photos.tar"
        store.put(KEY, archive.read_bytes())
    assert not archive.exists()
    fetch(store, tmp_path / "there")
    wanted = ("shoes/b.png", "shoes/a.JPG", "bags/old/c.webp")
    assert files(tmp_path / "there") == {name: (photos / name).read_bytes() for name in wanted}


def test_captions_go_with_the_images(photos: Path, store: FolderStore, tmp_path: Path) -> None:
    """Those of the folder itself: a sub-folder's would be about files elsewhere."""
    (photos / "captions.jsonl").write_text("{}")
    (photos / "shoes" / "captions.jsonl").write_text("{}")
    (photos / "other.jsonl").write_text("{}")
    for key, content in files(photos).items():
        store.put(f"inputs/below/{key}", content)
    with packed(photos) as archive:
        store.put(KEY, archive.read_bytes())
    fetch(store, tmp_path / "from-archive")
    fetch(store, tmp_path / "from-prefix", msgspec.structs.replace(WORK, uri="nightmill://inputs/below/"))
    wanted = {"captions.jsonl", "shoes/b.png", "shoes/a.JPG", "bags/old/c.webp"}
    assert set(files(tmp_path / "from-archive")) == set(files(tmp_path / "from-prefix")) == wanted


def test_an_archive_of_a_dot_has_its_captions_too(store: FolderStore, tmp_path: Path) -> None:
    put_tar(store, [(member("./captions.jsonl"), b"{}"), (member("./a.png"), b"a")])
    fetch(store, tmp_path / "there")
    assert set(files(tmp_path / "there")) == {"captions.jsonl", "a.png"}


def test_the_same_images_make_the_same_archive(photos: Path) -> None:
    def digest() -> str:
        with packed(photos) as archive:
            return hashlib.sha256(archive.read_bytes()).hexdigest()

    first = digest()
    for path in photos.rglob("*"):
        os.utime(path, (1, 1))
    (photos / "shoes/b.png").chmod(0o600)
    assert digest() == first
    (photos / "shoes/b.png").write_bytes(b"another")
    assert digest() != first


def test_what_is_taken_can_be_loaded() -> None:
    assert IMAGE_SUFFIXES == LOADED_SUFFIXES


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/out.png", "shoes/\u0007.png", "a" * 300 + ".png"])
def test_a_name_that_leaves_its_folder_is_refused(store: FolderStore, tmp_path: Path, name: str) -> None:
    put_tar(store, [(member("shoes/a.png"), b"a"), (member(name), b"b")])
    with pytest.raises(ModelError, match="is no name of a file") as caught:
        fetch(store, tmp_path / "there" / "photos")
    assert caught.value.code == "training_data_unreadable"
    assert set(files(tmp_path / "there")) == {"photos/shoes/a.png"}


def test_links_and_devices_are_left_out(store: FolderStore, tmp_path: Path) -> None:
    put_tar(
        store,
        [
            (member("shoes/link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
            (member("shoes/hard.png", type=tarfile.LNKTYPE, linkname="shoes/link.png"), b""),
            (member("shoes/pipe.png", type=tarfile.FIFOTYPE), b""),
            (member("shoes/a.png"), b"a"),
        ],
    )
    fetch(store, tmp_path / "there")
    assert files(tmp_path / "there") == {"shoes/a.png": b"a"}


@pytest.mark.parametrize(
    ("limit", "says"), [("MAX_IMAGES", "more than"), ("MAX_TOTAL", "more than"), ("MAX_FILE", "may")]
)
def test_there_are_bounds(
    photos: Path, store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, says: str
) -> None:
    with packed(photos) as archive:
        store.put(KEY, archive.read_bytes())
    monkeypatch.setattr(training_data, limit, 2)
    monkeypatch.setattr(f"orchestrator.training_source.{limit}", 2)
    with pytest.raises(ModelError, match=says):
        fetch(store, tmp_path / "there")
    with pytest.raises(SpecError, match=says):
        check_local_folder(photos)


@pytest.mark.parametrize("keep", [0, 700, 3000])
def test_an_archive_that_is_cut_off_is_told_so(photos: Path, store: FolderStore, tmp_path: Path, keep: int) -> None:
    with packed(photos) as archive:
        store.put(KEY, archive.read_bytes()[:keep] or b"no archive at all")
    with pytest.raises(ModelError, match="not a whole tar archive"):
        fetch(store, tmp_path / "there")


def test_a_prefix_is_downloaded_and_known_by_its_content(photos: Path, tmp_path: Path) -> None:
    # As of a bucket; a key of the own store is what a test can have without one.
    for path in (path for path in photos.rglob("*") if path.is_file()):
        FolderStore(tmp_path / "store").put(f"set/{path.relative_to(photos).as_posix()}", path.read_bytes())
    store = FolderStore(tmp_path / "store")
    work = TrainWork(settings={}, uri="set", name="set")
    first = fetch(store, tmp_path / "one", work)
    assert set(files(tmp_path / "one")) == {"shoes/b.png", "shoes/a.JPG", "bags/old/c.webp"}
    assert fetch(store, tmp_path / "two", work) == first
    store.put("set/shoes/b.png", b"another")
    assert fetch(store, tmp_path / "three", work) != first


def test_it_ends_where_nobody_waits(photos: Path, store: FolderStore, tmp_path: Path) -> None:
    with packed(photos) as archive:
        store.put(KEY, archive.read_bytes())
    stop = threading.Event()
    stop.set()
    with pytest.raises(FetchStoppedError):
        fetch_images(WORK, store, tmp_path / "there", stop)


@pytest.mark.parametrize(("name", "says"), [("none", "no such folder"), ("photos/notes.txt", "is a file")])
def test_a_folder_that_is_none_is_told_so(photos: Path, name: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        check_local_folder(photos.parent / name)


def test_a_folder_without_images_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(SpecError, match="no images"):
        check_local_folder(tmp_path)
