"""A job in words: what `nightmill show` prints, and what a run ends with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

from orchestrator.cli.progress import duration, losses_text, phase_of
from orchestrator.lifecycle import JobStatus
from orchestrator.views import JobView, NodeView
from workers.acceptance.figures import CheckFigures
from workers.training_progress import TrainingProgress


def ago(moment: float, now: float | None = None) -> str:
    """How long ago a moment was."""
    seconds = (time.time() if now is None else now) - moment
    return "now" if seconds < 1 else f"{duration(seconds)} ago"


def moment(seconds: float) -> str:
    """A time as the person's own clock shows it."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def item_counts(job: JobView) -> str:
    """`128 of 128 · 127 ok · 1 failed`."""
    counts = job.counts
    parts = [f"{counts.done:,} of {job.items:,}", f"{counts.ok:,} ok", f"{counts.failed:,} failed"]
    parts += [
        f"{value:,} {name}" for name, value in (("cancelled", counts.cancelled), ("expired", counts.expired)) if value
    ]
    what = " (blocks of rows)" if job.rows is not None else ""
    return " · ".join(parts) + what + (f" (over {len(job.nodes)} nodes)" if job.nodes else "")


def tokens(job: JobView) -> str:
    """Tokens read and written, and how fast they were written once the model was there."""
    usage = job.usage
    text = f"{usage.prompt_tokens:,} in · {usage.completion_tokens:,} out"
    seconds = generation_seconds(job)
    if seconds and usage.completion_tokens:
        text += f" · {usage.completion_tokens / seconds:,.0f} tokens/s"
    return text


def output(job: JobView) -> tuple[str, str]:
    """What came out of a job, as name and value: its images, its spoken texts, or its tokens."""
    if job.training is not None:
        return "training", training_text(job.training)
    if job.rows is not None:
        return "rows", rows_text(job)
    for name, made in (("images", job.images), ("spoken", job.sounds)):
        if made is not None:
            seconds = generation_seconds(job)
            rate = f" · {made / seconds:,.1f} {'images' if name == 'images' else 'texts'}/s" if seconds and made else ""
            return name, f"{made:,}{rate}"
    return "tokens", tokens(job)


def rows_text(job: JobView) -> str:
    """`1,000,000 · 24,000 rows/s`."""
    seconds = generation_seconds(job)
    rate = f" · {job.rows / seconds:,.0f} rows/s" if seconds and job.rows else ""
    return f"{job.rows or 0:,}{rate}"


def findings_lines(job: JobView) -> list[tuple[str, str]]:
    """What passes and the report have found, as names and values."""
    found = job.findings
    if found is None:
        return []
    lines = []
    if found.rounds:
        by_rule = ", ".join(f"{rule} {count:,}" for rule, count in sorted(found.rejected.items()))
        given_up = f" · {found.given_up:,} given up" if found.given_up else ""
        rounds = f"{found.rounds:,} {'round' if found.rounds == 1 else 'rounds'}"
        lines.append(
            ("passes", f"{rounds} · {found.drawn_again:,} drawn again{given_up}{f' · {by_rule}' if by_rule else ''}")
        )
    if found.report is not None:
        figures = " · ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in found.report.figures.items())
        lines.append(("report", figures or "made"))
    return lines


def node_text(node: NodeView) -> str:
    """`copy · text by smollm2-135m · completed · 200 of 200 · 1 failed · 01K…`."""
    counts = node.counts
    parts = [node.name, f"{node.kind} by {node.model}", node.status.value]
    if node.waits_for and node.status is JobStatus.IN_PROGRESS:
        parts[-1] = f"waits for {', '.join(node.waits_for)}"
    parts.append(f"{counts.done:,} of {node.items:,}")
    if counts.failed:
        parts.append(f"{counts.failed:,} failed")
    return " · ".join([*parts, node.job])


def checks_text(checks: CheckFigures | None) -> Iterator[str]:
    """`words: 12 answers rejected · 9 items mended · 1 failed`, a line for each rule, after one for all."""
    if checks is None:
        return
    yield f"{checks.again:,} answers beyond the first · {checks.repaired:,} items repaired"
    for name, rule in checks.rules.items():
        figures = {"answers rejected": rule.rejected, "items mended": rule.mended, "failed": rule.failed}
        parts = [f"{count:,} {what}" for what, count in figures.items() if count]
        if rule.found:
            parts.append(f"found in {rule.found:,} items")
        yield f"{name}: {' · '.join(parts)}"


def training_text(training: TrainingProgress) -> str:
    """`step 500 of 2,000 · loss 0.1234 · 310 examples/s · last checkpoint at 500`."""
    parts = [f"step {training.step:,} of {training.steps:,}", losses_text(training)]
    if training.images_per_second:
        parts.append(f"{training.images_per_second:,.0f} examples/s")
    if training.resumed_at:
        parts.append(f"went on from step {training.resumed_at:,}")
    if training.checkpoint is not None:
        parts.append(f"last checkpoint at {training.checkpoint:,}")
    return " · ".join(part for part in parts if part)


def model_text(job: JobView) -> str:
    """The model of a job: of a training the one that it makes, as a later job names it."""
    if job.nodes:
        return job.model
    return f"{job.model}@{job.id}" if job.kind == "train" else f"{job.model} (engine: {job.engine})"


def training_keys(training: TrainingProgress | None) -> Iterator[tuple[str, str]]:
    """Where in the store there is something to look at of a training, as name and value."""
    if training is None:
        return
    kept = {"samples": training.samples, "losses": training.history, "events": training.events}
    for name, key in kept.items():
        if key is not None:
            yield name, f"{key} in the store"


def generation_seconds(job: JobView) -> float | None:
    """Wall time from the moment that the model was there; None before the job has ended."""
    timings = job.timings
    if timings.wall is None or timings.queued is None or job.nodes:
        return None  # a flow loads its models one after the other, in between
    return max(0.0, timings.wall - timings.queued - timings.load)


def wall_time(job: JobView) -> str:
    """Where the time went, as phases that follow each other."""
    timings = job.timings
    parts = []
    if timings.queued is not None:
        parts.append(f"queued {duration(timings.queued)}")
    if timings.load:
        parts.append(f"model load {duration(timings.load)}")
    generation = generation_seconds(job)
    if generation is not None:
        parts.append(f"generation {duration(generation)}")
    if timings.wall is None:
        return " · ".join(parts) or "not started"
    return duration(timings.wall) + (f": {' · '.join(parts)}" if parts else "")


def shard_work(job: JobView) -> str:
    """What the shards' work comes to."""
    timings = job.timings
    spans = {"reading": timings.read, "generation": timings.generate, "writing": timings.write}
    text = " · ".join(f"{name} {duration(seconds)}" for name, seconds in spans.items())
    return f"{text} (sums over {job.shard_count:,} shards, several at a time)"


def error_text(job: JobView, source: str | None = None) -> str | None:
    """Why the job failed, with the place; `source` is the name that the person knows the source file by."""
    error = job.error
    if error is None:
        return None
    file = source if error.file is not None and source is not None else error.file
    place = ", ".join([*([file] if file else []), *([f"line {error.line}"] if error.line else [])])
    return f"{place}: {error.message}" if place else error.message


def expected(job: JobView, now: float) -> str | None:
    """When a job in progress is expected to be done; None where nobody knows."""
    if job.predicted_finish_at is None:
        return None
    left = job.predicted_finish_at - now
    text = f"{moment(job.predicted_finish_at)} ({f'in {duration(left)}' if left >= 1 else 'any moment'})"
    if job.deadline_at is not None and job.predicted_finish_at > job.deadline_at:
        text += f" · {duration(job.predicted_finish_at - job.deadline_at)} after its deadline"
    return text


def prediction_quality(job: JobView) -> str | None:
    """How good the first prediction was, of a job that ran to its end at once; None where there is nothing to say."""
    first = job.first_prediction
    if first is None or job.finished_at is None or job.status is not JobStatus.COMPLETED or job.manifest_version > 1:
        return None
    off = job.finished_at - first.finish_at
    text = f"{moment(first.finish_at)} · it took {duration(abs(off))} {'longer' if off >= 0 else 'less'}"
    return f"{text}, {abs(first.off_by(job.finished_at)):.0%} of {duration(job.finished_at - first.made_at)}"


def describe(job: JobView, now: float | None = None) -> Iterator[tuple[str, str]]:
    """The lines of `nightmill show`, as name and value; `now` is in seconds since the epoch."""
    yield "id", job.id
    yield "name", job.name
    yield "model", model_text(job)
    running = phase_of(job)
    yield "status", job.status.value if running == job.status.value else f"{job.status.value} · {running}"
    why = error_text(job)
    if why is not None:
        yield "error", why
    yield "items", item_counts(job)
    yield from (("parent", f"{each} (its rows are the subjects)") for each in (job.parent,) if each is not None)
    yield from (("rules", line) for line in checks_text(job.checks))
    yield from (("node", node_text(node)) for node in job.nodes)
    shards = " · ".join(f"{count:,} {name}" for name, count in sorted(job.shards.items()))
    yield "shards", f"{job.shard_count:,}" + (f" · {shards}" if shards else "")
    yield output(job)
    yield from findings_lines(job)
    yield "time", wall_time(job)
    if job.started_at is not None:
        yield "work", shard_work(job)
    if job.losses or job.failures:
        yield "retries", f"{job.losses:,} lost workers · {job.failures:,} failures of the engine"
    if job.trouble is not None and job.error is None:
        yield "trouble", job.trouble
    yield from training_keys(job.training)
    yield "priority", job.priority
    yield "submitted", moment(job.created_at)
    ahead = expected(job, time.time() if now is None else now)
    if ahead is not None:
        yield "expected", ahead
    if job.finished_at is not None:
        yield "ended", moment(job.finished_at)
    quality = prediction_quality(job)
    if quality is not None:
        yield "predicted", quality
    if job.deadline_at is not None:
        yield "deadline", moment(job.deadline_at)
    for name, value in job.metadata.items():
        yield "metadata", f"{name} = {value}"
