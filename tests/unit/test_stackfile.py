"""Locks that end with their process, and a record that counts only while its process lives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from orchestrator import stackfile
from orchestrator.stackfile import (
    LAUNCHER,
    ProcessRecord,
    StackRecord,
    StackRunningError,
    others_use_stack,
    own_stack,
    read_record,
    remove_record,
    using_stack,
    with_descendants,
    write_record,
)
from tests.support.commands import ROOT
from tests.support.eventually import eventually

HOLD = "with {lock}(Path({folder!r})):\n  print('held', flush=True)\n  input()\n"


def _record(folder: Path, pid: int, created: float) -> StackRecord:
    processes = (ProcessRecord(LAUNCHER, pid, "running"), ProcessRecord("api", None, "waiting"))
    return StackRecord(pid, created, "http://127.0.0.1:1", "ready", False, str(folder), processes)


def _holder(lock: str, folder: Path) -> subprocess.Popen[str]:
    """Another process that is inside a lock."""
    source = "from pathlib import Path\nfrom orchestrator.stackfile import *\n" + HOLD.format(
        lock=lock, folder=str(folder)
    )
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = _record(tmp_path, os.getpid(), psutil.Process().create_time())
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    remove_record(tmp_path)
    assert read_record(tmp_path) is None


def test_a_record_of_a_process_that_ended_counts_for_nothing(tmp_path: Path) -> None:
    # The same pid, another beginning: the number was given to somebody else.
    write_record(tmp_path, _record(tmp_path, os.getpid(), psutil.Process().create_time() - 100))
    assert read_record(tmp_path) is None
    write_record(tmp_path, _record(tmp_path, 2**22 + 1, 0.0))
    assert read_record(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"processes": [{"role": 1}]}', '{"processes": [], "pid": 1}'])
def test_a_record_of_another_version_counts_for_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / stackfile.RECORD).write_text(text)
    assert read_record(tmp_path) is None


def test_a_data_directory_has_one_owner_until_that_ends(tmp_path: Path) -> None:
    owner = _holder("own_stack", tmp_path)
    try:
        with pytest.raises(StackRunningError, match=f"started by process {owner.pid}"), own_stack(tmp_path):
            pass
    finally:
        _end(owner)
    with own_stack(tmp_path):
        assert (tmp_path / stackfile.LOCK).read_text() == str(os.getpid())


def test_users_of_a_temporary_stack_are_seen(tmp_path: Path) -> None:
    assert not others_use_stack(tmp_path)
    user = _holder("using_stack", tmp_path)
    try:
        assert others_use_stack(tmp_path)
        with using_stack(tmp_path):
            assert others_use_stack(tmp_path)
    finally:
        _end(user)
    assert not others_use_stack(tmp_path)


def test_what_a_process_started_is_listed_below_it() -> None:
    source = "import subprocess, sys; subprocess.run(['/bin/sleep', '600'])"
    with subprocess.Popen([sys.executable, "-c", source]) as child:
        below = eventually(lambda: psutil.Process(child.pid).children())
        try:
            eventually(lambda: below[0].name() == "sleep")
            own = ProcessRecord(LAUNCHER, os.getpid(), "running")
            listed = with_descendants([own, ProcessRecord("ray", child.pid, "running")])
        finally:
            below[0].kill()
    assert listed[1:] == [
        ProcessRecord("ray", child.pid, "running"),
        ProcessRecord("ray:sleep", below[0].pid, "running"),
    ]
    assert listed[0] == own


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["ray::ModelActor.run"], "ModelActor.run"),
        (["/usr/lib/ray/gcs/gcs_server", "--port=1"], "gcs_server"),
        (["/usr/bin/python3", "-u", "/x/dashboard/agent.py", "--minimal"], "agent"),
        (["VLLM::EngineCore"], "VLLM::EngineCore"),
        ([], "kthread"),
    ],
)
def test_processes_have_short_names(command: list[str], name: str) -> None:
    assert stackfile._short_name(command, "kthread") == name
