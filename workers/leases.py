"""What a worker says of its shards, and what it is told of them.

Every execution holds a lease by renewing it: at each beat the worker gathers the progress of all its executions, sends
one message with those that have news or are due, and reads the directives that the orchestrator left. Reports are
cumulative and numbered. One that is not acknowledged is sent again, so that losing some loses nothing; an execution
that has not been acknowledged for a whole lease stops by itself, since its shard may be somebody else's by now. While
the broker cannot be reached the reaper judges nobody, so executions go on for a few leases more.

The orchestrator's side is `orchestrator.reports` and `orchestrator.reaper`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ulid import ULID

from workers.broker import BrokerError
from workers.contracts import Counts, Directive, Failure, Part, ReportEvent, ShardReport, ShardTask
from workers.execute import Progress
from workers.training_progress import TrainingProgress

logger = logging.getLogger(__name__)
RESEND_SECONDS = 1.0
"""How long an acknowledgement may take before a report is sent again."""
RENEWALS_PER_LEASE = 4
OUTAGE_LEASES = 5
"""Leases for which executions go on while the broker cannot be reached."""
BEAT_SECONDS = 1.0
"""How often actors are asked for their progress, and Redis for what is to be stopped."""
PROGRESS_SECONDS = 2.0
"""How often counts are worth a report. A new phase or an end is reported at once."""
EAGER_SECONDS = 0.05
"""Pause between beats while a grant or an acknowledgement is awaited."""


class Reports(Protocol):
    """Where reports go: `workers.broker.Publisher`."""

    def reports(self, reports: Sequence[ShardReport]) -> None:
        """Send them, in one message."""
        ...


class Answers(Protocol):
    """Where answers come from: `workers.broker.Hints`."""

    def directives(self, executions: Sequence[str]) -> dict[str, Directive]:
        """The directive of each execution that has one."""
        ...

    def stopped_jobs(self, jobs: Sequence[str]) -> dict[str, str]:
        """Those of the jobs that are stopped, with the reason."""
        ...


class Lease:
    """One execution's right to a shard. Owned by its `LeaseKeeper`; read it, and end it with one of three methods."""

    def __init__(self, keeper: LeaseKeeper, task: ShardTask, now: float) -> None:
        self.task = task
        self.execution = str(ULID())
        self.granted = False
        self.stopped: str | None = None
        """Why the execution must stop, once it must."""
        self.progress = Progress()
        self.event: ReportEvent = "started"
        self.part: Part | None = None
        self.failure: Failure | None = None
        self.sequence = 0
        self.sent_at = float("-inf")
        self.sent: tuple[object, ...] = ()
        self.sent_counts: tuple[Counts, TrainingProgress | None] = (Counts(), None)
        self.acknowledged = 0
        self.acknowledged_at = now
        self._keeper = keeper

    @property
    def ended(self) -> bool:
        """Whether the execution has ended, and only its last report is still to be acknowledged."""
        return self.event not in {"started", "progress"}

    def finish(self, part: Part, progress: Progress) -> None:
        """The shard is done."""
        self._end("finished", progress, part=part)

    def fail(self, failure: Failure, progress: Progress, part: Part | None = None) -> None:
        """The shard could not be done; `part` holds what was."""
        self._end("failed", progress, part=part, failure=failure)

    def hand_back(self, progress: Progress, part: Part | None = None) -> None:
        """The shard was given up, by no fault of its own; `part` holds what was done of it."""
        self._end("handed_back", progress, part=part)

    def news(self) -> tuple[object, ...]:
        """What is worth a report at once, where it differs from what was last sent."""
        return (self.event, self.progress.phase)

    def report(self, worker: str) -> ShardReport:
        """The next report."""
        self.sequence += 1
        return ShardReport(
            job=self.task.job,
            shard=self.task.shard,
            token=self.task.token,
            execution=self.execution,
            worker=worker,
            sequence=self.sequence,
            event=self.event,
            counts=self.progress.counts,
            usage=self.progress.usage,
            timings=self.progress.timings,
            phase=self.progress.phase,
            part=self.part,
            failure=self.failure,
            training=self.progress.training,
        )

    def _end(
        self, event: ReportEvent, progress: Progress, *, part: Part | None = None, failure: Failure | None = None
    ) -> None:
        with self._keeper.lock:
            self.part, self.failure, self.progress, self.event = part, failure, progress, event
        self._keeper.hurry()


class LeaseKeeper:
    """All leases of one worker process. `beat` is called by one thread; everything else by any.

    Args:
        worker: this worker's name, for people.
        exchange: given the executions granted so far and those to stop with their reasons, answers with the progress
            of each execution that runs.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        *,
        worker: str,
        reports: Reports,
        answers: Answers,
        exchange: Callable[[Sequence[str], Mapping[str, str]], Mapping[str, Progress]],
        lease_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._worker = worker
        self._reports = reports
        self._answers = answers
        self._exchange = exchange
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._leases: dict[str, Lease] = {}
        self.lock = threading.Lock()
        self._news = threading.Event()
        self._unreachable_since: float | None = None

    def open(self, task: ShardTask) -> Lease | None:
        """Begin an execution, or None where this process already runs that attempt: the message came twice."""
        attempt = (task.job, task.shard, task.token)
        with self.lock:
            for lease in self._leases.values():
                if (lease.task.job, lease.task.shard, lease.task.token) == attempt:
                    return None
            lease = Lease(self, task, self._clock())
            self._leases[lease.execution] = lease
        self.hurry()
        return lease

    @property
    def running(self) -> int:
        """Executions that have not ended."""
        with self.lock:
            return sum(not lease.ended for lease in self._leases.values())

    @property
    def idle(self) -> bool:
        """Whether nothing runs, and every last report has been acknowledged or given up."""
        with self.lock:
            return not self._leases

    def stop_all(self, reason: str) -> None:
        """Stop every execution; each is then handed back by whoever runs it."""
        with self.lock:
            for lease in self._leases.values():
                lease.stopped = lease.stopped or reason
        self.hurry()

    def hurry(self) -> None:
        """Let the next beat come at once."""
        self._news.set()

    def wait(self) -> None:
        """Wait until the next beat is due, or for `hurry`."""
        with self.lock:
            eager = any(not lease.granted or lease.ended for lease in self._leases.values())
        self._news.wait(EAGER_SECONDS if eager else min(BEAT_SECONDS, self._lease_seconds / RENEWALS_PER_LEASE))
        self._news.clear()

    def beat(self) -> None:
        """One round: gather progress, send what is new or due, read the answers."""
        with self.lock:
            leases = list(self._leases.values())
        if not leases:
            return
        granted = [lease.execution for lease in leases if lease.granted and not lease.ended]
        stops = {lease.execution: lease.stopped for lease in leases if lease.stopped and not lease.ended}
        current = self._exchange(granted, stops)
        with self.lock:
            for lease in leases:
                if not lease.ended and lease.execution in current:
                    lease.progress = current[lease.execution]
                    lease.event = "progress" if lease.granted else "started"
        try:
            self._send(leases)
            self._answer(leases)
        except BrokerError as error:
            if self._unreachable_since is None:
                self._unreachable_since = self._clock()
                logger.warning("%s; reports are kept and sent again", error)
        else:
            if self._unreachable_since is not None:
                self._begin_anew(leases)
        self._judge(leases)

    def _begin_anew(self, leases: Sequence[Lease]) -> None:
        """Give every lease its whole time again: nothing could be acknowledged while the broker was away."""
        logger.warning("the broker can be reached again")
        self._unreachable_since = None
        for lease in leases:
            lease.acknowledged_at = self._clock()

    def _send(self, leases: Sequence[Lease]) -> None:
        now = self._clock()
        due = [lease for lease in leases if self._is_due(lease, now)]
        if not due:
            return
        with self.lock:
            saying = [(lease, lease.news(), lease.report(self._worker)) for lease in due]
        self._reports.reports([report for _, _, report in saying])
        for lease, news, report in saying:
            lease.sent, lease.sent_counts, lease.sent_at = news, (report.counts, report.training), now

    def _is_due(self, lease: Lease, now: float) -> bool:
        if lease.news() != lease.sent:
            return True
        silent = now - lease.sent_at
        if lease.acknowledged < lease.sequence:
            return silent >= RESEND_SECONDS
        if (lease.progress.counts, lease.progress.training) != lease.sent_counts:
            return silent >= PROGRESS_SECONDS
        return silent >= self._lease_seconds / RENEWALS_PER_LEASE

    def _answer(self, leases: Sequence[Lease]) -> None:
        stopped = self._answers.stopped_jobs(sorted({lease.task.job for lease in leases}))
        directives = self._answers.directives([lease.execution for lease in leases])
        for lease in leases:
            directive = directives.get(lease.execution)
            if directive is not None:
                self._obey(lease, directive)
            if lease.task.job in stopped:
                lease.stopped = lease.stopped or stopped[lease.task.job]

    def _obey(self, lease: Lease, directive: Directive) -> None:
        if directive.acknowledged > lease.acknowledged:
            lease.acknowledged, lease.acknowledged_at = directive.acknowledged, self._clock()
        if directive.command == "stop":
            lease.stopped = lease.stopped or directive.reason or "the orchestrator says stop"
        elif not lease.granted:
            lease.granted = True
            self.hurry()  # the actor may be waiting for it to write

    def _judge(self, leases: Sequence[Lease]) -> None:
        now = self._clock()
        over = []
        if self._unreachable_since is not None and now - self._unreachable_since < OUTAGE_LEASES * self._lease_seconds:
            return
        for lease in leases:
            lapsed = now - lease.acknowledged_at >= self._lease_seconds
            if lease.ended and (lapsed or (lease.sent == lease.news() and lease.acknowledged >= lease.sequence)):
                over.append(lease.execution)  # where it lapsed, the reaper finds the part
            elif lapsed and lease.stopped is None:
                lease.stopped = f"no report was acknowledged for {self._lease_seconds:g} s"
                logger.warning("shard %s/%s: %s", lease.task.job, lease.task.shard, lease.stopped)
        with self.lock:
            for execution in over:
                del self._leases[execution]
