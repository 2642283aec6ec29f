"""A generation worker without engines: takes shards off the real queue and answers with parts that `shards` makes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty

from kombu import Connection, Queue

from tests.support.shards import execution_id, finished, report
from workers.broker import Publisher
from workers.contracts import GENERATE_QUEUE, ShardTask, decode
from workers.store import ObjectStore

POLL_SECONDS = 0.2


class Generation:
    """What the worker did, and how it is to behave."""

    def __init__(self, redis_url: str, store: ObjectStore) -> None:
        self.tasks: list[ShardTask] = []
        self.silent = False
        """Whether it takes shards and says nothing of them."""
        self._redis_url = redis_url
        self._store = store
        self.end = threading.Event()

    def run(self) -> None:
        publisher = Publisher(self._redis_url)
        with Connection(self._redis_url) as connection:
            queue = connection.SimpleQueue(Queue(GENERATE_QUEUE, routing_key=GENERATE_QUEUE), no_ack=True)
            while not self.end.is_set():
                try:
                    message = queue.get(timeout=POLL_SECONDS)
                except Empty:
                    continue
                [[text], *_] = message.payload
                self._work(publisher, decode(text, ShardTask))
            queue.close()
        publisher.close()

    def _work(self, publisher: Publisher, task: ShardTask) -> None:
        self.tasks.append(task)
        if self.silent:
            return
        execution = execution_id()
        publisher.reports([report(task, "started", execution), finished(task, execution, store=self._store)])


@contextmanager
def generating(redis_url: str, store: ObjectStore) -> Iterator[Generation]:
    """A worker in a thread, ended with the context."""
    worker = Generation(redis_url, store)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        worker.end.set()
        thread.join()
