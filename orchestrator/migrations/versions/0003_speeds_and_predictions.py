"""Measured speeds of models and jobs; predicted finishes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PREDICTIONS = ("predicted_finish_at", "earliest_finish_at", "first_prediction", "first_predicted_at")


def upgrade() -> None:
    for name in PREDICTIONS:
        op.add_column("jobs", sa.Column(name, sa.Double(), nullable=True))
    op.create_table(
        "speeds",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("shape", sa.Text(), nullable=False),
        sa.Column("items", sa.Double(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("model", "engine", "shape", name=op.f("speeds_pkey")),
    )
    op.create_table(
        "job_speeds",
        sa.Column("job_id", sa.String(length=26), nullable=False),
        sa.Column("shape", sa.Text(), nullable=False),
        sa.Column("shards", sa.BigInteger(), nullable=False),
        sa.Column("items", sa.Double(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("job_speeds_job_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("job_speeds_pkey")),
    )
    op.create_table(
        "engine_use",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("busy_seconds", sa.Double(), nullable=False),
        sa.Column("shard_seconds", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("model", "engine", name=op.f("engine_use_pkey")),
    )


def downgrade() -> None:
    op.drop_table("engine_use")
    op.drop_table("job_speeds")
    op.drop_table("speeds")
    for name in reversed(PREDICTIONS):
        op.drop_column("jobs", name)
