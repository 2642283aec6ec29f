"""The progress bar on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from orchestrator.cli.progress import Snapshot, figures


class Bar:
    """One line that is drawn again and again: phase, bar, items, speed, time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._trouble: str | None = None
        self._task = progress.add_task("", total=None, items="", figures="")

    def phase(self, text: str) -> None:
        """Name the phase."""
        self._progress.update(self._task, description=text)

    def show(self, snapshot: Snapshot) -> None:
        """Draw how far the job is, and write above the bar why something is tried again."""
        if snapshot.trouble is not None and snapshot.trouble != self._trouble:
            self._progress.console.print(f"trying again: {snapshot.trouble}", highlight=False, markup=False)
        self._trouble = snapshot.trouble
        done = f"{snapshot.done:,}" if snapshot.total is None else f"{snapshot.done:,}/{snapshot.total:,}"
        items = f"{done} {snapshot.unit}"
        self._progress.update(
            self._task,
            description=snapshot.phase,
            completed=snapshot.done,
            total=snapshot.total,
            items=items if snapshot.total is not None or snapshot.done else "",
            figures=figures(snapshot),
        )


@contextmanager
def bar(console: Console) -> Iterator[Bar]:
    """Draw a bar until the context ends; its last state stays on the screen only if it was finished."""
    with Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description:<13}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[items]}"),
        TextColumn("{task.fields[figures]}", style="cyan"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        refresh_per_second=8,
    ) as progress:
        yield Bar(progress)
