"""The back-end that samples tables, in a thread of this process: one request at a time."""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path

import pyarrow as pa

from models.backends.sequences import import_engine
from models.backends.training import Signs
from models.errors import FailureKind, ModelError
from models.spec import ModelInfo
from models.tabular.engine import TableModel, TableRequest
from models.tabular.families import engine_module, open_table_model
from models.tabular.saved import Linked, read_config


class ThreadTabularBackend:
    """A `TabularBackend` (see there).

    Args:
        folder: Where the model's files are, `…/NAME/VERSION`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model: TableModel | None = None
        self._turn = asyncio.Lock()
        self._signs: Signs | None = None

    async def load(self) -> ModelInfo:
        """See `TabularBackend`."""
        started = time.monotonic()
        try:
            self._model = await asyncio.to_thread(self._open)
        except ImportError as error:
            raise ModelError(FailureKind.MODEL, "engine_not_installed", f"tables cannot be made: {error}") from error
        return ModelInfo(
            model=f"{self._folder.parent.name}@{self._folder.name}",
            revision=folder_digest(self._folder),
            engine=read_config(self._folder).family,
            context_length=0,
            reproducible="exact",
            shards_in_flight=1,
            load_seconds=time.monotonic() - started,
        )

    @property
    def linked(self) -> Linked | None:
        """See `TabularBackend`."""
        return self._loaded().linked

    def _loaded(self) -> TableModel:
        if self._model is None:
            raise AssertionError("a back-end is loaded before it is used")
        return self._model

    def _open(self) -> TableModel:
        import_engine(engine_module(read_config(self._folder).family))
        return open_table_model(self._folder)

    async def sample(self, request: TableRequest) -> pa.Table:
        """See `TabularBackend`."""
        model = self._loaded()
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


def folder_digest(folder: Path) -> str:
    """What the model in a folder is: `sha256:` of its weights and of what is beside them, the card left out."""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".safetensors"}:
            whole.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return f"sha256:{whole.hexdigest()}"
