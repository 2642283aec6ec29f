"""The tables. Times are seconds since the epoch; JSON is text; an item has no row.

What changes here needs a new revision in `orchestrator/migrations/versions`: a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ID_LENGTH = 26  # a ULID
_UNSWEPT = "swept < generation"


class Base(DeclarativeBase):
    """Names every constraint, so that a later revision can find it on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map = {str: Text, int: BigInteger, float: Double}  # noqa: RUF012 - SQLAlchemy's own hook


class Job(Base):
    """A job. Its status is written by `orchestrator.guards` alone."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("tenant", "idempotency_key"),
        # The dispatcher's order; also serves every look for jobs of one status.
        Index("jobs_dispatch_order", "status", "priority", "deadline_at", "created_at"),
        Index("jobs_by_end", "finished_at"),
        Index("jobs_by_upload", "upload"),
        Index("jobs_by_parent_upload", "parent_upload"),
        Index("jobs_by_flow", "flow", "node", unique=True),
        Index("jobs_unswept", "finished_at", sqlite_where=text(_UNSWEPT), postgresql_where=text(_UNSWEPT)),
    )

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    kind: Mapped[str]
    model: Mapped[str]
    engine: Mapped[str]
    priority: Mapped[int] = mapped_column(Integer)
    """0 urgent, 1 normal, 2 low."""
    spec: Mapped[str]
    """The JobSpec as JSON."""
    spec_digest: Mapped[str]
    """`sha256:` and the digest of `spec`."""
    idempotency_key: Mapped[str | None]
    upload: Mapped[str | None]
    """Prefix in the store of the upload that it reads, where it reads one."""
    parent_upload: Mapped[str | None]
    """The same of the parent's table, where a model is fitted to a linked one."""
    flow: Mapped[str | None] = mapped_column(String(ID_LENGTH))
    """Of a node of a flow, the flow."""
    node: Mapped[str | None]
    """Its name in the flow."""
    needs: Mapped[str | None]
    """The nodes that it needs, a list of names as JSON."""
    blocked: Mapped[bool]
    """Nothing of it is dispatched, for it waits for other nodes: `orchestrator.flows`."""
    passes: Mapped[str | None]
    """What follows its own shards: orchestrator.passes.Passes as JSON; None of most jobs."""
    pass_at: Mapped[str | None]
    """How far it is with that; None while its shards are run for the first time."""
    pass_round: Mapped[int] = mapped_column(Integer)
    """Passes over all of its rows that were begun."""
    findings: Mapped[str | None]
    """What these passes, and the report, have found: orchestrator.findings.Findings as JSON."""

    status: Mapped[str]
    outcome: Mapped[str | None]
    """While finalizing or cancelling: the terminal status that it is on its way to."""
    generation: Mapped[int]
    """Grows with every change of status: what a slow writer names, so that it cannot freeze a job that went on."""
    error: Mapped[str | None]
    """JSON {code, message, param, line}."""

    planner: Mapped[str | None]
    """Who reads the source while validating; `planner_beat` grows as long as it is alive."""
    planner_beat: Mapped[int]
    work: Mapped[str | None]
    """workers.contracts.Work as JSON, once planned."""
    items: Mapped[int]
    shard_count: Mapped[int]
    breaks: Mapped[int] = mapped_column(Integer)
    """How often its engine broke under a shard that was alone in it, or could not be loaded."""
    breaks_in_a_row: Mapped[int] = mapped_column(Integer)
    """Of these, since a shard was last done."""

    created_at: Mapped[float]
    planned_at: Mapped[float | None]
    """When its shards were all committed: before that, none can be taken."""
    deadline_at: Mapped[float | None]
    finished_at: Mapped[float | None]

    predicted_finish_at: Mapped[float | None]
    """As `orchestrator.forecasts` last saw it; of no meaning once the job is not in progress."""
    earliest_finish_at: Mapped[float | None]
    """The same, if from then on it had the engines for itself."""
    first_prediction: Mapped[float | None]
    """The `predicted_finish_at` of its first run that came first, kept to be compared with what came of it."""
    first_predicted_at: Mapped[float | None]

    manifest_version: Mapped[int]
    """Grows with every retry."""
    totals: Mapped[str | None]
    """Frozen by the finaliser: orchestrator.totals.Totals as JSON."""
    swept: Mapped[int]
    """The generation whose losing parts have been collected; 0 where none have."""


class Shard(Base):
    """A contiguous run of items. Its status is written by `orchestrator.guards` alone."""

    __tablename__ = "shards"
    __table_args__ = (
        UniqueConstraint("job_id", "first"),
        Index("shards_in_order", "status", "job_id", "first"),
        CheckConstraint("(status = 'running') = (execution IS NOT NULL)", name="lease"),
        CheckConstraint("status <> 'done' OR part_key IS NOT NULL", name="part"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    first: Mapped[int]
    count: Mapped[int]
    source: Mapped[str]
    """workers.contracts.SourceRange as JSON."""
    skip: Mapped[int]
    """Items that the source makes before `first`: those of the shard that this one was split off."""

    status: Mapped[str]
    token: Mapped[int] = mapped_column(Integer)
    """Fencing token: grows with every dispatch."""
    available_at: Mapped[float]
    """Not dispatched before this. Hosts whose clocks differ stretch or shorten a backoff by that, and nothing else."""
    attempts: Mapped[int] = mapped_column(Integer)
    """Executions that were granted the shard."""
    failures: Mapped[int] = mapped_column(Integer)
    losses: Mapped[int] = mapped_column(Integer)
    alone: Mapped[bool]
    """It was in an engine that broke, and runs with nothing beside it until it is done."""
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    carry_from: Mapped[str | None]
    """Key of the part whose good records the next execution carries over: a retry, or one after an interruption."""
    redo: Mapped[str | None]
    """What of that part does not stay: workers.contracts.Redo as JSON."""
    judged_part: Mapped[str | None]
    """Of a shard that was retried since a pass judged it: the part whose good records stay; empty where it had none."""
    settled_token: Mapped[int] = mapped_column(Integer)
    """Parts of attempts up to this one have been judged: a retry wants a newer part."""

    execution: Mapped[str | None]
    """Who holds the lease, while running."""
    worker: Mapped[str | None]
    sequence: Mapped[int]
    """Highest report of this execution that was applied. That it grows is what keeps the lease."""
    phase: Mapped[str | None]
    training: Mapped[str | None]
    """Of a training job, how far it was when it last said so: orchestrator.training.Reported as JSON."""
    started_at: Mapped[float | None]
    """When its first execution was granted."""
    finished_at: Mapped[float | None]

    # Live, of the execution that runs or ran last. Each report overwrites them.
    ok: Mapped[int]
    failed: Mapped[int]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    load_seconds: Mapped[float]
    read_seconds: Mapped[float]
    generate_seconds: Mapped[float]
    write_seconds: Mapped[float]

    # Of the winning part: whole, or of a shard that was interrupted what there is. It stays until there is another.
    part_key: Mapped[str | None]
    part_bytes: Mapped[int | None]
    part_sha256: Mapped[str | None]
    part_ok: Mapped[int | None]
    part_failed: Mapped[int | None]
    part_prompt_tokens: Mapped[int | None]
    part_completion_tokens: Mapped[int | None]
    part_checks: Mapped[str | None]
    """Of a job with rules, what they came to: workers.acceptance.figures.CheckFigures as JSON."""
    part_rows: Mapped[int | None]
    """Of a linked table, the rows of its blocks."""


class Execution(Base):
    """The history of a shard: each execution that was granted it. Its part's key follows from this row."""

    __tablename__ = "executions"
    __table_args__ = (Index("executions_by_shard", "job_id", "shard"),)

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    shard: Mapped[int] = mapped_column(Integer)
    token: Mapped[int] = mapped_column(Integer)
    worker: Mapped[str]
    granted_at: Mapped[float]
    ended_at: Mapped[float | None]
    ending: Mapped[str | None]
    """finished, lost, handed_back, overtaken by another's part, or the code of its failure."""


class Probe(Base):
    """How far the reports queue has been drained: the highest probe of each reaper that came through it."""

    __tablename__ = "probes"

    reaper: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]
    applied_at: Mapped[float]


class Speed(Base):
    """How fast a model is at one shape of work. Sums decay: `orchestrator.speeds`."""

    __tablename__ = "speeds"

    model: Mapped[str] = mapped_column(primary_key=True)
    engine: Mapped[str] = mapped_column(primary_key=True)
    shape: Mapped[str] = mapped_column(primary_key=True)
    items: Mapped[float]
    seconds: Mapped[float]
    """Of the shards that these items were in, as they ran."""


class JobSpeed(Base):
    """The same of one job alone."""

    __tablename__ = "job_speeds"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    shape: Mapped[str]
    shards: Mapped[int]
    """How many were measured, in all."""
    items: Mapped[float]
    seconds: Mapped[float]


class EngineUse(Base):
    """How long a model was busy, and how long its shards took meanwhile, added up. Both decay alike."""

    __tablename__ = "engine_use"

    model: Mapped[str] = mapped_column(primary_key=True)
    engine: Mapped[str] = mapped_column(primary_key=True)
    busy_seconds: Mapped[float]
    shard_seconds: Mapped[float]
    ended_at: Mapped[float]
    """When the last of them ended."""


class Removal(Base):
    """A prefix of the store that is to be emptied: see `orchestrator.removals`."""

    __tablename__ = "removals"

    prefix: Mapped[str] = mapped_column(primary_key=True)
    decided_at: Mapped[float]
    due_at: Mapped[float]
    """When it is emptied next."""


PUBLIC_ID_LENGTH = 40  # a ULID behind `file-` or `batch_`


class File(Base):
    """A file of OpenAI's API. Its bytes lie in the store under `orchestrator.openai.files.content_key`."""

    __tablename__ = "files"
    __table_args__ = (
        Index("files_listed", "tenant", "id"),
        Index("files_by_expiry", "expires_at"),
    )

    id: Mapped[str] = mapped_column(String(PUBLIC_ID_LENGTH), primary_key=True)
    tenant: Mapped[str]
    purpose: Mapped[str]
    filename: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    """From then on it is gone for its clients; 0 of one that was deleted. Its bytes stay while a batch reads them."""


class Batch(Base):
    """A batch of OpenAI's API: its job and its end. Only `orchestrator.openai.batches` writes it."""

    __tablename__ = "batches"
    __table_args__ = (
        Index("batches_listed", "tenant", "id"),
        Index("batches_by_status", "status"),
        Index("batches_by_input", "input_file"),
    )

    id: Mapped[str] = mapped_column(String(PUBLIC_ID_LENGTH), primary_key=True)
    tenant: Mapped[str]
    endpoint: Mapped[str]
    input_file: Mapped[str] = mapped_column(String(PUBLIC_ID_LENGTH))
    completion_window: Mapped[str]
    labels: Mapped[str | None]
    """Its metadata as JSON."""
    output_expires_seconds: Mapped[int | None]
    """How long its output files are kept."""

    status: Mapped[str]
    errors: Mapped[str | None]
    """Why it failed: a list of orchestrator.openai.batch_views.BatchError as JSON."""
    job_id: Mapped[str | None] = mapped_column(String(ID_LENGTH))
    model: Mapped[str | None]
    total: Mapped[int]
    """Requests of its file, once these were counted."""
    completed: Mapped[int]
    """These figures are written when it ends; until then the job's are shown."""
    failed: Mapped[int]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    output_file: Mapped[str | None] = mapped_column(String(PUBLIC_ID_LENGTH))
    error_file: Mapped[str | None] = mapped_column(String(PUBLIC_ID_LENGTH))

    created_at: Mapped[float]
    expires_at: Mapped[float]
    in_progress_at: Mapped[float | None]
    finalizing_at: Mapped[float | None]
    cancelling_at: Mapped[float | None]
    ended_at: Mapped[float | None]
