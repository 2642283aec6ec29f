"""The back-end that samples tables, in a thread of this process: one request at a time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pyarrow as pa

from models.backends.training import Signs
from models.errors import FailureKind, ModelError
from models.spec import ModelInfo
from models.tabular.engine import TableModel, TableRequest
from models.tabular.families import open_table_model
from models.tabular.saved import read_config


class ThreadTabularBackend:
    """A `TabularBackend` (see there).

    Args:
        name: The model's, as a job names it.
        folder: Where its files are.
        revision: Of the files; by default that of the folder's place says nothing, so `none`.
    """

    def __init__(self, name: str, folder: Path, *, revision: str = "none") -> None:
        self._name = name
        self._folder = folder
        self._revision = revision
        self._model: TableModel | None = None
        self._turn = asyncio.Lock()
        self._signs: Signs | None = None

    async def load(self) -> ModelInfo:
        """See `TabularBackend`."""
        started = time.monotonic()
        try:
            self._model = await asyncio.to_thread(open_table_model, self._folder)
        except ImportError as error:
            raise ModelError(FailureKind.MODEL, "engine_not_installed", f"tables cannot be made: {error}") from error
        return ModelInfo(
            model=self._name,
            revision=self._revision,
            engine=read_config(self._folder).family,
            context_length=0,
            reproducible="exact",
            shards_in_flight=1,
            load_seconds=time.monotonic() - started,
        )

    async def sample(self, request: TableRequest) -> pa.Table:
        """See `TabularBackend`."""
        model = self._model
        if model is None:
            raise AssertionError("a back-end is loaded before it is used")
        async with self._turn:
            signs = self._signs = Signs()

            def run() -> pa.Table:
                signs.begin()
                return model.sample(request)

            sampling = asyncio.get_running_loop().run_in_executor(None, run)
            try:
                return await asyncio.shield(sampling)
            except asyncio.CancelledError:
                # The next request waits for its end, since both would draw from the same generators.
                await asyncio.wait([sampling])
                if not sampling.cancelled():
                    sampling.exception()
                raise
            finally:
                self._signs = None

    def quiet_seconds(self) -> float:
        """See `TabularBackend`: the processor time of its thread is the sign."""
        signs = self._signs
        return 0.0 if signs is None else signs.quiet_seconds()

    async def close(self) -> None:
        """Forget the model."""
        self._model = None
