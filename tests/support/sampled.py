"""A model of tables that needs no fitting: its rows are drawn from few values, so that rules are soon broken."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.spec import ModelInfo
from models.tabular.columns import Column
from models.tabular.engine import TableRequest
from models.tabular.saved import Linked
from workers.store import ObjectStore
from workers.trained_models import TrainedModel, publish

COLUMNS = (
    Column(name="key", kind="id", type="int64"),
    Column(name="age", kind="integer", type="int64"),
    Column(name="city", kind="categorical", type="string"),
    Column(name="zip", kind="categorical", type="int64"),
)
CITIES = ("Graz", "Linz", "Wels")
VERSION = "01SAMPLED"


def publish_sampled(
    store: ObjectStore, name: str = "people", columns: tuple[Column, ...] = COLUMNS, linked: Linked | None = None
) -> str:
    """Make the model one that jobs can name; returns its name and version."""
    model = TrainedModel(
        name=name,
        version=VERSION,
        family="tabular-argn",
        width=0,
        height=0,
        channels=0,
        classes=(),
        trained_at=0.0,
        source="nobody",
        license="CC0-1.0",
        images=0,
        rows=100,
        step=1,
        finished=True,
        losses={},
        seconds=0.0,
        files=(),
        columns=columns,
        linked=linked,
    )
    publish(store, model)
    return model.id


class Sampled:
    """A `TabularBackend`. A row is a function of its request's seed and its place in it."""

    linked: Linked | None = None

    def __init__(self, ages: int = 80, zips: int = 40) -> None:
        self._ages = ages
        self._zips = zips
        self.requests: list[TableRequest] = []

    async def load(self) -> ModelInfo:
        return ModelInfo(
            model="people",
            revision="sha256:0",
            engine="sampled",
            context_length=0,
            reproducible="exact",
            shards_in_flight=1,
        )

    async def sample(self, request: TableRequest) -> pa.Table:
        self.requests.append(request)
        chance = np.random.default_rng(request.seed)
        return pa.table(
            {
                "key": np.arange(request.first, request.first + request.rows),
                "age": chance.integers(0, self._ages, request.rows),
                "city": pa.array([CITIES[each] for each in chance.integers(0, 3, request.rows)]),
                "zip": chance.integers(0, self._zips, request.rows),
            }
        )

    def quiet_seconds(self) -> float:
        return 0.0

    async def close(self) -> None:
        return None
