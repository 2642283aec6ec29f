"""Actors on Ray, for `workers.pool`: how they are started, asked and ended.

An actor belongs to the worker that started it and dies with it: a worker that is started again loads its models
again, and nothing is left behind that nobody asks for.
"""

from __future__ import annotations

import logging
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
EXCHANGE_SECONDS = 10.0
"""An actor that does not answer a beat for so long is passed over until the next."""
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
        handle = remote.remote(
            self._settings.object_store_url, str(self._settings.cache_dir), self._settings.lease_seconds
        )
        return RayActor(handle)


class RayActor:
    """A handle on one `ModelActor`, in plain types."""

    def __init__(self, handle: ActorHandle) -> None:
        self._handle = handle
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
        """One beat."""
        message = msgspec.json.encode(Exchange(tuple(granted), dict(stops))).decode()
        answer = self._ask(self._handle.exchange.remote(message), seconds=EXCHANGE_SECONDS)
        return msgspec.json.decode(answer, type=dict[str, Progress])

    def end(self) -> None:
        """End the process, and whatever its engine started: those outlive an actor that is killed."""
        try:
            ray.get(self._handle.close.remote(), timeout=END_SECONDS)
        except RayError as error:
            logger.info("an actor did not close by itself: %s", str(error).splitlines()[0])
        ray.kill(self._handle)
        end_processes(self._children)

    def _ask(self, reference: ray.ObjectRef[str], *, seconds: float | None = None) -> str:
        try:
            answer: str = ray.get(reference, timeout=seconds)
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
