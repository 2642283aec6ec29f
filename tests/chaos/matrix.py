"""The fault matrix: what can go wrong, and how often it is tried."""

from __future__ import annotations

import random
from collections.abc import Iterator

from models.backends.vllm_environment import OWN_PROCESSES
from tests.chaos import item_faults, process_faults, redis_faults, sql_faults, store_faults, table_work
from tests.chaos.fault import MANY_SEEDS, Fault
from tests.chaos.moments import MOMENTS, PASS_MOMENTS, Moment
from tests.chaos.stand import ACTOR
from tests.chaos.workload import Workload

OUTAGE_SECONDS = 60.0
_PROCESSES = {
    "worker": MANY_SEEDS,
    ACTOR: MANY_SEEDS,
    "control": MANY_SEEDS,
    process_faults.RAYLET: 5,
    "api": 5,
    "scheduler": 5,
}


def _faults() -> Iterator[Fault]:
    for role, seeds in _PROCESSES.items():
        name = role.rpartition(":")[2].lower().removeprefix("model")
        # Twice on a stack: the launcher gives up on a process that dies often.
        yield Fault(f"kill-{name}", process_faults.kill(role), seeds, MOMENTS, scenarios=2)
    yield Fault(
        "kill-engine-child",
        process_faults.kill_engine_child,
        MANY_SEEDS,
        ("running", "before the report", "before the commit"),
        workload=_with_a_model,
        settings={OWN_PROCESSES: "1", "NIGHTMILL_HANG_SECONDS": "60"},
        within=300.0,
    )
    for role in ("worker", ACTOR):
        name = role.rpartition(":")[2].lower().removeprefix("model")
        yield Fault(
            f"kill-{name}-of-a-table",
            process_faults.kill_all(role),
            2 * len(PASS_MOMENTS),  # each at either place
            PASS_MOMENTS,
            workload=table_work.table_work,
            demand=table_work.as_if_nothing_had_been,
            settings={"NIGHTMILL_HANG_SECONDS": "60"},
            scenarios=2,
            within=300.0,
        )
    yield Fault("lose-node", process_faults.lose_node, workload=_long, places=("embedded",), own_ray=True, scenarios=1)
    yield Fault("drain-worker", process_faults.drain, demand=process_faults.drained, scenarios=1)
    yield Fault(
        "dying-children",
        process_faults.dying_children,
        workload=_longer,
        demand=process_faults.given_up,
        scenarios=1,
    )
    yield Fault("disk-full", process_faults.disk_full, places=("embedded",))
    yield Fault("memory-short", process_faults.memory_short, scenarios=1)

    yield Fault(
        "poison-crash",
        item_faults.wait,
        workload=item_faults.poisoned("crash_on", 1),
        demand=item_faults.few_restarts,
        scenarios=1,  # its demand counts in the log of the stack
    )
    yield Fault(
        "poison-hang",
        item_faults.wait,
        workload=item_faults.poisoned("hang_on", 1),
        demand=item_faults.few_restarts,
        within=180.0,
        scenarios=1,  # its demand counts in the log of the stack
    )
    yield Fault(
        "poison-three",
        item_faults.wait,
        workload=item_faults.poisoned("crash_on", 3),
        demand=item_faults.few_restarts,
        within=180.0,
        scenarios=1,  # its demand counts in the log of the stack
    )

    yield Fault("redis-restarted", redis_faults.restart)
    yield Fault("redis-flushed", redis_faults.flush, places=("services",))
    yield Fault("redis-unreachable", redis_faults.unreachable(OUTAGE_SECONDS), places=("services",))
    yield Fault("redis-blip", redis_faults.unreachable(5.0), places=("services",))
    yield Fault("messages-twice", redis_faults.twice, places=("services",))
    yield Fault("messages-again", redis_faults.delivered_again, places=("services",))

    yield Fault("sql-dropped", sql_faults.connections_dropped, moments=("running", "planning"), places=("services",))
    yield Fault("sql-restarted", sql_faults.server_restarted, moments=("running", "planning"), places=("services",))
    yield Fault("sql-locked", sql_faults.locked)
    yield Fault("sql-commit-unknown", sql_faults.commits_unknown, moments=("running", "planning"), places=("services",))

    yield Fault("store-500", store_faults.answers("500 Internal Server Error", "InternalError"), places=("services",))
    yield Fault("store-503", store_faults.answers("503 Slow Down", "SlowDown"), places=("services",))
    yield Fault("store-silent", store_faults.silent, places=("services",))
    yield Fault("store-truncated", store_faults.half_uploads, places=("services",))
    yield Fault(
        "store-unreachable",
        store_faults.unreachable(OUTAGE_SECONDS),
        moments=("running", "planning", "finalising"),
        places=("services",),
        within=180.0,
    )
    yield Fault("store-late-listings", store_faults.late_listings, places=("services",), scenarios=2)
    yield Fault("store-no-conditions", store_faults.no_conditional_writes, places=("services",), scenarios=2)


def _with_a_model(moment: Moment, chance: random.Random) -> Workload:
    del moment, chance
    return Workload(shards=64, rows=4, model="smollm2-135m")


def _long(moment: Moment, chance: random.Random) -> Workload:
    """Long enough for a node to join, to go and to join again."""
    del moment, chance
    return Workload(shards=160, rows=100, delay_ms=2000.0)


def _longer(moment: Moment, chance: random.Random) -> Workload:
    del moment, chance
    return Workload(shards=64)


FAULTS = {fault.name: fault for fault in _faults()}
QUICK = (("kill-worker", 0), ("kill-actor", 10), ("kill-control", 8), ("drain-worker", 0))
"""Faults and seeds that `make test` runs: half a minute together."""
