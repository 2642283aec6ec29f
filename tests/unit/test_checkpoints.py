"""Checkpoints in a store that lags, in the middle of writes, and beside an execution that lost its lease."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.errors import ModelError
from models.training_run import SavedState
from workers.checkpoints import COMMIT, TENSORS, StoredCheckpoints, earlier_executions
from workers.keys import part_key
from workers.store import StoreError
from workers.store_folder import FolderStore

PREFIX = "jobs/j/checkpoints/"


class LaggingStore(FolderStore):
    """Lists nothing of what was written after `freeze`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._shown: list[str] | None = None

    def freeze(self) -> None:
        self._shown = list(super().list(""))

    def list(self, prefix: str) -> Iterator[str]:
        if self._shown is None:
            yield from super().list(prefix)
        else:
            yield from (key for key in self._shown if key.startswith(prefix))


def saved(step: int, tensors: bytes = b"weights") -> SavedState:
    return SavedState(step=step, seconds=step / 2, tensors=tensors, state=b'{"losses": {}}')


def checkpoints(store: FolderStore, execution: str = "B", *earlier: str, data: str = "d") -> StoredCheckpoints:
    return StoredCheckpoints(store, "j", execution, earlier=earlier, data=data)


def steps(store: FolderStore) -> list[str]:
    commits = (key for key in store.list(PREFIX) if key.endswith(COMMIT))
    return [key.removeprefix(PREFIX).partition("/")[0] for key in commits]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def test_there_is_none_at_first_and_then_the_newest(store: FolderStore) -> None:
    own = checkpoints(store)
    assert own.latest() is None
    own.save(saved(10, b"a"))
    own.save(saved(20, b"b"))
    assert checkpoints(store, "C").latest() == saved(20, b"b")


def test_the_last_two_stay(store: FolderStore) -> None:
    own = checkpoints(store)
    for step in (10, 20, 30, 40):
        own.save(saved(step))
    assert steps(store) == ["000000030-B", "000000040-B"]
    assert not [key for key in store.list(PREFIX) if "000000010" in key]


def test_the_same_step_again_writes_nothing(store: FolderStore) -> None:
    own = checkpoints(store)
    own.save(saved(10, b"first"))
    own.save(saved(10, b"second"))
    found = checkpoints(store).latest()
    assert found is not None
    assert found.tensors == b"first"


@pytest.mark.parametrize("lost", [COMMIT, TENSORS])
def test_one_that_is_half_written_is_passed_over(store: FolderStore, lost: str) -> None:
    own = checkpoints(store)
    own.save(saved(10))
    own.save(saved(20))
    store.delete(f"{PREFIX}000000020-B/{lost}")
    assert checkpoints(store, "C", "B").latest() == saved(10)


@pytest.mark.parametrize("content", [b"weightz", b""])
def test_one_that_is_damaged_is_passed_over(store: FolderStore, content: bytes) -> None:
    own = checkpoints(store)
    own.save(saved(10))
    own.save(saved(20))
    store.put(f"{PREFIX}000000020-B/{TENSORS}", content)
    assert checkpoints(store, "C").latest() == saved(10)


def test_a_commit_that_is_no_json_is_none(store: FolderStore) -> None:
    store.put(f"{PREFIX}000000020-B/{COMMIT}", b"{")
    assert checkpoints(store, "C").latest() is None


def test_a_listing_that_lags_hides_nothing_of_an_execution_that_is_known(tmp_path: Path) -> None:
    store = LaggingStore(tmp_path)
    own = checkpoints(store)
    own.save(saved(10))
    store.freeze()
    own.save(saved(20))
    own.save(saved(30))
    assert checkpoints(store, "C", "A", "B").latest() == saved(30)
    # One of whom nobody knows is found once it is listed; meanwhile there is an older one, or none. Never half of one.
    found = checkpoints(store, "C").latest()
    assert found is None or found.step < 30


def test_an_execution_that_lost_its_lease_overwrites_nothing(store: FolderStore) -> None:
    stale, now = checkpoints(store, "A"), checkpoints(store, "B", "A")
    stale.save(saved(10, b"stale"))
    now.save(saved(10, b"now"))
    now.save(saved(20, b"now"))
    before = {key: store.get(key) for key in store.list(PREFIX) if "-B/" in key}
    stale.save(saved(20, b"stale"))
    after = {key: store.get(key) for key in store.list(PREFIX) if "-B/" in key}
    assert after.items() <= before.items()
    found = checkpoints(store, "C", "A", "B").latest()
    assert found is not None
    assert found.step == 20


def test_one_that_is_behind_keeps_its_own_newest(store: FolderStore) -> None:
    ahead, behind = checkpoints(store, "A"), checkpoints(store, "B")
    ahead.save(saved(40))
    ahead.save(saved(50))
    behind.save(saved(10))
    assert steps(store) == ["000000010-B", "000000040-A", "000000050-A"]


def test_a_training_does_not_go_on_with_other_images(store: FolderStore) -> None:
    checkpoints(store, data="before").save(saved(10))
    with pytest.raises(ModelError) as caught:
        checkpoints(store, data="after").latest()
    assert caught.value.code == "source_changed"


def test_a_store_that_fails_leaves_what_there_was(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    own = checkpoints(store)
    own.save(saved(10))
    real = store.put

    def put(key: str, data: bytes, *, content_type: str = "") -> None:
        if key.endswith(COMMIT):
            raise StoreError("away")
        real(key, data, content_type=content_type)

    monkeypatch.setattr(store, "put", put)
    with pytest.raises(StoreError):
        own.save(saved(20))
    monkeypatch.undo()
    assert checkpoints(store, "C", "B").latest() == saved(10)
    own.save(saved(20))
    assert checkpoints(store, "C", "B").latest() == saved(20)


def test_executions_are_known_by_their_parts() -> None:
    keys = [part_key("j", 0, 3, "01B"), part_key("j", 0, 2, "01A"), "jobs/j/parts/000000-0001-01Z.partial.jsonl"]
    assert earlier_executions(keys) == ["01B", "01A"]
