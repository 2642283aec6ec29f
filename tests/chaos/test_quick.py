"""A quick subset of the fault matrix. All of it: `make chaos`."""

from __future__ import annotations

import pytest

from tests.chaos.matrix import FAULTS, QUICK
from tests.chaos.scenario import Stands, run_scenario
from tests.chaos.stand import Services


def _no_services() -> Services:
    raise AssertionError("the quick scenarios run embedded")


@pytest.mark.parametrize(("fault", "seed"), QUICK)
def test_a_job_survives(fault: str, seed: int) -> None:
    result = run_scenario(FAULTS[fault], seed, Stands(_no_services))
    assert result.place == "embedded"
    assert not result.problems, "\n".join([*result.problems, result.logs])
