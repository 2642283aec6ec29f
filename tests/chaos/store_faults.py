"""Faults of the object store: errors, silence, half uploads, an outage, and what simple servers lack."""

from __future__ import annotations

import random
import threading
import time

from tests.chaos.fault import StrikeAt
from tests.chaos.moments import Moment, reached
from tests.chaos.run import Run
from tests.chaos.verdict import Strike
from tests.support.faulty_s3 import errors, refused_conditions, silence, truncated_uploads

SHARES = (0.3, 1.0)
"""Of the requests that meet a fault."""


def answers(status: str, code: str) -> StrikeAt:
    """A fault that answers requests with an error, for some seconds."""

    def strike(run: Run, moment: Moment, chance: random.Random) -> Strike:
        share = chance.choice(SHARES)
        with reached(moment, run, chance):
            s3 = run.stand.given.s3
            now = time.time()
            s3.strike(errors(status, code, random.Random(chance.random()), share))
            threading.Event().wait(chance.uniform(3.0, 8.0))
            s3.mend()
        return Strike(now, time.time(), said=f"{share:.0%} of requests, {s3.struck} in all")

    return strike


def half_uploads(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """Connections break in the middle of uploads."""
    share = chance.choice(SHARES)
    with reached(moment, run, chance):
        s3 = run.stand.given.s3
        now = time.time()
        s3.strike(truncated_uploads(random.Random(chance.random()), share))
        threading.Event().wait(chance.uniform(3.0, 8.0))
        s3.mend()
    return Strike(now, time.time(), said=f"{share:.0%} of uploads, {s3.struck} in all")


def silent(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """Requests of some seconds get no answer, until their clients give up waiting."""
    with reached(moment, run, chance):
        s3 = run.stand.given.s3
        over = threading.Event()
        met: list[str] = []
        now = time.time()
        s3.strike(silence(over, met))
        threading.Event().wait(chance.uniform(3.0, 6.0))
        s3.mend()  # those that wait go on waiting
        mended = time.time()
        threading.Event().wait(65.0)
        over.set()
    return Strike(now, mended, said=f"{len(met)} requests")


def unreachable(seconds: float) -> StrikeAt:
    """A fault that refuses every connection."""

    def strike(run: Run, moment: Moment, chance: random.Random) -> Strike:
        with reached(moment, run, chance):
            now = time.time()
            run.stand.given.objects.cut()
            threading.Event().wait(seconds)
            run.stand.given.objects.restore()
        return Strike(now, time.time())

    return strike


def late_listings(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """Listings lack what was written in the last seconds, from the job's beginning to its end."""
    now = time.time()
    run.stand.given.s3.lag(chance.uniform(5.0, 20.0))
    with reached(moment, run, chance):
        run.stand.kill("worker", run.stand.pids("worker"))  # so that parts are looked for
        at = time.time()
    return Strike(at, at, ends_executions=True, said=f"since {at - now:.1f} s")


def no_conditional_writes(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """The server has no conditional writes."""
    run.stand.given.s3.strike(refused_conditions)
    with reached(moment, run, chance):
        run.stand.kill("worker", run.stand.pids("worker"))
        now = time.time()
    return Strike(now, now, ends_executions=True)
