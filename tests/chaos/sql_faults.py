"""Faults of the database: connections that break, a server that restarts, locks, and commits of unknown outcome."""

from __future__ import annotations

import random
import threading
import time

from tests.chaos.moments import Moment, reached
from tests.chaos.run import Run
from tests.chaos.stand import crash_postgres
from tests.chaos.verdict import Strike

COMMITS = 6
LOSING_SECONDS = 10.0


def connections_dropped(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """Every connection breaks, several times."""
    with reached(moment, run, chance):
        now = time.time()
        for _ in range(5):
            run.stand.given.sql.reset()
            threading.Event().wait(chance.uniform(0.1, 0.8))
    return Strike(now, time.time())


def server_restarted(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """PostgreSQL goes down, stays away for a while, and recovers."""
    with reached(moment, run, chance):
        given = run.stand.given
        now = time.time()
        given.sql.cut()
        crash_postgres(given.postgres_url)
        threading.Event().wait(chance.uniform(0.0, 4.0))
        given.sql.restore()
    return Strike(now, time.time())


def locked(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """Another process holds the write lock for longer than a writer waits."""
    with reached(moment, run, chance):
        now = time.time()
        seconds = chance.uniform(2.0, 14.0)
        with run.stand.writes_locked():
            threading.Event().wait(seconds)
    return Strike(now, time.time(), said=f"for {seconds:.1f} s")


def commits_unknown(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """Commits happen, and the connection breaks before that is said."""
    with reached(moment, run, chance):
        now = time.time()
        sql = run.stand.given.sql
        sql.lose_answers(b"COMMIT", COMMITS)
        deadline = time.monotonic() + LOSING_SECONDS
        while sql.answers_to_lose and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        lost = COMMITS - sql.answers_to_lose
        sql.lose_answers(b"", 0)
    return Strike(now, time.time(), said=f"{lost} commits")
