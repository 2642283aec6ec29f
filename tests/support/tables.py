"""Small tables of every kind of column, and what fits a model to one."""

from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from models.backends.sequences import import_engine
from models.backends.training import Signs
from models.tabular.columns import find_columns, plain_table
from models.tabular.families import open_trainer
from models.training.settings import FamilyName, TrainingSettings
from models.training_run import SavedState, TableData, TrainedFiles, TrainingNews, TrainingRequest


def staff(rows: int = 240) -> pa.Table:
    """People of a firm: their pay hangs together with their grade, and a tenth of the bonuses is missing."""
    generator = np.random.default_rng(5)
    grades = generator.choice(["junior", "senior", "head"], rows, p=[0.5, 0.4, 0.1])
    base = {"junior": 2000.0, "senior": 3500.0, "head": 6000.0}
    pay = np.round(
        [base[grade] * factor for grade, factor in zip(grades, generator.normal(1, 0.1, rows), strict=True)], 2
    )
    first = dt.datetime(2015, 1, 1)  # noqa: DTZ001 - as tables have them
    return pa.table(
        {
            "id": pa.array(range(5001, 5001 + rows), type=pa.int32()),
            "grade": grades.tolist(),
            "remote": generator.random(rows) < 0.3,
            "children": pa.array(generator.integers(0, 4, rows), type=pa.int8()),
            "age": pa.array(generator.integers(18, 66, rows), type=pa.int16()),
            "pay": pay.tolist(),
            "bonus": [None if draw < 0.1 else round(draw * 1000) for draw in generator.random(rows)],
            "joined": [first + dt.timedelta(hours=int(hours)) for hours in generator.integers(0, 80_000, rows)],
            "born": [
                dt.date(1960, 1, 1) + dt.timedelta(days=int(days)) for days in generator.integers(0, 15_000, rows)
            ],
            "phone": [f"+43 660 {number}" for number in generator.integers(1_000_000, 9_999_999, rows)],
        }
    )


class MemoryPlace:
    """A `TrainingPlace` that remembers."""

    def __init__(self, saved: SavedState | None = None) -> None:
        self.saved = [] if saved is None else [saved]
        self.news: list[TrainingNews] = []

    def latest(self) -> SavedState | None:
        return self.saved[-1] if self.saved else None

    def save(self, saved: SavedState) -> None:
        self.saved.append(saved)

    def tell(self, news: TrainingNews) -> None:
        self.news.append(news)


def fit(
    table: pa.Table,
    folder: Path,
    *,
    family: FamilyName = "tabular-argn",
    options: dict[str, Any] | None = None,
    place: MemoryPlace | None = None,
    stop: threading.Event | None = None,
    columns: dict[str, str] | None = None,
    **settings: Any,
) -> TrainedFiles:
    """Fit a model; its files are left in a folder."""
    import_engine("models.tabular.argn_training")  # as the back-end does: collecting garbage is quick after it
    plain = plain_table(table)
    signs = Signs()
    signs.begin()
    request = TrainingRequest(
        model="staff",
        settings=TrainingSettings(family=family, options=options or {}, **{"seed": 7, **settings}),
        data=TableData(table=plain, columns=find_columns(plain, columns or {}), name="staff.csv", license="CC0-1.0"),
        event_folder=folder / "events",
    )
    trained = open_trainer(family).train(request, place or MemoryPlace(), stop=stop or threading.Event(), signs=signs)
    home = folder / "staff" / "01V"
    home.mkdir(parents=True, exist_ok=True)
    for name, content in trained.files.items():
        (home / name).write_bytes(content)
    return trained
