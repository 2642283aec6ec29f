"""The scheduler: plans jobs, dispatches shards, judges leases, ends jobs, and tidies up after them.

Run as `python -m orchestrator.scheduler`. Several may run beside each other: all that they do are guarded writes.
Planning has threads of its own, so that a long source holds up nothing else. The loops wait for a wake-up in Redis, and
look by themselves where none comes.
"""

from __future__ import annotations

import logging
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from sqlalchemy import Engine
from ulid import ULID

from orchestrator import database
from orchestrator.chores import Chore
from orchestrator.collector import COLLECT_SECONDS, Collector
from orchestrator.dispatch import Dispatcher
from orchestrator.finalize import Finaliser
from orchestrator.forecasts import Forecaster
from orchestrator.openai.batcher import Batcher
from orchestrator.planner import Planner
from orchestrator.reaper import Reaper
from orchestrator.safety_policy import PolicyError, SafetyPolicy, load_policy
from orchestrator.settings import Settings
from workers.broker import BrokerError, Hints, Publisher
from workers.settings import SettingsError, load_settings
from workers.store import ObjectStore, StoreError, open_store

logger = logging.getLogger(__name__)
PLANNERS = 2
LOOK_SECONDS = 1.0
"""How long the loops wait for a wake-up before they look by themselves."""
END_SECONDS = 0.5
"""How long a planner has to give its job back when the process ends."""


class Scheduler:
    """One scheduler's loops, over connections that its caller owns."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        store: ObjectStore,
        hints: Hints,
        publisher: Publisher,
        policy: SafetyPolicy,
    ) -> None:
        self._hints = hints
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._bells: list[threading.Event] = []
        self._reaper = Reaper(
            str(ULID()),
            engine,
            store,
            publisher,
            waiting_shards=hints.waiting_shards,
            lease_seconds=settings.lease_seconds,
            clock=time.time,
            monotonic=time.monotonic,
            chance=random.Random(),  # noqa: S311 - it spreads backoff, and guards nothing
            policy=policy,
        )
        dispatcher = Dispatcher(
            engine,
            publisher,
            forget_stop=hints.forget_stop,
            window=settings.dispatch_window,
            clock=time.time,
            policy=policy,
        )
        self._chores = [
            Chore("dispatcher", dispatcher.step, clock=time.monotonic),
            Chore("reaper", self._reaper.step, clock=time.monotonic, every=min(1.0, settings.lease_seconds / 10)),
        ]
        # These wait for the store, and must hold up neither dispatch nor each other.
        collector = Collector(
            engine,
            store,
            lease_seconds=settings.lease_seconds,
            retention_days=settings.retention_days,
            clock=time.time,
        )
        self._threads = [
            self._thread("finaliser", Finaliser(engine, store, hints, clock=time.time).step),
            # This one counts shards, of large jobs for a while.
            self._thread("forecaster", Forecaster(engine, clock=time.time).step),
            self._thread("collector", collector.step, every=COLLECT_SECONDS),
            self._thread("batcher", Batcher(engine, store, settings, clock=time.time).step),
        ]
        for number in range(PLANNERS):
            planner = Planner(
                engine, store, wake=self._wake, stop=self._stop, clock=time.time, monotonic=time.monotonic
            )
            self._threads.append(self._thread(f"planner-{number}", planner.step))

    def run(self) -> None:
        """Work until `stop` is called.

        Raises:
            Exception: a bug ended one of the loops, and with it all of them.
        """
        for thread in self._threads:
            thread.start()
        wait = Chore("wake-ups", self._wait, clock=time.monotonic)
        while not self._stop.is_set():
            for bell in self._bells:
                bell.set()
            for chore in self._chores:
                chore.run()
            before = time.monotonic()
            if not wait.run() and time.monotonic() - before < LOOK_SECONDS / 2:
                self._stop.wait(LOOK_SECONDS)  # Redis is away, so it did not wait
        for thread in self._threads:
            thread.join(END_SECONDS)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Let `run` return, within a second."""
        self._stop.set()
        for bell in self._bells:
            bell.set()

    def close(self) -> None:
        """Forget what this scheduler left in SQL for itself."""
        self._reaper.close()

    def _wait(self) -> int:
        return int(self._hints.wait(LOOK_SECONDS))

    def _wake(self) -> None:
        try:
            self._hints.wake()
        except BrokerError as error:
            logger.debug("a wake-up was lost, and the loop looks by itself: %s", error)

    def _thread(self, name: str, step: Callable[[], int], *, every: float = 0.0) -> threading.Thread:
        """A thread for one chore; a bug in it ends the whole scheduler, rather than leave it half alive."""
        bell = threading.Event()
        self._bells.append(bell)
        chore = Chore(name, step, clock=time.monotonic, every=every)

        def loop() -> None:
            try:
                while not self._stop.is_set():
                    if not chore.run():
                        bell.wait(LOOK_SECONDS)
                        bell.clear()  # before the next look, so that no ring is missed
            except Exception as error:
                logger.exception("the %s failed", name)
                self._failure = error
                self.stop()

        return threading.Thread(target=loop, name=name, daemon=True)


def main() -> None:
    """Entry point of the scheduler."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load_settings(Settings)
        policy = load_policy(settings.safety_file)
        store = open_store(settings.object_store_url)
        engine = database.connect(settings.sql_url)
        database.check(engine)
    except (SettingsError, PolicyError, StoreError, database.DatabaseError) as error:
        sys.exit(f"nightmill scheduler: {error}")
    hints = Hints(settings.redis_url)
    publisher = Publisher(settings.redis_url)
    scheduler = Scheduler(settings, engine, store, hints, publisher, policy)

    def stop(_number: int, _frame: FrameType | None) -> None:
        scheduler.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        scheduler.run()
        scheduler.close()
    finally:
        publisher.close()
        hints.close()
        engine.dispose()


if __name__ == "__main__":
    main()
