"""Customers and their orders: tables that are linked, and a model of sequences that needs no fitting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from models.spec import ModelInfo
from models.tabular.columns import Column
from models.tabular.engine import TableRequest
from models.tabular.saved import Linked
from tests.support.sampled import COLUMNS, publish_sampled
from workers.store import ObjectStore

LONGEST = 4
ORDERS = (
    Column(name="order", kind="id", type="int64"),
    Column(name="person", kind="id", type="int64"),
    Column(name="city", kind="categorical", type="string"),
    Column(name="amount", kind="integer", type="int64"),
)
OF_PEOPLE = Linked(
    foreign_key="person",
    parent_key="key",
    parent_columns=tuple(column for column in COLUMNS if column.name in {"key", "city"}),
    longest=LONGEST,
)
ALONE = Linked(foreign_key="person", parent_key=None, longest=LONGEST)
LINES = (
    Column(name="line", kind="id", type="int64"),
    Column(name="order", kind="id", type="int64"),
    Column(name="amount", kind="integer", type="int64"),
)
OF_ORDERS = Linked(foreign_key="order", parent_key="order", parent_columns=(ORDERS[3],), longest=LONGEST)


def publish_orders(store: ObjectStore) -> None:
    """Make models of sequences ones that jobs can name: of people's orders, of orders alone, and of orders' lines."""
    publish_sampled(store, "orders", ORDERS, OF_PEOPLE)
    publish_sampled(store, "visits", ORDERS, ALONE)
    publish_sampled(store, "lines", LINES, OF_ORDERS)


class Sequences:
    """A linked `TabularBackend`. A subject has up to `LONGEST` rows; its parent's columns are copied into them.

    Args:
        linked: How rows belong to subjects.
        columns: Of a row: its own key first, and of them the parent's where it has some of the same name.
        amounts: Amounts are below this.
        longest: Rows of a subject at most.
    """

    def __init__(self, linked: Linked, columns: tuple[Column, ...], amounts: int = 100, longest: int = LONGEST) -> None:
        self.linked = linked
        self._columns = columns
        self._amounts = amounts
        self._longest = longest
        self.requests: list[TableRequest] = []

    async def load(self) -> ModelInfo:
        return ModelInfo(
            model="orders",
            revision="sha256:1",
            engine="sequences",
            context_length=0,
            reproducible="exact",
            shards_in_flight=1,
        )

    async def sample(self, request: TableRequest) -> pa.Table:
        self.requests.append(request)
        linked, chance = self.linked, np.random.default_rng(request.seed)
        lengths = chance.integers(0, self._longest + 1, request.rows)
        subject = np.repeat(np.arange(request.rows), lengths)
        step = np.concatenate([np.arange(length) for length in lengths]) if request.rows else lengths
        context = request.context
        keys: Any = np.arange(request.first, request.first + request.rows)
        if context is not None:
            assert context.num_rows == request.rows
            keys = context[linked.key].to_numpy()
        made: dict[str, Any] = {
            self._columns[0].name: (request.first + subject) * linked.longest + step,
            linked.foreign_key: keys[subject],
        }
        if context is not None and "city" in context.column_names:
            made["city"] = context["city"].take(pa.array(subject, pa.int64()))
        elif any(column.name == "city" for column in self._columns):
            made["city"] = pa.array(["Wien"] * len(subject), pa.string())
        made["amount"] = chance.integers(0, self._amounts, len(subject))
        return pa.table({column.name: made[column.name] for column in self._columns})

    def quiet_seconds(self) -> float:
        return 0.0

    async def close(self) -> None:
        return None
