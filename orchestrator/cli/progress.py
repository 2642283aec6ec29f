"""How far a job is: figures from what the service says, and the two ways to show them on stderr.

On a terminal a bar is drawn; elsewhere (a log file, CI) a line is written when the phase changes and at every tenth.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orchestrator.lifecycle import JobStatus
from orchestrator.views import JobView
from workers.training_progress import TrainingProgress

if TYPE_CHECKING:
    from rich.console import Console

WINDOW_SECONDS = 20.0
"""Speeds are averages over this long."""
_RUNNING = {"loading": "loading model", "reading": "generating", "generating": "generating", "writing": "generating"}

_TRAINING = {"loading": "loading", "reading": "fetching its data", "generating": "training", "writing": "saving"}
_FOLLOWING = {
    "pass": "judging all rows",
    "redo": "drawing rejected rows again",
    "settled": "writing down what was rejected",
    "report": "writing the report",
    "over": "ending",
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job's progress at one moment."""

    phase: str
    done: int
    total: int | None
    """Items; None while they are being counted."""
    failed: int
    tokens_per_second: float | None
    seconds_left: float | None
    retries: int = 0
    """Times that a shard was, or will be, tried again."""
    trouble: str | None = None
    """Why one of them is."""
    images_per_second: float | None = None
    unit: str = "items"
    losses: str = ""
    """Of a training."""


class Speedometer:
    """Turns successive views of a job into snapshots."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int, int]] = deque()
        self._waited = True

    def look(self, job: JobView) -> Snapshot:
        """The progress that a view shows, with speeds from the views of the last seconds."""
        if job.training is not None:
            return training_snapshot(job, job.training)
        now = self._clock()
        done = job.counts.done
        tokens = job.usage.completion_tokens
        # Nothing is measured before something is generated: the first items end together, long after they began. And a
        # lost shard is run again: its items are open once more.
        waits = done == 0 and job.phase not in {"generating", "writing"}
        begins = done == 0 and self._waited
        if waits or begins or (self._seen and done < self._seen[-1][1]):
            self._seen.clear()
        self._waited = waits
        self._seen.append((now, done, tokens))
        # The last one before the window stays: it is where the window's first step began.
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_SECONDS:
            self._seen.popleft()
        then, done_then, tokens_then = self._seen[0]
        seconds = now - then
        per_second = (done - done_then) / seconds if seconds > 0 else 0.0
        planned = job.status is not JobStatus.VALIDATING
        left = job.items - done
        return Snapshot(
            phase=phase_of(job),
            done=done,
            total=job.items if planned else None,
            failed=job.counts.failed,
            tokens_per_second=(tokens - tokens_then) / seconds if seconds > 0 and tokens > tokens_then else None,
            seconds_left=left / per_second if planned and per_second > 0 and left > 0 and not job.ended else None,
            retries=job.losses + job.failures,
            trouble=None if job.ended else job.trouble,
            images_per_second=None if job.images is None or not per_second else per_second * job.images / max(1, done),
            unit="items" if job.rows is None else "blocks",
        )


def training_snapshot(job: JobView, training: TrainingProgress) -> Snapshot:
    """The progress of a training, which counts its own steps."""
    return Snapshot(
        phase=phase_of(job),
        done=training.step,
        total=training.steps or None,
        failed=job.counts.failed,
        tokens_per_second=None,
        seconds_left=None if job.ended else training.seconds_left,
        retries=job.losses + job.failures,
        trouble=None if job.ended else job.trouble,
        images_per_second=training.images_per_second or None,
        unit="steps",
        losses=losses_text(training),
    )


def losses_text(training: TrainingProgress) -> str:
    """The losses that were told last: `loss 0.1234`, or each with its name."""
    return ", ".join(f"{name} {value:.4g}" for name, value in training.losses.items())


def phase_of(job: JobView) -> str:
    """What a job does just now, in a person's words."""
    if job.status is JobStatus.VALIDATING:
        return "planning"
    if job.status is JobStatus.IN_PROGRESS:
        if job.following is not None and job.phase is None:
            return _FOLLOWING[job.following]
        if job.phase is None:
            # Between two shards nothing runs for a moment.
            return "generating" if job.counts.done else "queued"
        if job.kind == "train":
            return _TRAINING[job.phase]
        return _RUNNING[job.phase]
    return str(job.status.value)


def duration(seconds: float) -> str:
    """A span of time as people say it: `8 s`, `2 min 5 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def figures(snapshot: Snapshot) -> str:
    """The figures beside a bar, as far as they are known."""
    parts = [snapshot.losses] if snapshot.losses else []
    if snapshot.failed:
        parts.append(f"{snapshot.failed:,} failed")
    if snapshot.retries:
        parts.append(f"{snapshot.retries:,} {'retry' if snapshot.retries == 1 else 'retries'}")
    if snapshot.tokens_per_second is not None:
        parts.append(f"{snapshot.tokens_per_second:,.0f} tokens/s")
    if snapshot.images_per_second is not None:
        what = "examples" if snapshot.unit == "steps" else "images"
        parts.append(f"{snapshot.images_per_second:,.1f} {what}/s")
    if snapshot.seconds_left is not None:
        parts.append(f"{duration(snapshot.seconds_left)} left")
    return " · ".join(parts)


class Display(Protocol):
    """Somewhere to show progress."""

    def phase(self, text: str) -> None:
        """Say what happens before there is a job to look at."""
        ...

    def show(self, snapshot: Snapshot) -> None:
        """Show how far the job is."""
        ...


class Lines:
    """Progress as lines: a new phase, and every tenth of the items."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._phase = ""
        self._trouble: str | None = None
        self._tenth = 0

    def phase(self, text: str) -> None:
        """Write a line when the phase is another."""
        if text != self._phase:
            self._phase = text
            self._write(text)

    def show(self, snapshot: Snapshot) -> None:
        """Write a line when there is something new."""
        self.phase(snapshot.phase)
        if snapshot.trouble is not None and snapshot.trouble != self._trouble:
            self._write(f"trying again: {snapshot.trouble}")
        self._trouble = snapshot.trouble
        if not snapshot.total:
            return
        tenth = 10 * snapshot.done // snapshot.total
        if tenth > self._tenth:
            rest = figures(snapshot)
            self._write(
                f"{10 * tenth} % · {snapshot.done:,}/{snapshot.total:,} {snapshot.unit}{' · ' if rest else ''}{rest}"
            )
        self._tenth = tenth


@contextmanager
def display(console: Console) -> Iterator[Display]:
    """The display that suits a console: a bar on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield Lines(lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True))
        return
    from orchestrator.cli.bar import bar  # noqa: PLC0415 - rich's progress bars load only where one is drawn

    with bar(console) as shown:
        yield shown
