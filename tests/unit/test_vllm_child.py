"""An engine's process ends with the one that started it, however that ends. Real processes, each ended by its test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from models.backends.vllm_child import end_with_parent
from tests.support.eventually import eventually
from tests.support.running import is_running


@contextmanager
def parent_and_child(mode: str) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    command = [sys.executable, "-m", "tests.support.spawned", mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        try:
            yield parent, child
        finally:
            parent.kill()
            if child.is_running():
                child.kill()


@pytest.mark.parametrize("mode", ["asks", "late"])
def test_a_child_that_asks_ends_when_its_parent_is_killed(mode: str) -> None:
    with parent_and_child(mode) as (parent, child):
        assert is_running(child.pid)
        parent.kill()
        eventually(lambda: not is_running(child.pid))


def test_a_child_that_does_not_ask_lives_on() -> None:
    with parent_and_child("silent") as (parent, child):
        parent.kill()
        parent.wait()
        eventually(lambda: child.ppid() != parent.pid)
        assert is_running(child.pid)


def test_a_process_that_nobody_spawned_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("no library is needed")

    monkeypatch.setattr("models.backends.vllm_child.ctypes.CDLL", refuse)
    assert end_with_parent() is None  # type: ignore[func-returns-value]
