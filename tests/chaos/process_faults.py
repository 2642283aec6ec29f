"""Faults of the stack's own processes: killed, told to stop, dying again and again, short of disk or memory."""

from __future__ import annotations

import random
import resource
import signal
import threading
import time
from collections.abc import Iterable

import psutil

from orchestrator.processes import SETTLED_SECONDS
from orchestrator.stackfile import read_record
from tests.chaos.fault import StrikeAt
from tests.chaos.moments import Moment, reached
from tests.chaos.run import Run
from tests.chaos.second_node import second_node
from tests.chaos.stand import ACTOR
from tests.chaos.verdict import Strike
from tests.support.eventually import eventually
from tests.support.running import is_running

RAYLET = "ray:raylet"
GRACE_SECONDS = 15.0
"""How long a worker that is told to stop may take."""
DEATHS_BOUND = 12
"""More deaths in a row than the launcher may answer with a new start."""
_ENDS_EXECUTIONS = {"worker", ACTOR, RAYLET}


def kill(role: str) -> StrikeAt:
    """A fault that kills a process of this role without warning."""

    def strike(run: Run, moment: Moment, chance: random.Random) -> Strike:
        with reached(moment, run, chance):
            pids = eventually(lambda: run.stand.pids(role), what=f"there is no {role}")
            now = time.time()
            run.stand.kill(role, [chance.choice(pids)])
        return Strike(now, now, ends_executions=role in _ENDS_EXECUTIONS)

    return strike


def kill_all(role: str) -> StrikeAt:
    """A fault that kills every process of this role: whichever has the rows at that moment."""

    def strike(run: Run, moment: Moment, chance: random.Random) -> Strike:
        with reached(moment, run, chance):
            pids = eventually(lambda: run.stand.pids(role), what=f"there is no {role}")
            own, family = run.executions(), run.family()
            now = time.time()
            run.stand.kill(role, pids)
        drawing = sum(each.ended_at is None for each in own)
        judging = sum(each.ended_at is None for each in family) - drawing
        said = f"killed {len(pids)} while {drawing} shards and {judging} passes ran"
        return Strike(now, now, ends_executions=True, said=said, moment=moment)

    return strike


def kill_engine_child(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """A process that an engine has started for itself is killed."""

    def children() -> list[int]:
        actors = [psutil.Process(pid) for pid in run.stand.pids(ACTOR)]
        return [child.pid for actor in actors for child in actor.children(recursive=True)]

    with reached(moment, run, chance):
        pids = eventually(children, what="no engine has a child process")
        now = time.time()
        run.stand.kill("engine child", [chance.choice(pids)])
    return Strike(now, now, ends_executions=True)


def lose_node(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """A second Ray node joins with a worker of its own, is lost with everything on it, and comes back."""
    [own] = run.stand.pids("worker")

    def joined(since: float) -> bool:
        return any(one.granted_at > since and not one.worker.endswith(f":{own}") for one in run.executions())

    with second_node(run.stand) as node, reached(moment, run, chance):
        run.follow(lambda: joined(since=0.0), "the second node takes no shard")
        threading.Event().wait(chance.uniform(0.0, 3.0))
        now = time.time()
        node.lose()
        threading.Event().wait(5.0)
        node.start()
        back = time.time()
        run.follow(lambda: joined(since=back), "the second node is back and takes no shard")
        run.await_end(within=120.0)  # before this context takes the node away for good
    return Strike(now, now, ends_executions=True, said=f"away for {back - now:.1f} s")


def drain(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """The worker is told to stop."""
    with reached(moment, run, chance):
        [pid] = run.stand.pids("worker")
        now = time.time()
        run.stand.kill("worker", [pid], signal.SIGTERM)
        eventually(lambda: not is_running(pid), within=GRACE_SECONDS, what="the worker does not end")
    return Strike(now, now, ends_executions=True, said=f"the worker ended in {time.time() - now:.1f} s")


def drained(run: Run, strike: Strike) -> Iterable[str]:
    """A worker that is told to stop hands its shards back and exits with 0."""
    if "worker ended with exit status 0" not in run.stand.log("launcher"):
        yield "the worker did not exit with 0"
    for execution in run.executions():
        if execution.granted_at < strike.at and execution.ending not in {"finished", "handed_back"}:
            yield f"an execution of shard {execution.shard} ended as {execution.ending!r}, and was not handed back"


def dying_children(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """A process dies whenever it is back, until the launcher gives up; then the stack is started by hand."""
    role = chance.choice(("worker", "scheduler", "control", "api"))
    # The launcher gives up sooner on a process that has never run for long.
    threading.Event().wait(chance.choice((0.0, SETTLED_SECONDS + 2.0)))
    data_dir = run.stand.nightmill.data_dir
    deaths = 0
    with reached(moment, run, chance):
        now = time.time()
        while read_record(data_dir) is not None and deaths <= DEATHS_BOUND:
            alive = [pid for pid in run.stand.pids(role) if pid not in run.stand.killed.get(role, set())]
            run.stand.kill(role, alive)
            deaths += len(alive)
            threading.Event().wait(0.05)
    run.stand.nightmill.none_is_left(within=20.0)
    run.stand.nightmill.run("up", "--detach", "--port", "0")
    return Strike(now, time.time(), ends_executions=True, said=f"{role} died {deaths} times")


def given_up(run: Run, strike: Strike) -> Iterable[str]:
    """The launcher says of each death when it starts the process again, and at last that it does not."""
    said = run.stand.log("launcher")
    if "starting it again in" not in said:
        yield "the launcher did not say that it starts a process again"
    if "times in a row, at last with signal 9" not in said:
        yield f"the launcher did not say that it gives up ({strike.said})"


def disk_full(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """For a time an actor cannot write a single byte to any file, as on a full disk."""
    with reached(moment, run, chance):
        pids = run.stand.pids(ACTOR)
        now = time.time()
        _limit(pids, resource.RLIMIT_FSIZE, 0)
        threading.Event().wait(chance.uniform(2.0, 5.0))
        _limit(pids, resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
    return Strike(now, time.time())


def memory_short(run: Run, moment: Moment, chance: random.Random) -> Strike:
    """An actor gets no more memory than it has."""
    with reached(moment, run, chance):
        [pid, *_] = run.stand.pids(ACTOR)
        now = time.time()
        _limit([pid], resource.RLIMIT_AS, psutil.Process(pid).memory_info().vms)
    return Strike(now, now, ends_executions=True)


def _limit(pids: list[int], what: int, size: int) -> None:
    for pid in pids:
        hard = psutil.Process(pid).rlimit(what)[1]
        psutil.Process(pid).rlimit(what, (size, hard))
