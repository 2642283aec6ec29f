"""One scenario: a stack, a job, a fault at a seeded moment, and what came of it."""

from __future__ import annotations

import random
import tempfile
import traceback
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson
import psutil
from sqlalchemy.exc import DBAPIError

from orchestrator.client import ApiError, UnreachableError
from tests.chaos.fault import Fault
from tests.chaos.run import submit, warm_up
from tests.chaos.stand import Services, Stand, standing
from tests.chaos.verdict import figures, problems
from tests.support.commands import ROOT
from tests.support.services import ray_head
from workers.store import StoreError

LOG_CHARACTERS = 20_000
_FOUND = (AssertionError, ApiError, UnreachableError, StoreError, DBAPIError, OSError, psutil.Error)
"""What the stack under test can make a scenario raise; anything else is a mistake of the scenario's own."""


class GivesServices(Protocol):
    """Starts the services when they are first asked for."""

    def __call__(self) -> Services:
        """The running services."""
        ...


@dataclass
class Result:
    """What came of a scenario; one JSON file."""

    fault: str
    seed: int
    moment: str
    place: str
    problems: list[str]
    """Empty where all is well."""
    figures: dict[str, Any] = field(default_factory=dict)
    """`verdict.Figures`, of a job that ended."""
    said: str = ""
    """What the fault says of itself."""
    logs: str = ""
    """Ends of the stack's logs, where there are problems."""

    def encoded(self) -> bytes:
        """As JSON."""
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2)


def run_scenario(fault: Fault, seed: int, services: GivesServices) -> Result:
    """Run a fault with a seed, which decides its moment, its place and everything random in it."""
    chance = random.Random(f"{fault.name} {seed}")
    result = Result(fault.name, seed, fault.moment(seed), fault.place(seed), [])
    with tempfile.TemporaryDirectory(prefix="nm-chaos-", ignore_cleanup_errors=True) as name, ExitStack() as held:
        given = services() if result.place == "services" else None
        settings = dict(fault.settings)
        if fault.own_ray:
            settings["NIGHTMILL_RAY_ADDRESS"] = held.enter_context(
                ray_head(cpus=2, environment={"PYTHONPATH": str(ROOT)})
            )
        stand = held.enter_context(standing(fault.place(seed), Path(name), given, settings))
        try:
            _run(fault, seed, stand, Path(name), chance, result)
        except _FOUND as error:
            # This is what the scenario has found; the next ones go on.
            result.problems.append(f"{type(error).__name__}: {error}")
            result.problems.append("".join(traceback.format_tb(error.__traceback__)[-3:]))
        if result.problems:
            result.logs = _logs(stand)
    return result


def _run(fault: Fault, seed: int, stand: Stand, folder: Path, chance: random.Random, result: Result) -> None:
    moment = fault.moment(seed)
    workload = fault.workload(moment, chance)
    warm_up(stand, workload.model, folder, chance)
    run = submit(stand, workload, folder, chance)
    with run.parts:
        strike = fault.strike(run, moment, chance)
        result.said = strike.said
        run.await_end(within=fault.within)
    if stand.services is not None:
        stand.services.mend()
    result.problems += problems(run)
    result.problems += fault.demand(run, strike)
    result.figures = asdict(figures(run, strike))
    stand.nightmill.run("down")
    stand.nightmill.none_is_left()


def _logs(stand: Stand) -> str:
    found = sorted((stand.nightmill.data_dir / "logs").glob("*.log"))
    return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-LOG_CHARACTERS:]}" for path in found)
