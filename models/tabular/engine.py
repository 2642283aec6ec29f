"""What every engine of tables speaks: one side fits a model to a table, the other samples rows from it.

A sample is a function of the model and its request, and of nothing else: neither what was sampled before nor the
process changes a bit of it. So a dataset is made of blocks that own their seeds, in whatever order and wherever.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final, Protocol

import msgspec
import pyarrow as pa
from pydantic import JsonValue

from models.backends.training import Signs
from models.spec import ModelInfo
from models.tabular.columns import Column
from models.tabular.saved import Linked
from models.training_run import TrainedFiles, TrainingPlace, TrainingRequest

MODEL_TYPE: Final = "nightmill-table"
"""In a model's config.json, as `model_type`; beside it are `family` and `columns`."""


class TableRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rows that are asked of a model."""

    rows: int
    """Of a linked model: subjects."""
    seed: int
    first: int = 0
    """Number of the first row (subject) in the dataset: keys (`id`) are made of it, so that no two blocks share one."""
    where: Mapping[str, JsonValue] = {}
    """Values by column that every row has; null is a missing one."""
    rebalance: Mapping[str, Mapping[str, float]] = {}
    """By categorical column, the share (0 to 1) of some of its values, written as texts; the others keep the rest."""
    impute: tuple[str, ...] = ()
    """Columns in which no value is missing."""
    temperature: float = 1.0
    """Below 1, what is frequent becomes more so."""
    context: pa.Table | None = None
    """Of a linked model: the subjects, a row each, with their key and all of the parent's columns. A model without a
    parent takes one with keys alone, or none, and makes keys of its own."""


class TableModel(Protocol):
    """A fitted model. It may seed global state: one call at a time in a process."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of the source, in its order."""
        ...

    @property
    def linked(self) -> Linked | None:
        """Of a model whose rows belong to subjects."""
        ...

    def sample(self, request: TableRequest) -> pa.Table:
        """Exactly `rows` rows, with the columns and types of the source (`columns.table_schema`).

        Of a linked model: all rows of so many subjects, in the subjects' order; of each, from none to `longest`.

        Raises:
            ModelError: kind MODEL, code `table_request_invalid`: a column or a value that the model does not know;
                code `condition_unreachable`: no rows as `where` has them came up.
        """
        ...


class TableTrainer(Protocol):
    """Fits models of one family."""

    def train(
        self, request: TrainingRequest, place: TrainingPlace, *, stop: threading.Event, signs: Signs
    ) -> TrainedFiles:
        """Fit a model to `request.data`, a `TableData`, from the latest checkpoint of `place` on, in this thread.

        Ends early where the time (`settings.minutes`, that of earlier executions included) is up, or the loss on rows
        that it keeps apart falls no more. The files are safetensors, JSON, and README.md, the card.

        Raises:
            ModelError: kind MODEL: the table cannot be learned from, or the training diverged.
            TrainingStoppedError: `stop` was set before the end; the last checkpoint stays.
        """
        ...


class TabularBackend(Protocol):
    """A fitted model as an actor holds it: one request at a time."""

    async def load(self) -> ModelInfo:
        """Load the weights; called once, before anything else.

        Raises:
            ModelError: kind MODEL where the model can never be loaded here, ENGINE where another try may help.
        """
        ...

    @property
    def linked(self) -> Linked | None:
        """As `TableModel.linked`, of a model that is loaded."""
        ...

    async def sample(self, request: TableRequest) -> pa.Table:
        """As `TableModel.sample`; calls at the same time wait for each other."""
        ...

    def quiet_seconds(self) -> float:
        """For how long it has had a request and shown no sign of working on it; 0 where it has none."""
        ...

    async def close(self) -> None:
        """Give back what it holds. May be called more than once."""
        ...
