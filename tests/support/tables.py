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
from models.training_run import ParentTable, SavedState, TableData, TrainedFiles, TrainingNews, TrainingRequest


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


def shops(count: int) -> pa.Table:
    """Shops: a large one orders more often, and for more money. A small one may not order at all."""
    generator = np.random.default_rng(9)
    return pa.table(
        {
            "shop": [f"S-{number}" for number in range(count)],
            "size": generator.choice(["small", "large"], count).tolist(),
            "staff": generator.integers(2, 60, count).tolist(),
        }
    )


def orders(parents: pa.Table) -> pa.Table:
    """The orders of shops, in no order: each is later, and has a higher number, than those of its shop before it."""
    generator = np.random.default_rng(3)
    rows = []
    for shop, size in zip(parents["shop"].to_pylist(), parents["size"].to_pylist(), strict=True):
        day = dt.date(2024, 1, 1)
        for _ in range(generator.integers(4, 7) if size == "large" else generator.integers(0, 3)):
            day += dt.timedelta(days=int(generator.integers(5, 40)))
            amount = float(round(generator.normal(900 if size == "large" else 100, 10), 2))
            rows.append({"shop": shop, "day": day, "amount": amount, "express": bool(generator.random() < 0.3)})
    numbered = [{"order_id": 100 + number, **row} for number, row in enumerate(rows)]
    return pa.Table.from_pylist([numbered[place] for place in generator.permutation(len(numbered))])


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


def parent_table(table: pa.Table) -> ParentTable:
    """A table of subjects, by its first column."""
    plain = plain_table(table)
    key = plain.column_names[0]
    return ParentTable(table=plain, columns=find_columns(plain, {key: "id"}), key=key)


def fit(
    table: pa.Table,
    folder: Path,
    *,
    family: FamilyName = "tabular-argn",
    options: dict[str, Any] | None = None,
    place: MemoryPlace | None = None,
    stop: threading.Event | None = None,
    columns: dict[str, str] | None = None,
    foreign_key: str | None = None,
    order_by: str | None = None,
    parent: pa.Table | None = None,
    **settings: Any,
) -> TrainedFiles:
    """Fit a model; its files are left in a folder. The first column of `parent` is its key."""
    import_engine("models.tabular.argn_training")  # as the back-end does: collecting garbage is quick after it
    plain = plain_table(table)
    signs = Signs()
    signs.begin()
    request = TrainingRequest(
        model="staff",
        settings=TrainingSettings(family=family, options=options or {}, **{"seed": 7, **settings}),
        data=TableData(
            table=plain,
            columns=find_columns(plain, {**(columns or {}), **({foreign_key: "id"} if foreign_key else {})}),
            name="staff.csv",
            license="CC0-1.0",
            foreign_key=foreign_key,
            order_by=order_by,
            parent=None if parent is None else parent_table(parent),
        ),
        event_folder=folder / "events",
    )
    trained = open_trainer(family).train(request, place or MemoryPlace(), stop=stop or threading.Event(), signs=signs)
    home = folder / "staff" / "01V"
    home.mkdir(parents=True, exist_ok=True)
    for name, content in trained.files.items():
        (home / name).write_bytes(content)
    return trained
