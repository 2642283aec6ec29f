"""Shards that are split, run alone or are interrupted; breaks of a job's engine; shards in item order."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("breaks", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("jobs", sa.Column("breaks_in_a_row", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("shards", sa.Column("skip", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.add_column("shards", sa.Column("alone", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index("shards_in_order", "shards", ["status", "job_id", "first"])
    op.drop_index("shards_by_status", "shards")


def downgrade() -> None:
    op.create_index("shards_by_status", "shards", ["status", "job_id", "number"])
    op.drop_index("shards_in_order", "shards")
    op.drop_column("shards", "alone")
    op.drop_column("shards", "skip")
    op.drop_column("jobs", "breaks_in_a_row")
    op.drop_column("jobs", "breaks")
