"""The Ray actor that holds one model. A shell: what it does to a shard is `workers.execute`.

Nothing crosses to it or back but JSON text and plain numbers.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from functools import cache, partial
from pathlib import Path

import msgspec

from models.errors import FailureKind, ModelError
from models.safety import open_safety
from models.spec import ModelInfo
from models.text_classifiers import TextClassifiers
from workers.content_credentials import ContentCredentials, CredentialsError
from workers.contracts import Failure, ShardTask, decode
from workers.engines import AnyBackend, open_engine
from workers.execute import Execution, Outcome
from workers.screening import Screen
from workers.settings import CredentialFiles
from workers.sources import SourceError
from workers.store import ChangedObjectError, StoreError, open_store

logger = logging.getLogger(__name__)
WATCH_SECONDS = 1.0


class Exchange(msgspec.Struct, frozen=True):
    """What a worker tells its actor at every beat: executions that were granted, and those to stop, with the reason."""

    granted: tuple[str, ...] = ()
    stops: dict[str, str] = {}


class Loaded(msgspec.Struct, frozen=True):
    """How loading a model ended: with the model, or with the reason why not."""

    info: ModelInfo | None = None
    failure: Failure | None = None


class ModelActor:
    """One model in one process, running many shards side by side.

    Args:
        store_url: the object store.
        cache_dir: where weights that were converted are kept.
        lease_seconds: without a beat of its worker for this long, it stops all shards: nobody waits for them.
        hang_seconds: an engine that shows no sign of work for this long is taken to hang, and its shards fail.
        credentials: the files of a certificate and its key, where images are signed.
    """

    def __init__(
        self,
        store_url: str,
        cache_dir: str,
        lease_seconds: float,
        hang_seconds: float,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._store = open_store(store_url)
        self._cache_dir = Path(cache_dir)
        self._screen = Screen(partial(open_safety, self._cache_dir))
        self._classifiers = TextClassifiers()
        # Opened by the first image: most actors hold models of text.
        self._credentials = credentials and cache(partial(ContentCredentials, CredentialFiles(*credentials)))
        self._lease_seconds = lease_seconds
        self._hang_seconds = hang_seconds
        self._backend: AnyBackend | None = None
        self._info: ModelInfo | None = None
        self._executions: dict[str, Execution] = {}
        self._tasks: dict[str, asyncio.Task[Outcome]] = {}
        self._stops: dict[str, str] = {}
        self._hang: Failure | None = None
        """Why no shard that is given to this actor can end."""
        self._heard = time.monotonic()
        self._watch: asyncio.Task[None] | None = None

    async def prewarm(self, module: str) -> None:
        """Import an engine ahead of its first model, which is most of the time that loading takes."""
        await asyncio.to_thread(lambda: importlib.import_module(module).prewarm())

    async def load(self, model: str, engine: str) -> str:
        """Load a model; returns how that ended, `Loaded`, as JSON."""
        try:
            self._backend = await asyncio.to_thread(open_engine, model, engine, self._cache_dir, self._store)
            self._info = msgspec.structs.replace(await self._backend.load(), model=model)
        except ModelError as error:
            return _json(Loaded(failure=Failure(error.kind, error.code, error.message)))
        except StoreError as error:
            # The weights of a trained model could not be fetched: another try may help.
            return _json(Loaded(failure=Failure(FailureKind.ENGINE, "store_error", str(error))))
        self._watch = asyncio.get_running_loop().create_task(self._keep_watch(self._backend))
        return _json(Loaded(info=self._info))

    async def run(self, task: str, execution: str) -> str:
        """Run a shard; returns its Outcome as JSON."""
        if self._backend is None or self._info is None:
            raise RuntimeError("load a model first")
        self._heard = time.monotonic()
        run = Execution(
            decode(task, ShardTask),
            execution,
            self._store,
            screen=self._screen,
            credentials=self._credentials,
            cache_dir=self._cache_dir,
            classifiers=self._classifiers,
        )
        self._executions[execution] = run
        work = asyncio.get_running_loop().create_task(self._outcome(run, self._backend, self._info))
        self._tasks[execution] = work
        try:
            return _json(await work)
        except asyncio.CancelledError:
            if execution not in self._stops:
                raise
            kept = await run.salvage()
            if self._hang is not None:
                return _json(Outcome(progress=run.progress(), part=kept, failure=self._hang))
            return _json(Outcome(progress=run.progress(), part=kept, stopped=self._stops[execution]))
        finally:
            del self._tasks[execution], self._executions[execution]
            self._stops.pop(execution, None)

    async def exchange(self, message: str) -> str:
        """One beat: take grants and stops; returns the progress of every execution as JSON."""
        self._heard = time.monotonic()
        told = msgspec.json.decode(message, type=Exchange)
        for execution in told.granted:
            if execution in self._executions:
                self._executions[execution].granted.set()
        for execution, reason in told.stops.items():
            self._stop(execution, reason)
        return _json({execution: run.progress() for execution, run in self._executions.items()})

    async def close(self) -> None:
        """Stop everything, and end the engine with its processes."""
        if self._watch is not None:
            self._watch.cancel()
        for execution in list(self._tasks):
            self._stop(execution, "the model is being unloaded")
        if self._backend is not None:
            await self._backend.close()

    def _stop(self, execution: str, reason: str) -> None:
        task = self._tasks.get(execution)
        if task is not None and execution not in self._stops:
            self._stops[execution] = reason
            task.cancel()

    async def _outcome(self, run: Execution, backend: AnyBackend, info: ModelInfo) -> Outcome:
        failure: Failure
        try:
            part = await run.run(backend, info)
        except ModelError as error:
            failure = Failure(error.kind, error.code, error.message)
        except (ChangedObjectError, SourceError) as error:
            # What was planned is no longer there: no shard of this job can be done as it was promised.
            failure = Failure(FailureKind.MODEL, "source_changed", str(error))
        except StoreError as error:
            failure = Failure(FailureKind.PLATFORM, "store_error", str(error))
        except CredentialsError as error:
            # The operator's to mend: until then nothing is stored unsigned.
            failure = Failure(FailureKind.PLATFORM, "not_signed", str(error))
        except Exception as error:
            # A defect of ours must cost this shard its bounded tries, not every shard of the actor its process.
            logger.exception("shard %s/%s", run.task.job, run.task.shard)
            failure = Failure(FailureKind.ENGINE, "internal_error", f"{type(error).__name__}: {error}")
        else:
            return Outcome(progress=run.progress(), part=part)
        return Outcome(progress=run.progress(), part=await run.salvage(), failure=failure)

    async def _keep_watch(self, backend: AnyBackend) -> None:
        while True:
            await asyncio.sleep(min(WATCH_SECONDS, self._hang_seconds / 4))
            why = None
            if time.monotonic() - self._heard > self._lease_seconds:
                why = "its worker no longer asks for it"
            quiet = backend.quiet_seconds()
            if quiet > self._hang_seconds:
                why = f"the engine made no step for {quiet:.0f} s"
                self._hang = Failure(FailureKind.ENGINE, "engine_hung", why)
            if why is not None:
                for execution in list(self._tasks):
                    self._stop(execution, why)


def _json(message: object) -> str:
    return msgspec.json.encode(message).decode()
