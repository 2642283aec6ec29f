"""Celery on Redis: the app, and typed ways to put messages on its queues. Imports neither ray nor torch.

Redis is a hint, never the truth. Whatever is lost with it is published again from SQL, so no message needs its
acknowledgement kept until the work is done: a worker acknowledges as it takes one, and the lease does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import redis
from celery import Celery, bootsteps, signals
from kombu.exceptions import OperationalError

from workers.contracts import (
    APPLY_PROBE_TASK,
    APPLY_REPORTS_TASK,
    DIRECTIVE_KEY,
    GENERATE_QUEUE,
    JOB_STOP_KEY,
    REPORTS_QUEUE,
    RUN_SHARD_TASK,
    WAKE_KEY,
    ContractError,
    Directive,
    ShardReport,
    ShardTask,
    decode,
    encode,
)
from workers.urls import without_password

HINT_SECONDS = 3600
"""How long a directive or a wake-up stays in Redis; far longer than anyone waits for it."""


TURN_SECONDS = 0.01
"""How long after a task the worker looks for the next: by then its thread is free."""
LOOK_SECONDS = 1.0
"""How often it looks whatever it was told."""


class BrokerError(Exception):
    """Redis could not be reached; the message has its address, without its password."""


def make_celery(redis_url: str, *, name: str = "nightmill") -> Celery:
    """A Celery app on a Redis server. Nothing is connected yet."""
    app = Celery(name, broker=redis_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,
        task_routes={
            RUN_SHARD_TASK: {"queue": GENERATE_QUEUE},
            APPLY_REPORTS_TASK: {"queue": REPORTS_QUEUE},
            APPLY_PROBE_TASK: {"queue": REPORTS_QUEUE},
        },
        worker_prefetch_multiplier=1,
        # ray.init needs the real standard output.
        worker_redirect_stdouts=False,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        # Nobody uses it, and its subscription can block a worker's event loop for good: when Redis comes back after a
        # connection broke, redis-py subscribes again and waits for a message without a time limit.
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_connect_timeout": 5,
            "socket_timeout": 30,
            "socket_keepalive": True,
            "retry_on_timeout": True,
        },
        # A publisher is told at once, and publishes again by itself.
        task_publish_retry=False,
    )
    return app


class TakeOneForOne(bootsteps.StartStopStep):  # type: ignore[misc] # celery has no types
    """Lets a worker with threads take a message only when a thread is free for it, and as soon as one is.

    A message that waits inside a busy worker is one that no idle worker can take, hence no prefetch. But a thread that
    ends its task does not wake the worker's event loop, which then may sleep for ten seconds beside a full queue.
    """

    requires = ("celery.worker.components:Hub",)

    def __init__(self, parent: Any, **_: object) -> None:  # noqa: ANN401 - celery's WorkController has no types
        parent.app.conf.worker_disable_prefetch = True

    def start(self, parent: Any) -> None:  # noqa: ANN401 - as above
        """Give the loop a turn whenever a task has ended."""
        hub = parent.hub

        def turn() -> None:
            """Nothing is to be done: the loop looks for messages whenever it has been awake."""

        def ended(**_: object) -> None:
            hub.call_soon(hub.call_later, TURN_SECONDS, turn)

        signals.task_postrun.connect(ended, weak=False)
        hub.call_repeatedly(LOOK_SECONDS, turn)


def connect_redis(redis_url: str) -> redis.Redis:
    """A client for the hints that do not go through Celery."""
    return redis.Redis.from_url(
        redis_url, decode_responses=True, socket_connect_timeout=5, socket_timeout=30, health_check_interval=30
    )


@contextmanager
def broker_errors(redis_url: str) -> Iterator[None]:
    """Turn what redis and kombu raise for a lost server into BrokerError."""
    try:
        yield
    except (redis.RedisError, OperationalError, OSError) as error:
        raise BrokerError(f"Redis at {without_password(redis_url)} cannot be reached: {error}") from error


class Publisher:
    """Puts messages on the queues. Every method raises BrokerError where Redis cannot be reached."""

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self._app = make_celery(redis_url)

    def shard(self, task: ShardTask) -> None:
        """Offer a shard to the generation workers."""
        self._send(RUN_SHARD_TASK, [encode(task)])

    def reports(self, reports: Sequence[ShardReport]) -> None:
        """Send reports to the orchestrator, in one message."""
        self._send(APPLY_REPORTS_TASK, [[encode(report) for report in reports]])

    def put_back_shard(self, texts: Sequence[str], returns: int) -> None:
        """Offer a shard again that this process could not read, for the `returns`-th time."""
        self._send(RUN_SHARD_TASK, list(texts), returns=returns)

    def put_back_reports(self, texts: Sequence[str], returns: int) -> None:
        """Send reports again that this process could not read, for the `returns`-th time."""
        self._send(APPLY_REPORTS_TASK, [list(texts)], returns=returns)

    def probe(self, reaper: str, value: int) -> None:
        """Ask for a sign that every report sent before this has been taken off the queue."""
        self._send(APPLY_PROBE_TASK, [reaper, value])

    def close(self) -> None:
        """Close the connections."""
        self._app.close()

    def _send(self, task: str, arguments: Sequence[object], *, returns: int = 0) -> None:
        with broker_errors(self._url):
            self._app.send_task(task, args=arguments, retries=returns)


class Hints:
    """The small keys in Redis beside the queues: directives to executions, stopped jobs, wake-ups."""

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self._redis = connect_redis(redis_url)

    def direct(self, directives: dict[str, Directive]) -> None:
        """Leave directives, by execution id."""
        with broker_errors(self._url):
            pipeline = self._redis.pipeline(transaction=False)
            for execution, directive in directives.items():
                pipeline.set(DIRECTIVE_KEY.format(execution=execution), encode(directive), ex=HINT_SECONDS)
            pipeline.execute()

    def directives(self, executions: Sequence[str]) -> dict[str, Directive]:
        """The directives that are there for these executions. One that cannot be read counts as not there."""
        if not executions:
            return {}
        with broker_errors(self._url):
            texts = self._redis.mget([DIRECTIVE_KEY.format(execution=execution) for execution in executions])
        found = {}
        for execution, text in zip(executions, texts, strict=True):
            if text is not None:
                try:
                    found[execution] = decode(text, Directive)
                except ContractError:
                    continue
        return found

    def stop_job(self, job: str, reason: str) -> None:
        """Tell workers that a job's shards are not wanted any more."""
        with broker_errors(self._url):
            self._redis.set(JOB_STOP_KEY.format(job=job), reason, ex=HINT_SECONDS)

    def forget_stop(self, job: str) -> None:
        """Take `stop_job` back, for a job that goes on."""
        with broker_errors(self._url):
            self._redis.delete(JOB_STOP_KEY.format(job=job))

    def stopped_jobs(self, jobs: Sequence[str]) -> dict[str, str]:
        """Those of the jobs that are stopped, with the reason."""
        if not jobs:
            return {}
        with broker_errors(self._url):
            reasons = self._redis.mget([JOB_STOP_KEY.format(job=job) for job in jobs])
        return {job: str(reason) for job, reason in zip(jobs, reasons, strict=True) if reason is not None}

    def wake(self) -> None:
        """Tell the scheduler that there may be something to do."""
        with broker_errors(self._url):
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.lpush(WAKE_KEY, b"1")
            pipeline.ltrim(WAKE_KEY, 0, 0)  # one is enough to wake
            pipeline.execute()

    def wait(self, seconds: float) -> bool:
        """Wait for `wake`, at most `seconds`; says whether it came."""
        with broker_errors(self._url):
            return self._redis.blpop([WAKE_KEY], timeout=seconds) is not None

    def waiting_shards(self) -> int:
        """Messages in the generation queue that no worker has taken."""
        with broker_errors(self._url):
            return int(self._redis.llen(GENERATE_QUEUE))

    def waiting_reports(self) -> int:
        """Messages in the queue of reports that no control worker has taken."""
        with broker_errors(self._url):
            return int(self._redis.llen(REPORTS_QUEUE))

    def ping(self) -> None:
        """Raise BrokerError unless Redis answers."""
        with broker_errors(self._url):
            self._redis.ping()

    def eviction_policy(self) -> str:
        """Redis's `maxmemory-policy`; anything but `noeviction` loses messages when memory is short."""
        with broker_errors(self._url):
            settings = self._redis.config_get("maxmemory-policy")
        return str(msgspec.convert(settings, dict[str, str]).get("maxmemory-policy", "unknown"))

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()
