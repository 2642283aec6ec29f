"""Finds a worker that has gone deaf: its queue fills, it has a place free, and it takes nothing.

When a connection to Redis breaks at the wrong moment, Celery's event loop can be left waiting for one that redis-py has
replaced: no error, and no message any more, for good. Nothing inside the worker mends that; it ends, and whoever
started it starts it again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from celery import signals

from workers.broker import BrokerError

logger = logging.getLogger(__name__)
DEAF_SECONDS = 20.0
"""How long messages may wait before a worker with a place free. One that listens takes the next within a second."""
LOOK_SECONDS = 2.0


class QueueWatch:
    """Looks at a worker's queue, and at whether the worker takes what is in it.

    Args:
        waiting: How many messages are in the queue.
        places: How many tasks the worker runs at once.
        end: Ends the process. Called once, in the watch's thread.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        waiting: Callable[[], int],
        *,
        places: int,
        end: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waiting = waiting
        self._places = places
        self._end = end
        self._clock = clock
        self._lock = threading.Lock()
        self._running = 0
        self._heard = clock()
        self._thread = threading.Thread(target=self.watch, name="queue-watch", daemon=True)

    def start(self) -> None:
        """Watch, from when the worker is ready."""
        signals.task_prerun.connect(self.began, weak=False)
        signals.task_postrun.connect(self.ended, weak=False)
        signals.worker_ready.connect(lambda **_: self._thread.start(), weak=False)

    def began(self, **_: object) -> None:
        """Note that the worker has taken a message."""
        with self._lock:
            self._running += 1
            self._heard = self._clock()

    def ended(self, **_: object) -> None:
        """Note that it is done with one."""
        with self._lock:
            self._running -= 1
            self._heard = self._clock()

    def is_deaf(self) -> bool:
        """Look once: whether messages have waited for too long before a free place."""
        try:
            waiting = self._waiting()
        except BrokerError:
            waiting = 0  # nobody hears anything
        with self._lock:
            if not waiting or self._running >= self._places:
                self._heard = self._clock()
            return self._clock() - self._heard > DEAF_SECONDS

    def watch(self) -> None:
        """Look again and again, until the worker is deaf; then end it."""
        while not self.is_deaf():
            time.sleep(LOOK_SECONDS)
        logger.error(
            "this worker takes nothing, though messages have waited for %g s; it ends, and has to be started again",
            DEAF_SECONDS,
        )
        self._end()
