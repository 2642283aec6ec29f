"""Passes: what follows a job's own shards, and the rows that are drawn again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("passes", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("pass_at", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("pass_round", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("findings", sa.Text(), nullable=True))
    op.add_column("shards", sa.Column("redo", sa.Text(), nullable=True))
    op.add_column("shards", sa.Column("judged_part", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("shards", "judged_part")
    op.drop_column("shards", "redo")
    op.drop_column("jobs", "findings")
    op.drop_column("jobs", "pass_round")
    op.drop_column("jobs", "pass_at")
    op.drop_column("jobs", "passes")
