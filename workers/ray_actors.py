"""Actors on Ray, for `workers.pool`: how they are started, asked and ended.

An actor belongs to the worker that started it and dies with it: a worker that is started again loads its models
again, and nothing is left behind that nobody asks for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import msgspec
import psutil
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from models.backends.vllm_environment import engine_environment
from models.errors import FailureKind, ModelError
from models.spec import ModelInfo
from workers.actor import Exchange, Loaded, ModelActor
from workers.contracts import ShardTask, encode
from workers.execute import Outcome, Progress
from workers.pool import ActorLostError
from workers.settings import Settings

logger = logging.getLogger(__name__)
EXCHANGE_SECONDS = 1.0
"""An actor that does not answer a beat for so long is passed over; its answer is looked for at the next."""
END_SECONDS = 5.0
MAX_CALLS = 1000
"""Calls that an actor takes at once: shards, and one beat a worker."""


class RayStarter:
    """Starts model actors on this worker's own node.

    Args:
        settings: the worker's.
        gpus: GPUs of this node.
    """

    def __init__(self, settings: Settings, *, gpus: int) -> None:
        self._settings = settings
        self._gpus = gpus
        self._node = ray.get_runtime_context().get_node_id()

    def start(self, *, needs_place: bool) -> RayActor:
        """A fresh actor, on a GPU of its own where it needs one."""
        # Threads, allocator and preloads must be there before the process starts. An actor without any of its own can
        # be one of the processes that Ray keeps ready, which saves it two seconds.
        environment = {"env_vars": engine_environment()} if needs_place else None
        remote = ray.remote(ModelActor).options(
            num_cpus=0,
            num_gpus=1 if needs_place and self._gpus else 0,
            max_concurrency=MAX_CALLS,
            max_restarts=0,
            runtime_env=environment,
            scheduling_strategy=NodeAffinitySchedulingStrategy(self._node, soft=False),
        )
        credentials = self._settings.credential_files
        handle = remote.remote(
            self._settings.object_store_url,
            str(self._settings.cache_dir),
            self._settings.lease_seconds,
            self._settings.hang_seconds,
            None if credentials is None else (credentials.certificate, credentials.key),
        )
        return RayActor(handle, hang_seconds=self._settings.hang_seconds)


class RayActor:
    """A handle on one `ModelActor`, in plain types.

    An actor finds by itself that its engine hangs. One that does not even answer for `hang_seconds` is killed.
    """

    def __init__(self, handle: ActorHandle, *, hang_seconds: float) -> None:
        self._handle = handle
        self._hang_seconds = hang_seconds
        self._beat: ray.ObjectRef[str] | None = None
        self._asked_at = 0.0
        self._children: tuple[tuple[int, float], ...] = ()

    def prewarm(self, module: str) -> None:
        """Let the actor import an engine; does not wait for it."""
        self._handle.prewarm.remote(module)

    def load(self, model: str, engine: str) -> ModelInfo:
        """Load a model."""
        loaded = msgspec.json.decode(self._ask(self._handle.load.remote(model, engine)), type=Loaded)
        if loaded.failure is not None:
            raise ModelError(loaded.failure.kind, loaded.failure.code, loaded.failure.message)
        if loaded.info is None:
            raise ModelError(FailureKind.ENGINE, "internal_error", "the actor said nothing of the model it loaded")
        self._children = loaded.info.child_pids
        return loaded.info

    def run(self, task: ShardTask, execution: str) -> Outcome:
        """Run a shard to its end."""
        return msgspec.json.decode(self._ask(self._handle.run.remote(encode(task), execution)), type=Outcome)

    def exchange(self, granted: Sequence[str], stops: Mapping[str, str]) -> Mapping[str, Progress]:
        """One beat; empty where the actor is too busy to answer at once."""
        if self._beat is None:
            message = msgspec.json.encode(Exchange(tuple(granted), dict(stops))).decode()
            self._beat, self._asked_at = self._handle.exchange.remote(message), time.monotonic()
        answered, _ = ray.wait([self._beat], timeout=EXCHANGE_SECONDS)
        if not answered:
            if time.monotonic() - self._asked_at > self._hang_seconds:
                ray.kill(self._handle)
                raise ActorLostError(f"the actor did not answer for {self._hang_seconds:g} s and was killed")
            return {}
        beat, self._beat = self._beat, None
        return msgspec.json.decode(self._ask(beat), type=dict[str, Progress])

    def end(self) -> None:
        """End the process, and whatever its engine started: those outlive an actor that is killed."""
        try:
            ray.get(self._handle.close.remote(), timeout=END_SECONDS)
        except RayError as error:
            logger.info("an actor did not close by itself: %s", str(error).splitlines()[0])
        ray.kill(self._handle)
        end_processes(self._children)

    def _ask(self, reference: ray.ObjectRef[str]) -> str:
        try:
            answer: str = ray.get(reference)
        except RayActorError as error:
            raise ActorLostError(f"the actor that held the model died: {str(error).splitlines()[0]}") from error
        except RayError as error:
            raise ActorLostError(f"the actor that holds the model did not answer: {error}") from error
        return answer


def end_processes(children: Sequence[tuple[int, float]]) -> None:
    """Kill processes known by id and start time; an id that was given to another process since is left alone."""
    for pid, started in children:
        try:
            process = psutil.Process(pid)
            if abs(process.create_time() - started) < 1.0:
                process.kill()
        except psutil.NoSuchProcess:
            continue
