"""The generation worker on a real Redis and a real Ray; the test plays the orchestrator."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import orjson
import psutil
import pytest

from models.errors import FailureKind
from models.spec import Message
from tests.support.eventually import PATIENCE_SECONDS
from workers.broker import Hints, Publisher, make_celery
from workers.contracts import REPORTS_QUEUE, CountRange, Directive, ShardReport, ShardTask, Work, decode
from workers.keys import part_key, partial_key
from workers.records import read_part
from workers.store import open_store


def shard(number: int = 0, *, token: int = 1, count: int = 20, **options: Any) -> ShardTask:
    first = number * count
    return ShardTask(
        job="job_1",
        shard=number,
        token=token,
        first=first,
        count=count,
        source=CountRange(start=first, count=count),
        work=Work(
            model="echo",
            engine="auto",
            messages=(Message("user", "item {{ index }}"),),
            sampling={},
            seed=1,
            options=options or None,
        ),
    )


class Orchestrator:
    """Takes reports off the real queue, and answers each with the directive that the test wants."""

    def __init__(self, redis_url: str) -> None:
        self.publisher = Publisher(redis_url)
        self.hints = Hints(redis_url)
        self.said: list[ShardReport] = []
        self.command: Callable[[ShardReport], str] = lambda report: "run"
        self._app = make_celery(redis_url, name="test")

    def until(self, wanted: Callable[[ShardReport], bool]) -> ShardReport:
        """Take reports until one is wanted."""
        for report in self.said:
            if wanted(report):
                return report
        with self._app.connection_for_read() as connection, connection.SimpleQueue(REPORTS_QUEUE) as queue:
            while True:
                message = queue.get(timeout=PATIENCE_SECONDS)
                message.ack()
                for report in (decode(text, ShardReport) for text in message.payload[0][0]):
                    self.said.append(report)
                    directive = Directive(
                        command=self.command(report),  # type: ignore[arg-type]
                        acknowledged=report.sequence,
                        reason="told by the test",
                    )
                    self.hints.direct({report.execution: directive})
                    if wanted(report):
                        return report

    def close(self) -> None:
        self.publisher.close()
        self.hints.close()
        self._app.close()


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    orchestrator = Orchestrator(redis_url)
    yield orchestrator
    orchestrator.close()


@contextmanager
def worker(redis_url: str, ray_address: str, store_url: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    log = tmp_path / "worker.log"
    environment = {
        **os.environ,
        "NIGHTMILL_REDIS_URL": redis_url,
        "NIGHTMILL_RAY_ADDRESS": ray_address,
        "NIGHTMILL_STORE_URL": store_url,
        "NIGHTMILL_DATA_DIR": str(tmp_path),
        "NIGHTMILL_LEASE_SECONDS": "20",
        "NIGHTMILL_HANG_SECONDS": "2",
        "NIGHTMILL_ALLOW_FAULTS": "1",
        "NIGHTMILL_PREWARM": "0",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.tasks"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def own_actors() -> list[psutil.Process]:
    """The model actors of this process's Ray; others may have theirs on the same machine."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ray::ModelActor" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture
def running(redis_url: str, ray_address: str, folder_url: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with worker(redis_url, ray_address, folder_url, tmp_path) as process:
        yield process


def test_shards_end_as_parts(
    redis_url: str, ray_address: str, store_url: str, tmp_path: Path, orchestrator: Orchestrator
) -> None:
    with worker(redis_url, ray_address, store_url, tmp_path):
        for number in range(3):
            orchestrator.publisher.shard(shard(number))
        store = open_store(store_url)
        for number in range(3):
            report = orchestrator.until(lambda r, number=number: r.event == "finished" and r.shard == number)  # type: ignore[misc]
            assert report.part is not None
            assert report.part.key == part_key("job_1", number, 1, report.execution)
            data = store.get(report.part.key)
            assert read_part(report.part.key, data, first=number * 20, count=20) == report.part
            assert orjson.loads(data.splitlines()[3])["output"] == f"item {number * 20 + 3}"
    assert [report.event for report in orchestrator.said].count("finished") == 3


def test_no_part_is_written_without_the_right_to_the_shard(
    running: Any, orchestrator: Orchestrator, folder_url: str
) -> None:
    orchestrator.command = lambda report: "stop"
    orchestrator.publisher.shard(shard())
    report = orchestrator.until(lambda r: r.event == "handed_back")
    assert report.part is None
    assert list(open_store(folder_url).list("jobs/")) == []


def test_a_part_that_an_earlier_execution_left_is_taken_and_nothing_is_computed_again(
    running: Any, orchestrator: Orchestrator, folder_url: str
) -> None:
    orchestrator.publisher.shard(shard())
    first = orchestrator.until(lambda r: r.event == "finished")
    assert first.part is not None
    again = shard(token=2, crash_on=[3])  # to compute it would end the actor
    again = ShardTask(
        **{**{name: getattr(again, name) for name in again.__struct_fields__}, "earlier": (first.part.key,)}
    )
    orchestrator.publisher.shard(again)
    second = orchestrator.until(lambda r: r.event == "finished" and r.token == 2)
    assert second.part == first.part


def test_a_stopped_job_is_aborted_while_it_runs(running: Any, orchestrator: Orchestrator, folder_url: str) -> None:
    orchestrator.publisher.shard(shard(delay_ms=3_000_000))
    orchestrator.until(lambda r: r.phase == "generating")
    orchestrator.hints.stop_job("job_1", "cancelled")
    report = orchestrator.until(lambda r: r.event == "handed_back")
    assert report.part is None


def test_what_had_ended_is_kept_when_a_job_is_stopped(
    running: Any, orchestrator: Orchestrator, folder_url: str
) -> None:
    orchestrator.publisher.shard(shard(count=5000, delay_ms=300))
    orchestrator.until(lambda r: 0 < r.counts.ok < 5000)
    orchestrator.hints.stop_job("job_1", "cancelled")
    report = orchestrator.until(lambda r: r.event == "handed_back")
    assert report.part is not None
    assert report.part.key == partial_key("job_1", 0, 1, report.execution)
    lines = open_store(folder_url).get(report.part.key).splitlines()
    assert len(lines) == report.part.counts.ok >= 512
    assert [orjson.loads(line)["index"] for line in lines] == list(range(len(lines)))

    # Whoever takes it up again asks only for the rest.
    orchestrator.hints.forget_stop("job_1")
    rest = shard(token=2, count=5000, crash_on=[len(lines) - 1])
    orchestrator.publisher.shard(msgspec.structs.replace(rest, carry_from=report.part.key))
    done = orchestrator.until(lambda r: r.event == "finished")
    assert done.part is not None
    assert done.part.counts.ok == 5000


def test_an_engine_that_hangs_is_found_and_replaced_and_keeps_what_had_ended(
    running: Any, orchestrator: Orchestrator, folder_url: str
) -> None:
    orchestrator.publisher.shard(shard(count=1000, hang_on=[999]))
    report = orchestrator.until(lambda r: r.event == "failed")
    assert report.failure is not None
    assert (report.failure.kind, report.failure.code) == (FailureKind.ENGINE, "engine_hung")
    assert report.part is not None
    assert report.part.counts.ok == 512
    # Slow is not hung.
    orchestrator.publisher.shard(shard(1, delay_ms=5000))
    assert orchestrator.until(lambda r: r.event == "finished").shard == 1


def test_a_shard_that_is_to_run_alone_waits_for_the_others(
    running: Any, orchestrator: Orchestrator, folder_url: str
) -> None:
    orchestrator.publisher.shard(shard(0, delay_ms=4000))
    orchestrator.until(lambda r: r.phase == "generating")
    alone = msgspec.structs.replace(shard(1, crash_on=[23]), alone=True)
    orchestrator.publisher.shard(alone)
    ended = orchestrator.until(lambda r: r.event in {"failed", "finished"} and r.shard == 0)
    assert ended.event == "finished"
    assert orchestrator.until(lambda r: r.event == "failed").shard == 1


def test_an_actor_that_crashed_fails_its_shard_and_is_replaced(
    running: Any, orchestrator: Orchestrator, folder_url: str
) -> None:
    orchestrator.publisher.shard(shard(crash_on=[3]))
    report = orchestrator.until(lambda r: r.event == "failed")
    assert report.failure is not None
    assert report.failure.code == "actor_lost"
    orchestrator.publisher.shard(shard(1))
    assert orchestrator.until(lambda r: r.event == "finished").shard == 1


def test_a_worker_that_is_told_to_stop_hands_its_shards_back(
    redis_url: str, ray_address: str, folder_url: str, tmp_path: Path, orchestrator: Orchestrator
) -> None:
    with worker(redis_url, ray_address, folder_url, tmp_path) as process:
        orchestrator.publisher.shard(shard(delay_ms=3_000_000))
        orchestrator.until(lambda r: r.phase == "generating")
        process.send_signal(signal.SIGTERM)
        report = orchestrator.until(lambda r: r.event == "handed_back")
        assert report.part is None
        assert process.wait(PATIENCE_SECONDS) == 0


def test_an_actor_dies_with_its_worker(
    redis_url: str, ray_address: str, folder_url: str, tmp_path: Path, orchestrator: Orchestrator
) -> None:
    with worker(redis_url, ray_address, folder_url, tmp_path) as process:
        orchestrator.publisher.shard(shard(delay_ms=3_000_000))
        orchestrator.until(lambda r: r.phase == "generating")
        actors = own_actors()
        assert actors
        process.kill()
        _, alive = psutil.wait_procs(actors, timeout=PATIENCE_SECONDS)
        assert alive == []


def test_a_worker_without_an_address_of_ray_says_so() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NIGHTMILL_RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "workers.tasks"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "NIGHTMILL_RAY_ADDRESS is not set" in done.stderr
    assert "Traceback" not in done.stderr
