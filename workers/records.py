"""The record that every item ends with, and the part that holds a shard's records.

A part is JSON lines, one record an item, in item order. Its shape is the results' shape that users see, so that a
finished job needs no copy: its result file is its parts, read one after the other.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from models.images import StepName
from models.spec import FinishReason, ItemError, Output, Reproducible, Usage
from workers.acceptance.figures import CheckFigures, FigureSum, ItemChecks
from workers.contracts import Counts, Part, Row
from workers.trained_models import TrainedModel
from workers.training_progress import TrainingProgress

SCHEMA_VERSION = 1
Status = Literal["ok", "failed", "cancelled", "expired"]


class StoredImage(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """An image in the store, as its item's record names it."""

    key: str
    width: int
    height: int
    bytes: int
    sha256: str
    content_type: str
    seed: int
    batch: int
    """How many pictures were made in the batch that it was made in."""
    place: int = 0
    """At which place in that batch, from 0."""
    unsigned_sha256: str | UnsetType = UNSET
    """Of a file with Content Credentials: the digest that it had before it was signed, which is the same each time."""
    safety: dict[str, float] | UnsetType = UNSET
    """What the classifiers said of it, from 0 to 1, where they were asked."""


class StoredAudio(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """A sound in the store, as its item's record names it."""

    key: str
    seconds: float
    sample_rate: int
    """Samples a second."""
    bytes: int
    sha256: str
    content_type: str
    seed: int


class StoredTable(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """A block of rows in the store, as Parquet."""

    key: str
    rows: int
    bytes: int
    sha256: str
    draws: int
    """How often candidates were drawn for it."""
    candidates: int
    """How many these were; of a linked table, subjects."""
    rejected: dict[str, int] = {}
    """By rule, how many of them it did not let pass."""
    subjects: int | UnsetType = UNSET
    """Of a linked table: the subjects that its rows belong to."""


class RejectedPart(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """What a pass has rejected of one part."""

    part: str
    key: str
    """Of the list."""
    rejected: int


class Verdict(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """What a pass over all of a job's rows came to."""

    round: int
    accepted: int
    rejected: int
    rules: dict[str, int] = {}
    """By rule, how many rows it rejected in this round."""
    parts: tuple[RejectedPart, ...] = ()
    """Those of which something was rejected, in order."""


class StoredReport(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """A report in the store."""

    html: str
    """Its keys."""
    json: str
    figures: dict[str, float] = {}
    """The most telling."""
    held: tuple[str, ...] = ()
    """Why the dataset is held back, in words; nothing where it is not."""


class Record(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """One item's end. Fields that do not apply are left out of the JSON."""

    index: int
    custom_id: str | UnsetType = UNSET
    status: Status
    output: str | dict[str, Any] | UnsetType = UNSET  # with a schema, the object itself: any JSON
    outputs: tuple[Output, ...] | UnsetType = UNSET
    images: tuple[StoredImage, ...] | UnsetType = UNSET
    audio: tuple[StoredAudio, ...] | UnsetType = UNSET
    table: StoredTable | UnsetType = UNSET
    verdict: Verdict | UnsetType = UNSET
    report: StoredReport | UnsetType = UNSET
    prompt: str | UnsetType = UNSET
    """Of images: what was asked for. Of audio: what is spoken."""
    trained: TrainedModel | UnsetType = UNSET
    """Of a training job: the model that it has made."""
    training: TrainingProgress | UnsetType = UNSET
    """Of a training job: how it ended, and where its losses and event files are."""
    finish_reason: FinishReason | UnsetType = UNSET
    error: ItemError | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    model: str | UnsetType = UNSET
    model_revision: str | UnsetType = UNSET
    adapters: dict[str, str] | UnsetType = UNSET
    """Of the model, by name: the digest of each one's weights."""
    seed: int | UnsetType = UNSET
    reproducible: Reproducible | UnsetType = UNSET
    steps: tuple[StepName, ...] | UnsetType = UNSET
    """Of images: what was done, in order."""
    settings: dict[str, Any] | UnsetType = UNSET  # of image or audio, as JSON, the engine's choices included
    input: Row | UnsetType = UNSET
    checks: ItemChecks | UnsetType = UNSET
    """Of a job with rules: where not everything was right at once."""
    created: int | UnsetType = UNSET
    """Of a request of a batch: when it was answered, in seconds since the epoch."""
    attempts: int = 1
    schema_version: int = SCHEMA_VERSION


class _Rows(msgspec.Struct):
    """As much of a block as it takes to count its rows, where their number is its own."""

    rows: int
    subjects: int | None = None


class _Outline(msgspec.Struct):
    """As much of a record as it takes to check and count a part."""

    index: int
    status: Status
    attempts: int = 1
    usage: Usage = Usage()
    checks: ItemChecks | None = None
    table: _Rows | None = None


class BrokenPartError(Exception):
    """A part is not whole: it lacks an item, has one twice, or holds a line that is no record."""


_encoder = msgspec.json.Encoder()
_outlines = msgspec.json.Decoder(_Outline)


def encode_record(record: Record) -> bytes:
    """A record as one line of JSON, without its newline."""
    return _encoder.encode(record)


def item_seed(seed: int, index: int, attempt: int = 1, trial: int = 1) -> int:
    """The 63-bit seed of an item: a digest of the job's seed and the item's index, whatever the sharding.

    A later attempt gets another seed, or an item that failed by chance of its seed would fail again; and so does a
    later try within an attempt, of a job whose answers have to satisfy rules.
    """
    text = f"{seed}/{index}" if attempt == trial == 1 else f"{seed}/{index}/{attempt}"
    text = text if trial == 1 else f"{text}/{trial}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def read_part(key: str, data: bytes, *, first: int, count: int) -> Part:
    """Check a part whole, and describe it.

    Raises:
        BrokenPartError: it does not hold exactly one record for each item `first` to `first + count`.
    """
    ok = 0
    prompt_tokens = completion_tokens = 0
    expected = first
    rows: int | None = None
    sums = FigureSum()
    for line in data.splitlines():
        try:
            outline = _outlines.decode(line)
        except msgspec.MsgspecError as error:
            raise BrokenPartError(f"{key}: line {expected - first + 1} is not a record: {error}") from error
        if outline.index != expected:
            raise BrokenPartError(f"{key}: item {outline.index} stands where item {expected} should be")
        expected += 1
        ok += outline.status == "ok"
        if outline.checks is not None:
            sums.add(outline.checks, ok=outline.status == "ok")
        rows = _with_rows(rows, outline)
        prompt_tokens += outline.usage.prompt_tokens
        completion_tokens += outline.usage.completion_tokens
    if expected != first + count or not data.endswith(b"\n"):
        raise BrokenPartError(f"{key}: holds {expected - first} of {count} records")
    usage = Usage(prompt_tokens, completion_tokens)
    return describe_part(key, data, Counts(ok, count - ok), usage, checks=sums.figures, rows=rows)


def describe_part(
    key: str, data: bytes, counts: Counts, usage: Usage, *, checks: CheckFigures | None = None, rows: int | None = None
) -> Part:
    """What is reported of a part that was just made."""
    digest = hashlib.sha256(data).hexdigest()
    return Part(key=key, bytes=len(data), sha256=digest, counts=counts, usage=usage, checks=checks, rows=rows)


def linked_rows(data: bytes) -> int | None:
    """The rows of the blocks of a part of a linked table; None of another part."""
    rows: int | None = None
    for line in data.splitlines():
        rows = _with_rows(rows, _outlines.decode(line))
    return rows


def _with_rows(rows: int | None, outline: _Outline) -> int | None:
    if outline.table is None or outline.table.subjects is None:
        return rows
    return (rows or 0) + outline.table.rows


def check_figures(data: bytes) -> CheckFigures | None:
    """What the records of a part say of the rules, added up; None where they say nothing."""
    sums = FigureSum()
    for line in data.splitlines():
        outline = _outlines.decode(line)
        if outline.checks is not None:
            sums.add(outline.checks, ok=outline.status == "ok")
    return sums.figures


class EarlierRecord(msgspec.Struct, frozen=True):
    """A record of an earlier attempt: how it ended, and its line as it was."""

    ok: bool
    attempts: int
    line: bytes
    usage: Usage
    refused: ItemError | None = None
    """Why the item now ends as failed, whatever it was before."""


def earlier_records(data: bytes) -> dict[int, EarlierRecord]:
    """The records of a part by item index."""
    records = {}
    for line in data.splitlines():
        outline = _outlines.decode(line)
        records[outline.index] = EarlierRecord(outline.status == "ok", outline.attempts, line, outline.usage)
    return records
