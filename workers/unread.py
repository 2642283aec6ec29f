"""Messages of a wire version that this process does not speak: kept for a moment, then put back for one that does.

The moment keeps a message from going round as fast as the queue will let it; meanwhile no thread that works is held
up. Nor does a message go round for ever: after `MAX_RETURNS` turns it is dropped. Nothing is lost by that, since SQL
offers a shard again, and a worker repeats what is not acknowledged.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from workers.broker import BrokerError

logger = logging.getLogger(__name__)
PAUSE_SECONDS = 1.0
MAX_RETURNS = 60


@dataclass(frozen=True, slots=True)
class Kept:
    """A message as it came: JSON texts, and how often it has been put back before."""

    texts: tuple[str, ...]
    returns: int


class Unread:
    """What one process could not read. `keep` is called by any thread.

    Args:
        put_back: Publishes a message again, given its texts and how often it has been put back by then. What it raises
            as BrokerError is tried again after another pause.
    """

    def __init__(self, put_back: Callable[[tuple[str, ...], int], None]) -> None:
        self._publish = put_back
        self._kept: list[Kept] = []
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="unread", daemon=True)

    def keep(self, texts: tuple[str, ...], returns: int) -> None:
        """Take a message that came, after it had been put back `returns` times."""
        if returns >= MAX_RETURNS:
            logger.warning("a message of an unknown version was put back %d times, and is dropped", returns)
            return
        with self._lock:
            self._kept.append(Kept(texts, returns))

    def put_back(self) -> None:
        """Publish again all that is kept."""
        with self._lock:
            kept, self._kept = self._kept, []
        for number, message in enumerate(kept):
            try:
                self._publish(message.texts, message.returns + 1)
            except BrokerError as error:
                logger.warning("%d messages of an unknown version are put back later: %s", len(kept) - number, error)
                with self._lock:
                    self._kept = kept[number:] + self._kept
                return

    def start(self) -> None:
        """Put back what is kept after every pause, in a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """End that thread, and put back the rest."""
        self._ending.set()
        self._thread.join()
        self.put_back()

    def _loop(self) -> None:
        while not self._ending.wait(PAUSE_SECONDS):
            self.put_back()
