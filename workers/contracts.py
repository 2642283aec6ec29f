"""The wire between orchestrator and workers: frozen, versioned messages that own their encoding.

They travel as JSON through Celery. A message with an unknown field or version is refused whole, never half read.

During an upgrade, processes of two versions work side by side, so both must get along with what the other writes:

- A field is only ever added, with a default that means what the version before did without it. Fields with default
  values are left out of the JSON: a message that says nothing new is one that an older reader understands.
- A field that a reader may not overlook raises `WIRE_VERSION`, and is entered in `lowest_version`. A sender writes the
  lowest version that can say what it says; a message without a version is of version 1.
- A reader refuses a higher version with `UnknownVersionError`: it puts the message back for a process that can read
  it (`workers.unread`). Anything else that cannot be read is no message of ours, and is dropped.

Version 1 is the first. Version 2 adds `skip` and `alone` to ShardTask: who overlooks them reads other rows, or takes
other shards down with its engine. Version 3 adds `image` to Work: who overlooks it answers with text. Version 4 adds
`train` to Work, and `training` to ShardReport. Version 5 adds `deny` and `audio` to Work: who overlooks them makes what
is forbidden, or answers with text.
Version 6 adds `upstream` to Work and ShardTask: who overlooks it renders templates without what an earlier node made.
Version 7 adds `adapter` to Work, `adapters` to ImageWork and `tune` to TrainWork: who overlooks one answers without the
adapter, or trains something else.
Version 8 adds `table`, `dataset`, `pass_over`, `report` and `accept` to Work, `fit` to TrainWork, `redo` to ShardTask
and `checks` to Part: who overlooks them answers with text, trains something else, or keeps what was rejected.
Version 9 adds linked tables: `foreign_key`, `order_by` and `parent` to FitWork, `linked`, `parent` and `most` to
TableWork, and `rows` to Part: who overlooks them takes rows that belong together for rows that stand alone.
And it adds `requests` to Work: who overlooks it finds nothing to ask in a row.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec

from models.audio import AudioSettings
from models.errors import FailureKind
from models.images import ImageFormat, ImageSettings, StepName
from models.spec import EchoOptions, JsonSchema, Message, Sampling, Usage
from models.training.settings import TrainingSettings
from workers.acceptance.figures import CheckFigures
from workers.acceptance.rules import Accept
from workers.training_progress import TrainingProgress

WIRE_VERSION = 9
"""The highest that this process speaks."""
GENERATE_QUEUE = "nightmill.generate"
REPORTS_QUEUE = "nightmill.reports"
RUN_SHARD_TASK = "nightmill.run_shard"
APPLY_REPORTS_TASK = "nightmill.apply_reports"
APPLY_PROBE_TASK = "nightmill.apply_probe"
DIRECTIVE_KEY = "nightmill:directive:{execution}"
JOB_STOP_KEY = "nightmill:stop:{job}"
WAKE_KEY = "nightmill:wake"
MODEL_NOT_LOADED = "model_not_loaded"
"""Code of the failure of a shard whose worker could not load the model; another worker may."""

Row: TypeAlias = dict[str, Any]  # a row of the client's data: any JSON values


class ContractError(ValueError):
    """Not a message of ours."""


class UnknownVersionError(ContractError):
    """A message of a version that this process does not speak: another may."""


class ByteRange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="bytes"):
    """Whole rows of a CSV or JSONL object: bytes `offset` to `offset + length`."""

    uri: str
    """`s3://bucket/key`, or a key in Nightmill's own store."""
    etag: str | None
    """Version that was planned, sent as If-Match; None for our own immutable objects."""
    format: Literal["csv", "jsonl"]
    offset: int
    length: int
    columns: tuple[str, ...] = ()
    """CSV only: the header's names."""
    delimiter: str = ","


class RowGroupRange(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="row_groups"
):
    """Rows `offset` to `offset + count` of one row group of a Parquet object."""

    uri: str
    etag: str | None
    group: int
    offset: int
    count: int


class CountRange(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="count"
):
    """Rows that are nothing but their number: {"index": start}, {"index": start + 1}, …"""

    start: int
    count: int


SourceRange: TypeAlias = ByteRange | RowGroupRange | CountRange


class Replay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which image of another job is made again: the one item of the job makes it, and nothing else."""

    job: str
    index: int
    image: int
    """Which of the item's, from 0."""
    seed: int
    """The image's own."""
    batch: int
    """How many pictures were made in the batch that it was made in."""
    place: int = 0
    """At which place in that batch, from 0."""


class ImageWork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every shard of an image job has in common, beside what it shares with text."""

    steps: tuple[StepName, ...] = ("generate",)
    settings: dict[str, Any] = {}  # models.images.ImageSettings as JSON; pydantic checks it again on arrival
    prompt: str = ""
    """A template, Jinja2 over the row."""
    negative: str = ""
    """A template, too: what is not to be seen."""
    input: str | None = None
    """Name of the field that holds the image to start from: a URI, or data."""
    mask: str | None = None
    style_image: str | None = None
    format: ImageFormat = "png"
    quality: int = 90
    """Of JPEG and WebP, 1 to 100."""
    provenance: bool = True
    """Whether each file says how it was made."""
    nsfw_threshold: float | None = None
    """From this score of the classifier on, an image is not stored; None asks no classifier."""
    deny: tuple[str, ...] = ()
    """Words and phrases that no prompt may hold."""
    adapters: tuple[str, ...] = ()
    """Those of the settings' `loras` that were trained here, `NAME@VERSION`: to be fetched from the store."""
    replay: Replay | None = None

    def parsed_settings(self) -> ImageSettings:
        """The settings as a checked object."""
        return ImageSettings.model_validate(self.settings)


class AudioWork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every shard of a speech job has in common, beside what it shares with text."""

    prompt: str
    """A template, Jinja2 over the row: what is spoken."""
    settings: dict[str, Any] = {}  # models.audio.AudioSettings as JSON; pydantic checks it again on arrival
    provenance: bool = True
    """Whether each file says how it was made."""

    def parsed_settings(self) -> AudioSettings:
        """The settings as a checked object."""
        return AudioSettings.model_validate(self.settings)


class TuneWork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a training job tunes: the adapter of a model that there is."""

    base: str
    """A model's name, a local folder or a hub id."""
    messages: tuple[Message, ...] = ()
    """Of a text model: templates over the row. The last is the completion, which alone is learned."""
    rows: tuple[SourceRange, ...] = ()
    """Of a text model: where the rows are, in order."""


class ParentWork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The table of the subjects that the rows of a linked table belong to."""

    key: str
    """Its column that the foreign key names."""
    rows: tuple[SourceRange, ...] = ()
    """Where the rows are, in order."""
    query: str | None = None
    """In place of them: SQL, asked of the database of `FitWork`."""
    columns: dict[str, str] = {}
    """As in `FitWork`."""
    name: str = ""
    """Of the file, for messages."""


class FitWork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a model of tables is fitted to."""

    rows: tuple[SourceRange, ...] = ()
    """Where the rows are, in order."""
    query: str | None = None
    """In place of them: SQL, asked of a database that the workers know by its name."""
    database: str | None = None
    columns: dict[str, str] = {}
    """By name, what columns are to be taken for; the others are looked at."""
    foreign_key: str | None = None
    """Of a linked table: rows with one value of this column are one subject's sequence."""
    order_by: str | None = None
    """The column that orders a sequence; None for the order of the rows."""
    parent: ParentWork | None = None
    """The subjects, where there is a table of them."""


class TrainWork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a training job does; its model has the work's name, and as its version the job's id."""

    settings: dict[str, Any]  # models.training.settings.TrainingSettings as JSON; pydantic checks it again on arrival
    uri: str | None = None
    """Of the images: `s3://bucket/prefix/`, or an archive, `s3://…/x.tar` or `nightmill://…/x.tar`."""
    etag: str | None = None
    """Version of an archive in S3 that was planned."""
    dataset: Literal["fashion-mnist"] | None = None
    name: str = ""
    """Of the data, for the model's card."""
    height: int = 28
    width: int = 28
    grey: bool = False
    license: str = "unknown"
    tune: TuneWork | None = None
    """Of the family `lora`."""
    fit: FitWork | None = None
    """Of a family of tables."""

    def parsed_settings(self) -> TrainingSettings:
        """The settings as a checked object."""
        return TrainingSettings.model_validate(self.settings)


BLOCK_ROWS = 10_000
"""Rows of a table that own their seeds together, where a job says nothing else."""


class TableWork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What shards of a job that samples a table have in common. An item is a block of rows, which owns its seeds."""

    rows: int
    """Of the whole table; of a linked one, its subjects: where they are rows of a parent, as many as it can have."""
    block: int
    """Rows of every block but the last; of a linked table, its subjects: with a parent, at most so many."""
    where: dict[str, Any] = {}  # a cell is any JSON
    """The value that a column has in every row."""
    rebalance: dict[str, dict[str, float]] = {}
    """By column, the shares of some of its values, of 1."""
    impute: tuple[str, ...] = ()
    """Columns in which no value is missing."""
    temperature: float = 1.0
    rules: dict[str, Any] = {}  # workers.table_accept.TableRules as JSON; pydantic checks it again on arrival
    candidates: int = 10
    """How many rows are drawn at most for each that is accepted; of a linked table, subjects."""
    linked: bool = False
    """Whether rows belong to subjects: a block is then one of subjects, and has as many rows as these have."""
    parent: str | None = None
    """Of a linked table: key of the list of the parts, workers.dataset_engine.PartList as JSON, of the job whose rows
    are its subjects. Each block of that job is one of this."""
    most: int | None = None
    """Subjects that are taken of a block of the parent at most; None takes all."""

    def rows_of(self, block: int) -> int:
        """Rows that a block has, from 0; of a linked table without a parent, subjects."""
        return min(self.block, self.rows - block * self.block)


class PassWork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A pass over all that a job has made: which of it stays, judged in the order of the items."""

    job: str
    parts: str
    """Key of the list of the job's parts, workers.dataset_engine.PartList as JSON."""
    round: int
    """From 1."""
    previous: str | None = None
    """Key of the part of the pass before: what that let stay, stays."""
    retried: bool = False
    """Whether the job was retried after a pass: then what that let stay is told by the parts' `judged`."""
    table: TableWork | None = None
    """Of a job that samples a table."""
    duplicates: dict[str, Any] | None = None  # workers.duplicates.DuplicateRules as JSON; checked again on arrival
    """Of a job that writes text."""


class ReportWork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A report on all that a job has made."""

    job: str
    parts: str
    """As in `PassWork`."""
    name: str
    seed: int
    model: str = ""
    """Of a table, the version of the model that it was sampled from: what that was fitted on is compared with."""
    target: str | None = None
    """The column that others are to predict; None takes one that will do."""
    gate: dict[str, float] = {}
    """What the dataset must reach: see `workers.dataset_report`."""
    table: TableWork | None = None


class Redo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a pass has rejected of a part: it is drawn again, or ends as rejected."""

    key: str
    """Of the list, workers.rejections.Rejections as JSON."""
    draw: bool = True
    """False where no round is left."""


class DatasetWork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every shard of a dataset under a plan has in common, beside what it shares with text."""

    columns: dict[str, dict[str, Any]]  # workers.columns.kinds.ColumnSpec as JSON; pydantic checks it again on arrival
    """By name, each behind all that it needs."""
    output: tuple[str, ...]
    """Columns and fields of the row that its record gives."""


class Work(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every shard of a job has in common."""

    model: str
    engine: str
    messages: tuple[Message, ...]
    """Templates: Jinja2 over the row."""
    sampling: dict[str, Any]  # models.spec.Sampling as JSON; pydantic checks it again on arrival
    seed: int
    n: int = 1
    schema: JsonSchema | None = None
    grid: dict[str, tuple[Any, ...]] = {}  # values are any JSON
    custom_id: str | None = None
    """Name of the field that holds the client's id of a row."""
    max_tokens_field: str | None = None
    """Name of the field that bounds the output of its row, in tokens."""
    keep: tuple[str, ...] = ()
    """Fields of the row that are copied into its record as `input`."""
    options: dict[str, Any] | None = None  # models.spec.EchoOptions as JSON
    image: ImageWork | None = None
    """Of a job that makes images; `messages`, `sampling` and `schema` then say nothing."""
    audio: AudioWork | None = None
    """Of a job that speaks; `messages`, `sampling` and `schema` then say nothing."""
    train: TrainWork | None = None
    """Of a job that trains a model: its one item, which has no row to speak of."""
    table: TableWork | None = None
    """Of a job that samples a table."""
    pass_over: PassWork | None = None
    """Of a pass over what another job has made; it has one item."""
    report: ReportWork | None = None
    """Of a report on what another job has made; it has one item."""
    deny: tuple[str, ...] = ()
    """Words and phrases that the service lets no prompt of this tenant hold, whatever the job says."""
    upstream: tuple[str, ...] = ()
    """Of a node of a flow: the nodes whose results its items are made from, under their names, like fields of a row."""
    adapter: str | None = None
    """Of a text job: `NAME@VERSION`, or a local folder."""
    dataset: DatasetWork | None = None
    """Of a job that makes the rows of a dataset; `messages` and `schema` then say nothing."""
    accept: dict[str, Any] | None = None  # workers.acceptance.rules.Accept as JSON; pydantic checks it again on arrival
    requests: Literal["chat"] | None = None
    """Of a batch: each row is a request of its own, of this form; `messages`, `sampling`, `n`, `schema` say nothing."""

    def parsed_sampling(self) -> Sampling:
        """The sampling settings as a checked object."""
        return Sampling.model_validate(self.sampling)

    def parsed_options(self) -> EchoOptions | None:
        """The echo model's options, where the job has some."""
        return None if self.options is None else EchoOptions.model_validate(self.options)

    def parsed_accept(self) -> Accept | None:
        """The rules that answers have to satisfy, where the job has some."""
        return None if self.accept is None else Accept.model_validate(self.accept)

    @property
    def grid_size(self) -> int:
        """Items a row makes."""
        size = 1
        for values in self.grid.values():
            size *= len(values)
        return size


class ShardTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One attempt at one shard: items `first` to `first + count` of a job.

    `source` begins with row `(first - skip) // grid_size` and holds at least all rows of the shard. Item i is row
    `i // grid_size` with combination `i % grid_size` of the grid.
    """

    job: str
    shard: int
    token: int
    """Fencing token of the attempt: grows by one at every dispatch."""
    first: int
    count: int
    source: SourceRange
    skip: int = 0
    """Items that the source makes before `first`: those of a shard that this one was split off."""
    work: Work
    alone: bool = False
    """Whether it is suspected of breaking its engine, and must have it for itself."""
    earlier: tuple[str, ...] = ()
    """Keys of parts that earlier executions may have left: looked for before generation starts."""
    carry_from: str | None = None
    """Key of a part whose ok records are kept: only the items that it lacks, or that failed in it, are generated."""
    upstream: dict[str, tuple[str, ...]] = {}
    """By node of `work.upstream`, the keys of the parts that hold its records of the shard's items."""
    redo: Redo | None = None
    """Of `carry_from`: what of it does not stay."""
    version: int = 1


class Counts(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """Items of a shard by how they ended, so far."""

    ok: int = 0
    failed: int = 0

    @property
    def done(self) -> int:
        """Items with a record."""
        return self.ok + self.failed


class Timings(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """Where a shard's time went, in seconds."""

    load: float = 0.0
    """Waiting for the model to be loaded."""
    read: float = 0.0
    generate: float = 0.0
    write: float = 0.0


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An immutable object that holds one record a line, in item order.

    It has one for every item of its shard; where an execution was interrupted, for those that had ended.
    """

    key: str
    bytes: int
    sha256: str
    counts: Counts
    usage: Usage
    checks: CheckFigures | None = None
    """Of a job with rules, what they came to."""
    rows: int | None = None
    """Of a linked table, the rows of its blocks."""


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Why a shard could not be finished."""

    kind: FailureKind
    code: str
    message: str


ReportEvent = Literal["started", "progress", "finished", "failed", "handed_back"]


class ShardReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a worker says of its execution of a shard. Counts are cumulative: a later report replaces an earlier one."""

    job: str
    shard: int
    token: int
    execution: str
    worker: str
    sequence: int
    """Grows with every report of an execution; the orchestrator keeps the highest and acknowledges it."""
    event: ReportEvent
    counts: Counts = Counts()
    usage: Usage = Usage()
    timings: Timings = Timings()
    phase: Literal["loading", "reading", "generating", "writing"] = "loading"
    part: Part | None = None
    """Of a finished execution, its whole part; of one that failed or was handed back, what it had of it."""
    failure: Failure | None = None
    training: TrainingProgress | None = None
    version: int = 1


class Directive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the orchestrator answers to an execution, left in Redis under `DIRECTIVE_KEY`.

    `run`: the execution owns the shard and may write its part. `stop`: it does not, or no longer.
    """

    command: Literal["run", "stop"]
    acknowledged: int
    """Highest report sequence that has been applied."""
    reason: str = ""
    version: int = 1


Contract = TypeVar("Contract", ShardTask, ShardReport, Directive)


class _Envelope(msgspec.Struct):
    """As much of a message as every version has."""

    version: Annotated[int, msgspec.Meta(ge=1)] = 1


_envelopes = msgspec.json.Decoder(_Envelope)


def lowest_version(message: ShardTask | ShardReport | Directive) -> int:
    """The lowest version that can say what a message says."""
    if isinstance(message, ShardTask):
        return _version_of_task(message)
    if isinstance(message, ShardReport):
        return _version_of_report(message)
    return 1


def _version_of_report(report: ShardReport) -> int:
    part = report.part
    needs = (
        (9, part is not None and part.rows is not None),
        (8, part is not None and part.checks is not None),
        (4, report.training is not None),
    )
    return next((version for version, needed in needs if needed), 1)


def _version_of_task(task: ShardTask) -> int:
    work = task.work
    needs = (
        (9, _is_linked(work) or work.requests is not None),
        (8, _is_of_datasets(task)),
        (7, _names_adapters(work)),
        (6, bool(work.upstream)),
        (5, bool(work.deny) or work.audio is not None),
        (4, work.train is not None),
        (3, work.image is not None),
        (2, bool(task.skip) or task.alone),
    )
    return next((version for version, needed in needs if needed), 1)


def _is_of_datasets(task: ShardTask) -> bool:
    work = task.work
    fit = None if work.train is None else work.train.fit
    return any(
        each is not None
        for each in (task.redo, work.table, work.dataset, work.pass_over, work.report, work.accept, fit)
    )


def _is_linked(work: Work) -> bool:
    tables = (work.table, work.report and work.report.table, work.pass_over and work.pass_over.table)
    fit = None if work.train is None else work.train.fit
    return (fit is not None and fit.foreign_key is not None) or any(each and each.linked for each in tables)


def _names_adapters(work: Work) -> bool:
    trains = work.train is not None and work.train.tune is not None
    return trains or work.adapter is not None or (work.image is not None and bool(work.image.adapters))


def encode(message: ShardTask | ShardReport | Directive) -> str:
    """A message as JSON text, in the lowest version that will do."""
    return msgspec.json.encode(msgspec.structs.replace(message, version=lowest_version(message))).decode()


def decode(text: str | bytes, kind: type[Contract]) -> Contract:
    """A message from JSON text.

    Raises:
        UnknownVersionError: it says that it is of a version that this process does not speak.
        ContractError: it is not valid JSON, or not a message of this kind.
    """
    try:
        version = _envelopes.decode(text).version
        if version > WIRE_VERSION:
            raise UnknownVersionError(f"{kind.__name__} of wire version {version}; this process speaks {WIRE_VERSION}")
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise ContractError(f"not a {kind.__name__}: {error}") from error
