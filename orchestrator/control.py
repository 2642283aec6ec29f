"""The control worker: takes reports and probes off their queue. Run as `python -m orchestrator.control`.

Its tasks are shells around `orchestrator.reports.apply` and `orchestrator.reaper.apply_probe`.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import time
from collections.abc import Sequence

from celery import Celery, Task
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from orchestrator import database, reaper, reports
from orchestrator.settings import Settings
from workers.broker import BrokerError, Hints, Publisher, make_celery
from workers.contracts import (
    APPLY_PROBE_TASK,
    APPLY_REPORTS_TASK,
    REPORTS_QUEUE,
    ContractError,
    ShardReport,
    UnknownVersionError,
    decode,
)
from workers.deaf import QueueWatch
from workers.settings import SettingsError, load_settings
from workers.unread import Unread

logger = logging.getLogger(__name__)


def read_reports(texts: Sequence[str]) -> tuple[list[ShardReport], list[str]]:
    """The reports of a message, and those texts that are of an unknown version.

    One that nobody can read is dropped alone: its execution is never acknowledged, stops by itself, and its lease runs
    out.
    """
    batch: list[ShardReport] = []
    unknown: list[str] = []
    for text in texts:
        try:
            batch.append(decode(text, ShardReport))
        except UnknownVersionError as error:
            logger.info("a report is put back: %s", error)
            unknown.append(text)
        except ContractError as error:
            logger.warning("a report was dropped: %s", error)
    return batch, unknown


def apply_reports(
    engine: Engine, hints: Hints, batch: Sequence[ShardReport], *, now: float, chance: random.Random
) -> None:
    """Apply a message of reports, and answer them.

    Nothing that fails here is lost: a worker sends again what is not acknowledged.
    """
    if not batch:
        return
    try:
        applied = reports.apply(engine, batch, now=now, chance=chance)
        hints.direct(applied.directives)
        if applied.wake:
            hints.wake()
    except DBAPIError as error:
        if not database.is_passing(error):
            raise
        logger.warning("%d reports were not applied and will come again: %s", len(batch), database.first_line(error))
    except BrokerError as error:
        logger.warning("%d reports were not acknowledged and will come again: %s", len(batch), error)


def make_app(settings: Settings, engine: Engine, hints: Hints, unread: Unread) -> Celery:
    """The Celery app with the control worker's tasks."""
    app = make_celery(settings.redis_url, name="nightmill-control")
    chance = random.Random()  # noqa: S311 - it spreads backoff, and guards nothing

    @app.task(name=APPLY_REPORTS_TASK, ignore_result=True, bind=True)  # type: ignore[untyped-decorator]  # celery has no types
    def apply_reports_task(this: Task, texts: list[str]) -> None:
        batch, unknown = read_reports(texts)
        if unknown:
            unread.keep(tuple(unknown), this.request.retries)
        apply_reports(engine, hints, batch, now=time.time(), chance=chance)

    @app.task(name=APPLY_PROBE_TASK, ignore_result=True)  # type: ignore[untyped-decorator]
    def apply_probe_task(name: str, value: int) -> None:
        reaper.apply_probe(engine, name, value, now=time.time())

    return app


def main() -> None:
    """Entry point of the control worker."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load_settings(Settings)
        engine = database.connect(settings.sql_url)
        database.check(engine)
    except (SettingsError, database.DatabaseError) as error:
        sys.exit(f"nightmill control: {error}")
    hints = Hints(settings.redis_url)
    publisher = Publisher(settings.redis_url)
    unread = Unread(publisher.put_back_reports)
    unread.start()
    # What it holds is in SQL, and what it has not acknowledged comes again.
    QueueWatch(hints.waiting_reports, places=1, end=lambda: os._exit(1)).start()
    try:
        make_app(settings, engine, hints, unread).worker_main(
            [
                "--quiet",
                "worker",
                # In order, one at a time: a probe then comes after the reports that were sent before it.
                "--pool=solo",
                f"--queues={REPORTS_QUEUE}",
                f"--hostname=control-{os.getpid()}@%h",
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
                "--loglevel=WARNING",
            ]
        )
    finally:
        unread.close()
        publisher.close()
        hints.close()
        engine.dispose()


if __name__ == "__main__":
    main()
