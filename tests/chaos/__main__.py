"""Runs the fault matrix: `python -m tests.chaos [FAULT …] [--seeds N | --seed N …] [--out DIR] [--resume]`.

Each scenario, a fault with a seed, leaves one JSON file in the folder, so that a matrix can be run in pieces, resumed
with --resume, and merged by putting files together; `--table` only writes the table of what is there.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.matrix import FAULTS
from tests.chaos.scenario import Result, Stands, run_scenario
from tests.chaos.stand import LEASE_SECONDS, Services, running_services
from tests.chaos.table import read_results, table

DEFAULT_OUT = Path("out/chaos")
AGAIN_SECONDS = LEASE_SECONDS + 10.0
"""After a kill of the only worker and its restart, its shards run again within this time."""


def main() -> int:
    """Run what the command line asks for; 1 where a scenario found a problem, in this run or an earlier one."""
    options = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    options.add_argument("faults", nargs="*", metavar="FAULT", help=f"default: all. {', '.join(FAULTS)}")
    options.add_argument("--seeds", type=int, help="so many of each; default: as the matrix says")
    options.add_argument("--seed", type=int, action="append", help="only this one; may be given again")
    options.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the results (%(default)s)")
    options.add_argument("--resume", action="store_true", help="leave out scenarios that have passed already")
    options.add_argument("--table", action="store_true", help="run nothing; write the table of what is there")
    given = options.parse_args()
    unknown = [name for name in given.faults if name not in FAULTS]
    if unknown:
        options.error(f"no such fault: {', '.join(unknown)}")
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.table:
        chosen = given.faults or list(FAULTS)
        scenarios = [
            (name, seed)
            for name in chosen
            for seed in (given.seed if given.seed is not None else range(given.seeds or FAULTS[name].seeds))
        ]
        _run_all(scenarios, given.out, resume=given.resume)
    results = read_results(given.out)
    shown = table(results, list(FAULTS))
    (given.out / "matrix.md").write_text(shown)
    print(shown)
    failed = [result for result in results if result["problems"]]
    for result in failed:
        print(f"{result['fault']} seed {result['seed']}: {result['problems'][0]}")
    return 1 if failed else 0


def _run_all(scenarios: list[tuple[str, int]], out: Path, *, resume: bool) -> None:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # or it says every request of the S3 server
    # No stack of a scenario sees the settings of the person who runs it.
    for name in [name for name in os.environ if name.startswith("NIGHTMILL_")]:
        del os.environ[name]
    passed = {(one["fault"], one["seed"]) for one in read_results(out) if not one["problems"]} if resume else set()
    with ExitStack() as held:
        running: list[Services] = []

        def services() -> Services:
            if not running:
                running.append(held.enter_context(running_services()))
            return running[0]

        stands = Stands(services)
        held.callback(stands.drop)
        for (name, seed), keep in _kept([one for one in scenarios if one not in passed]):
            began = time.monotonic()
            result = run_scenario(FAULTS[name], seed, stands, keep=keep)
            _judge_again(result)
            (out / f"{name}-{seed:03d}.json").write_bytes(result.encoded())
            verdict = f"FAILED: {result.problems[0][:300]}" if result.problems else "passed"
            where = f"{result.moment}, {result.place}{f', {result.said}' if result.said else ''}"
            print(
                f"{name} {seed} ({where}): {verdict} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True
            )


def _kept(scenarios: list[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], bool]]:
    """The scenarios of each fault by place, each with whether its stack is left to the next."""
    for name, of_fault in itertools.groupby(scenarios, key=lambda scenario: scenario[0]):
        fault = FAULTS[name]
        by_place = sorted(of_fault, key=lambda scenario: fault.place(scenario[1]))
        for _, of_place in itertools.groupby(by_place, key=lambda scenario: fault.place(scenario[1])):
            alike = list(of_place)
            for number, scenario in enumerate(alike, 1):
                yield scenario, number % fault.scenarios != 0 and number < len(alike)


def _judge_again(result: Result) -> None:
    again = result.figures.get("again_seconds")
    if result.fault == "kill-worker" and again is not None and again > AGAIN_SECONDS:
        result.problems.append(f"its shards ran again only {again:.1f} s after the worker's restart")


if __name__ == "__main__":
    sys.exit(main())
