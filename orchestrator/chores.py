"""Loops that outlive what they depend on: a chore whose database, broker or store is away waits, and comes back."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError

from orchestrator import database
from workers.broker import BrokerError
from workers.store import StoreError

logger = logging.getLogger(__name__)
FIRST_SECONDS = 0.5
LONGEST_SECONDS = 10.0


class Chore:
    """Something that is done again and again.

    A lost connection is said once, the chore rests with growing pauses, and says when it is back. Every other error is
    a bug, and is raised.

    Args:
        name: For people.
        step: One round; says whether there was something to do.
        clock: Seconds that only grow.
        every: Seconds from one round to the next, at the least.
    """

    def __init__(self, name: str, step: Callable[[], int], *, clock: Callable[[], float], every: float = 0.0) -> None:
        self._name = name
        self._step = step
        self._clock = clock
        self._every = every
        self._not_before = 0.0
        self._pause = 0.0

    def run(self) -> bool:
        """Do a round if one is due; whether there was something to do."""
        if self._clock() < self._not_before:
            return False
        try:
            done = self._step()
        except (BrokerError, StoreError) as error:
            self._rest(str(error))
            return False
        except DBAPIError as error:
            if not database.is_passing(error):
                raise
            self._rest(f"the database cannot be used: {database.first_line(error)}")
            return False
        if self._pause:
            logger.warning("%s: goes on", self._name)
        self._pause = 0.0
        self._not_before = self._clock() + self._every
        return done > 0

    def _rest(self, why: str) -> None:
        if not self._pause:
            logger.warning("%s: rests, %s", self._name, why)
        self._pause = min(LONGEST_SECONDS, max(FIRST_SECONDS, self._pause * 2))
        self._not_before = self._clock() + self._pause
