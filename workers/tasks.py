"""The generation worker: a Celery worker whose tasks are shells around calls to Ray actors.

Run as `python -m workers.tasks`. It connects to Ray by address and never starts a Ray of its own.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from celery import Celery, Task, signals
from celery.platforms import SecurityWarning

from models import catalog
from models.errors import FailureKind, ModelError
from workers.broker import Hints, Publisher, TakeOneForOne, make_celery
from workers.content_credentials import ContentCredentials, CredentialsError
from workers.contracts import (
    GENERATE_QUEUE,
    RUN_SHARD_TASK,
    ContractError,
    Failure,
    ShardTask,
    Timings,
    UnknownVersionError,
    decode,
)
from workers.deaf import QueueWatch
from workers.engines import engine_of, needs_place
from workers.execute import Outcome, Progress
from workers.leases import Lease, LeaseKeeper
from workers.pool import ActorLostError, ActorPool, NoLongerWantedError
from workers.ray_actors import RayStarter
from workers.settings import Settings, SettingsError, load_settings
from workers.unread import Unread

logger = logging.getLogger(__name__)
RAYLET_SECONDS = 1.0
"""How often a worker looks whether its Ray node is still there."""
FLUSH_SECONDS = 5.0
"""How long a worker that was told to stop waits for its last reports to be acknowledged."""


def read_shard(text: str, unread: Unread, *, returns: int) -> ShardTask | None:
    """A shard's message, or None where it cannot be read: one of an unknown version is put back for somebody else."""
    try:
        return decode(text, ShardTask)
    except UnknownVersionError as error:
        logger.info("a shard is put back: %s", error)
        unread.keep((text,), returns)
    except ContractError as error:
        # It stays dispatched in SQL, and is offered again.
        logger.warning("a shard was not taken: %s", error)
    return None


def run_shard(task: ShardTask, keeper: LeaseKeeper, pool: ActorPool, clock: Callable[[], float]) -> None:
    """One execution, from its lease to its last report."""
    lease = keeper.open(task)
    if lease is None:
        logger.info("shard %s/%s attempt %s came twice; it runs already", task.job, task.shard, task.token)
        return
    picked_up = clock()
    loaded = picked_up
    try:
        engine = engine_of(task.work)
        alone = task.alone or task.work.train is not None  # two trainings in one process would halve each other
        with pool.lend(task.work.model, engine, alone=alone, wanted=lambda: lease.stopped is None) as actor:
            loaded = clock()
            keeper.hurry()
            outcome = actor.run(task, lease.execution)
            if outcome.failure is not None and outcome.failure.kind is FailureKind.ENGINE:
                pool.retire(actor)
    except NoLongerWantedError:
        lease.hand_back(lease.progress)
    except ActorLostError as error:
        lease.fail(Failure(FailureKind.ENGINE, "actor_lost", str(error)), lease.progress)
    except ModelError as error:
        lease.fail(Failure(error.kind, error.code, error.message), lease.progress)
    else:
        _end(lease, outcome, waited=loaded - picked_up)


def _end(lease: Lease, outcome: Outcome, *, waited: float) -> None:
    progress = outcome.progress
    timings = progress.timings
    progress = Progress(
        progress.phase,
        progress.counts,
        progress.usage,
        Timings(timings.load + waited, timings.read, timings.generate, timings.write),
        progress.training,
    )
    if outcome.failure is not None:
        lease.fail(outcome.failure, progress, outcome.part)
    elif outcome.stopped is not None:
        lease.hand_back(progress, outcome.part)
    elif outcome.part is not None:
        lease.finish(outcome.part, progress)
    else:
        raise AssertionError("an execution ended neither with a part nor with a reason")


class GenerationWorker:
    """Everything that one worker process holds, and its life."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._publisher = Publisher(settings.redis_url)
        self._hints = Hints(settings.redis_url)
        self._unread = Unread(self._publisher.put_back_shard)
        self._connect()
        node = _node()
        self._raylet = Path(node["RayletSocketName"])
        self._pool = self._start_pool(int(node["Resources"].get("GPU", 0)))
        self._keeper = LeaseKeeper(
            worker=f"{socket.gethostname()}:{os.getpid()}",
            reports=self._publisher,
            answers=self._hints,
            exchange=self._pool.exchange,
            lease_seconds=settings.lease_seconds,
            clock=time.monotonic,
        )
        self._stopping = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="leases", daemon=True)
        self._watch = threading.Thread(target=self._watch_node, name="ray-node", daemon=True)

    def celery(self) -> Celery:
        """The Celery app with this worker's task."""
        app = make_celery(self._settings.redis_url, name="nightmill-worker")
        app.steps["worker"].add(TakeOneForOne)

        @app.task(name=RUN_SHARD_TASK, ignore_result=True, bind=True)  # type: ignore[untyped-decorator] # celery has no types
        def task(this: Task, text: str) -> None:
            shard = read_shard(text, self._unread, returns=this.request.retries)
            if shard is not None and not self._stopping.is_set():
                run_shard(shard, self._keeper, self._pool, time.monotonic)

        return app

    def run(self) -> None:
        """Work until told to stop, then hand back what is in flight."""
        app = self.celery()
        signals.worker_shutting_down.connect(self._stop, weak=False)
        self._heart.start()
        self._unread.start()
        self._watch.start()
        QueueWatch(self._hints.waiting_shards, places=self._settings.shards_at_once, end=self._end_deaf).start()
        try:
            app.worker_main(
                [
                    "--quiet",
                    "worker",
                    "--pool=threads",
                    f"--concurrency={self._settings.shards_at_once}",
                    f"--queues={GENERATE_QUEUE}",
                    f"--hostname=generate-{os.getpid()}@%h",
                    "--without-gossip",
                    "--without-mingle",
                    "--without-heartbeat",
                    "--loglevel=WARNING",
                ]
            )
        finally:
            self._stop()
            self._unread.close()
            self._flush()
            self._pool.close()
            self._publisher.close()
            self._hints.close()
            ray.shutdown()

    def _connect(self) -> None:
        ray.init(
            address=self._settings.ray_address,
            namespace="nightmill",
            log_to_driver=False,
            logging_level=logging.WARNING,
            configure_logging=False,
        )

    def _start_pool(self, gpus: int) -> ActorPool:
        starter = RayStarter(self._settings, gpus=gpus)
        spare = None
        if self._settings.prewarm and "vllm" in catalog.installed_engines():
            spare = starter.start(needs_place=True)
            spare.prewarm("models.backends.vllm")
        return ActorPool(
            starter,
            places=gpus or 1,
            cores=os.cpu_count() or 1,
            needs_place=needs_place,
            clock=time.monotonic,
            spare=spare,
        )

    def _beat(self) -> None:
        while True:
            self._keeper.wait()
            self._keeper.beat()

    def _watch_node(self) -> None:
        """End this process with its Ray node: a driver that has lost it gets no answer any more, nor an error."""
        while not self._stopping.wait(RAYLET_SECONDS):
            if not _accepts(self._raylet):
                logger.error("this worker's Ray node is gone; the worker ends, and has to be started again")
                os._exit(1)  # an orderly end would wait for Ray

    def _end_deaf(self) -> None:
        """Hand back what is in flight, and end without Celery, which waits for what does not come."""
        if self._stopping.is_set():
            return  # it takes nothing because it is ending
        self._stop()
        self._flush()
        os._exit(1)

    def _stop(self, **_: object) -> None:
        self._stopping.set()
        self._keeper.stop_all("its worker is stopping")

    def _flush(self) -> None:
        deadline = time.monotonic() + FLUSH_SECONDS
        while not self._keeper.idle and time.monotonic() < deadline:
            time.sleep(0.05)


def _node() -> dict[str, Any]:  # Ray has no type for it
    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == here:
            return dict(node)
    raise RuntimeError(f"Ray does not list the node {here}, to which this worker is connected")


def _accepts(path: Path) -> bool:
    """Whether something listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def main() -> None:
    """Entry point of the generation worker."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Containers run as root. What celery warns of is pickle from the network, and this worker accepts JSON alone.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    try:
        settings = load_settings(Settings)
        if settings.credential_files is not None:
            ContentCredentials(settings.credential_files)  # said at once, and not by the first image
    except (SettingsError, CredentialsError) as error:
        sys.exit(f"nightmill worker: {error}")
    if not settings.ray_address:
        sys.exit("nightmill worker: NIGHTMILL_RAY_ADDRESS is not set; workers connect to Ray and never start one")
    GenerationWorker(settings).run()


if __name__ == "__main__":
    main()
