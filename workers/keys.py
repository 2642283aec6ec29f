"""Where things lie in Nightmill's own store: the keys and prefixes of a job's objects."""

from __future__ import annotations


def part_key(job: str, shard: int, token: int, execution: str) -> str:
    """Where an execution leaves its part. Known beforehand, so that a lost report can be made up by looking there."""
    return f"{parts_prefix(job)}{shard:06d}-{token:04d}-{execution}.jsonl"


def partial_key(job: str, shard: int, token: int, execution: str) -> str:
    """Where an execution that is interrupted leaves the records of the items that had ended."""
    return f"{parts_prefix(job)}{shard:06d}-{token:04d}-{execution}.partial.jsonl"


def images_folder(job: str, shard: int, token: int, execution: str) -> str:
    """Where an execution leaves its images: its own alone, so that no other overwrites or removes them."""
    return f"{images_prefix(job)}{shard:06d}-{token:04d}-{execution}/"


def images_prefix(job: str) -> str:
    """Where all images of a job lie."""
    return f"jobs/{job}/images/"


def audio_folder(job: str, shard: int, token: int, execution: str) -> str:
    """Where an execution leaves its sounds: its own alone, as `images_folder`."""
    return f"{audio_prefix(job)}{shard:06d}-{token:04d}-{execution}/"


def audio_prefix(job: str) -> str:
    """Where all sounds of a job lie."""
    return f"jobs/{job}/audio/"


def table_folder(job: str, shard: int, token: int, execution: str) -> str:
    """Where an execution leaves its blocks of rows: its own alone, as `images_folder`."""
    return f"{tables_prefix(job)}{shard:06d}-{token:04d}-{execution}/"


def tables_prefix(job: str) -> str:
    """Where all blocks of a table lie."""
    return f"jobs/{job}/table/"


def pass_folder(job: str, by: str, execution: str) -> str:
    """Where an execution of the pass or report `by` over a job leaves what it has found: its own alone."""
    return f"{passes_prefix(job)}{by}/{execution}/"


def passes_prefix(job: str) -> str:
    """Where all that passes over a job, and its report, have left lies."""
    return f"jobs/{job}/passes/"


def checkpoints_prefix(job: str) -> str:
    """Where the checkpoints of a training job lie."""
    return f"jobs/{job}/checkpoints/"


def source_tables_prefix(job: str) -> str:
    """Where the rows lie that a model of tables was fitted to, `train.parquet`, and those held out, `holdout.parquet`.

    Each execution of the job writes the same.
    """
    return f"jobs/{job}/source/"


def training_folder(job: str, execution: str) -> str:
    """Where an execution of a training leaves what there is to look at: its own alone."""
    return f"jobs/{job}/training/{execution}/"


def events_prefix(job: str) -> str:
    """Where the event files of all executions of a training lie: TensorBoard reads one folder as one run."""
    return f"jobs/{job}/training/events/"


def item_file_name(index: int, k: int | None, suffix: str) -> str:
    """The name of an image's or a sound's file; `k` says which of its item's it is, where that has several."""
    return f"{index}{'' if k is None else f'-{k}'}.{suffix}"


def parts_prefix(job: str) -> str:
    """Where all parts of a job lie."""
    return f"jobs/{job}/parts/"
