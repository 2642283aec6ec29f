"""A place of a training that keeps what it is given in memory, and can have the training killed."""

from __future__ import annotations

from models.training_run import SavedState, TrainingNews


class KilledError(Exception):
    """As a worker that died."""


class MemoryPlace:
    """A `TrainingPlace`. With `dies_at` it raises when told of that step, so that only checkpoints are left."""

    def __init__(self, *, dies_at: int | None = None) -> None:
        self.saved: list[SavedState] = []
        self.news: list[TrainingNews] = []
        self._dies_at = dies_at

    def latest(self) -> SavedState | None:
        return self.saved[-1] if self.saved else None

    def save(self, saved: SavedState) -> None:
        self.saved.append(saved)

    def tell(self, news: TrainingNews) -> None:
        self.news.append(news)
        if news.step == self._dies_at:
            self._dies_at = None
            raise KilledError
