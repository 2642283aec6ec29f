"""Where a training leaves what it has, with a store that is away; and how a slow step is told from one that hangs."""

from __future__ import annotations

import threading
from pathlib import Path

import orjson
import pytest

from models.backends import training
from models.backends.training import Signs
from models.training_run import SavedState, TrainingNews
from tests.support.clocks import ManualClock
from workers.checkpoints import StoredCheckpoints
from workers.store import StoreError
from workers.store_folder import FolderStore
from workers.training_place import HISTORY_SECONDS, MAX_LINES, StoredTraining


class FlakyStore(FolderStore):
    """Fails while it is away."""

    away = False

    def put(self, key: str, data: bytes, *, content_type: str = "") -> None:
        if self.away:
            raise StoreError("away")
        super().put(key, data, content_type=content_type)


def news(step: int, *, told: bool = True, samples: bytes | None = None) -> TrainingNews:
    return TrainingNews(
        step=step,
        steps=100,
        losses={"loss": 1.0 / step} if told else {},
        seconds=float(step),
        images_per_second=10.0,
        seconds_left=100.0 - step,
        told=told,
        samples=samples,
    )


def saved(step: int) -> SavedState:
    return SavedState(step=step, seconds=float(step), tensors=b"t", state=b"{}")


@pytest.fixture
def store(tmp_path: Path) -> FlakyStore:
    return FlakyStore(tmp_path / "store")


@pytest.fixture
def events(tmp_path: Path) -> Path:
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "events.out.tfevents.1700.host.12.0").write_bytes(b"events")
    return tmp_path / "events"


def place(store: FlakyStore, events: Path, execution: str, clock: ManualClock, *earlier: str) -> StoredTraining:
    checkpoints = StoredCheckpoints(store, "j", execution, earlier=earlier, data="d")
    return StoredTraining(store, "j", execution, checkpoints, events, clock=clock)


def lines(store: FlakyStore, execution: str) -> list[int]:
    return [orjson.loads(line)["step"] for line in store.get(f"jobs/j/training/{execution}/losses.jsonl").splitlines()]


def test_losses_samples_and_events_are_named_by_the_progress(
    store: FlakyStore, events: Path, clock: ManualClock
) -> None:
    own = place(store, events, "A", clock)
    assert own.progress is None
    own.tell(news(1, told=False))
    assert own.progress is not None
    assert (own.progress.step, own.progress.losses, own.progress.history) == (1, {}, None)
    own.tell(news(2, samples=b"png"))
    own.save(saved(2))
    shown = own.progress
    assert store.get(shown.samples or "") == b"png"
    assert store.get(shown.history or "").startswith(b'{"step":2,')
    assert shown.events == "jobs/j/training/events/events.out.tfevents.1700.A"
    assert store.get(shown.events) == b"events"
    assert (shown.checkpoint, shown.losses, shown.seconds_left) == (2, {"loss": 0.5}, 98.0)


def test_losses_are_written_now_and_then(store: FlakyStore, events: Path, clock: ManualClock) -> None:
    own = place(store, events, "A", clock)
    own.tell(news(1))
    own.tell(news(2))
    assert lines(store, "A") == [1]
    clock.advance(HISTORY_SECONDS)
    own.tell(news(3, told=False))
    assert lines(store, "A") == [1, 2]
    own.tell(news(4))
    own.finish()
    assert lines(store, "A") == [1, 2, 4]


def test_who_goes_on_has_the_losses_up_to_its_checkpoint(store: FlakyStore, events: Path, clock: ManualClock) -> None:
    first = place(store, events, "A", clock)
    first.tell(news(2))
    first.save(saved(2))
    first.tell(news(4))
    second = place(store, events, "B", clock, "A")
    found = second.latest()
    assert found is not None
    assert second.progress is not None
    assert (found.step, second.progress.resumed_at, second.progress.checkpoint) == (2, 2, 2)
    second.tell(news(4))
    second.finish()
    assert lines(store, "B") == [2, 4]


def test_a_store_that_is_away_costs_a_checkpoint_and_not_the_training(
    store: FlakyStore, events: Path, clock: ManualClock
) -> None:
    own = place(store, events, "A", clock)
    own.save(saved(2))
    store.away = True
    own.tell(news(4, samples=b"png"))
    own.save(saved(4))
    own.finish()
    assert own.progress is not None
    assert (own.progress.step, own.progress.checkpoint, own.progress.samples) == (4, 2, None)
    store.away = False
    own.save(saved(6))
    assert own.progress.checkpoint == 6
    assert lines(store, "A") == [4]


def test_losses_stay_within_bounds(
    store: FlakyStore, events: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_LINES > 8
    monkeypatch.setattr("workers.training_place.MAX_LINES", 8)
    own = place(store, events, "A", clock)
    for step in range(1, 101):
        own.tell(news(step))
    own.finish()
    kept = lines(store, "A")
    assert len(kept) <= 8
    assert kept[-1] == 100
    assert kept[0] == 1


def test_a_step_that_computes_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    now, used = [100.0], [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(training.time, "clock_gettime", lambda _: used[0])
    signs = Signs()
    now[0] += 50
    assert signs.quiet_seconds() == 0  # its thread has not begun
    thread = threading.Thread(target=signs.begin)
    thread.start()
    thread.join()
    for _ in range(20):  # a step of ten minutes
        now[0] += 30
        used[0] += 5
        assert signs.quiet_seconds() == 0
    now[0] += 400  # one that does nothing
    assert signs.quiet_seconds() == 400
    signs.away = True  # the store is slow, and has limits of its own
    assert signs.quiet_seconds() == 0
    signs.away = False
    now[0] += 10
    assert signs.quiet_seconds() == 10
    signs.show()
    assert signs.quiet_seconds() == 0
