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
from tests.chaos.stand import Place, Services, Stand, standing
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


class Stands:
    """The stack that scenarios run on: kept for the next one where that is alike, and where nothing was found."""

    def __init__(self, services: GivesServices) -> None:
        self._services = services
        self._held = ExitStack()
        self._kept: tuple[str, Place, Stand, Path] | None = None

    def get(self, fault: Fault, place: Place) -> tuple[Stand, Path]:
        """A stack for a fault, and a folder beside it.

        Raises:
            AssertionError: it does not come up.
        """
        if self._kept is None or self._kept[:2] != (fault.name, place):
            self.drop()
            folder = Path(
                self._held.enter_context(tempfile.TemporaryDirectory(prefix="nm-chaos-", ignore_cleanup_errors=True))
            )
            settings = dict(fault.settings)
            if fault.own_ray:
                settings["NIGHTMILL_RAY_ADDRESS"] = self._held.enter_context(
                    ray_head(cpus=2, environment={"PYTHONPATH": str(ROOT)})
                )
            given = self._services() if place == "services" else None
            stand = self._held.enter_context(standing(place, folder, given, settings))
            self._kept = (fault.name, place, stand, folder)
        return self._kept[2:]

    def drop(self) -> None:
        """End the stack, if there is one."""
        self._kept = None
        self._held.close()


def run_scenario(fault: Fault, seed: int, stands: Stands, *, keep: bool = False) -> Result:
    """Run a fault with a seed, which decides its moment, its place and everything random in it.

    `keep` leaves the stack to the next scenario; otherwise it is brought down, and nothing may be left of it.
    """
    chance = random.Random(f"{fault.name} {seed}")
    result = Result(fault.name, seed, fault.moment(seed), fault.place(seed), [])
    stand = None
    try:
        stand, folder = stands.get(fault, fault.place(seed))
        _run(fault, seed, stand, folder, chance, result)
        if not keep:
            stand.nightmill.run("down")
            stand.nightmill.none_is_left()
    except _FOUND as error:
        # This is what the scenario has found; the next ones go on.
        result.problems.append(f"{type(error).__name__}: {error}")
        result.problems.append("".join(traceback.format_tb(error.__traceback__)[-3:]))
    if result.problems and stand is not None:
        result.logs = _logs(stand)
    if result.problems or not keep:
        stands.drop()
    return result


def _run(fault: Fault, seed: int, stand: Stand, folder: Path, chance: random.Random, result: Result) -> None:
    moment = fault.moment(seed)
    workload = fault.workload(moment, chance)
    warm_up(stand, workload, folder, chance)
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


def _logs(stand: Stand) -> str:
    found = sorted((stand.nightmill.data_dir / "logs").glob("*.log"))
    return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-LOG_CHARACTERS:]}" for path in found)
