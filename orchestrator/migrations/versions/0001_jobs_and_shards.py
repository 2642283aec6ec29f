"""Jobs, their shards, the history of executions, and probes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("spec_digest", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("planner", sa.Text(), nullable=True),
        sa.Column("planner_beat", sa.BigInteger(), nullable=False),
        sa.Column("work", sa.Text(), nullable=True),
        sa.Column("items", sa.BigInteger(), nullable=False),
        sa.Column("shard_count", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("planned_at", sa.Double(), nullable=True),
        sa.Column("deadline_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("manifest_version", sa.BigInteger(), nullable=False),
        sa.Column("totals", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("jobs_pkey")),
        sa.UniqueConstraint("tenant", "idempotency_key", name=op.f("jobs_tenant_idempotency_key_key")),
    )
    op.create_index("jobs_dispatch_order", "jobs", ["status", "priority", "deadline_at", "created_at"], unique=False)
    op.create_table(
        "probes",
        sa.Column("reaper", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.Column("applied_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("reaper", name=op.f("probes_pkey")),
    )
    op.create_table(
        "executions",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("job_id", sa.String(length=26), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("granted_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("ending", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("executions_job_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("executions_pkey")),
    )
    op.create_index("executions_by_shard", "executions", ["job_id", "shard"], unique=False)
    op.create_table(
        "shards",
        sa.Column("job_id", sa.String(length=26), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("available_at", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("carry_from", sa.Text(), nullable=True),
        sa.Column("settled_token", sa.Integer(), nullable=False),
        sa.Column("execution", sa.Text(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("ok", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("load_seconds", sa.Double(), nullable=False),
        sa.Column("read_seconds", sa.Double(), nullable=False),
        sa.Column("generate_seconds", sa.Double(), nullable=False),
        sa.Column("write_seconds", sa.Double(), nullable=False),
        sa.Column("part_key", sa.Text(), nullable=True),
        sa.Column("part_bytes", sa.BigInteger(), nullable=True),
        sa.Column("part_sha256", sa.Text(), nullable=True),
        sa.Column("part_ok", sa.BigInteger(), nullable=True),
        sa.Column("part_failed", sa.BigInteger(), nullable=True),
        sa.Column("part_prompt_tokens", sa.BigInteger(), nullable=True),
        sa.Column("part_completion_tokens", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("(status = 'running') = (execution IS NOT NULL)", name=op.f("shards_lease_check")),
        sa.CheckConstraint("status <> 'done' OR part_key IS NOT NULL", name=op.f("shards_part_check")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("shards_job_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("shards_pkey")),
        sa.UniqueConstraint("job_id", "first", name=op.f("shards_job_id_first_key")),
    )
    op.create_index("shards_by_status", "shards", ["status", "job_id", "number"], unique=False)
