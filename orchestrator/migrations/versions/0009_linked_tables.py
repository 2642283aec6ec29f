"""Linked tables: the rows that a shard's blocks have, and the upload of the parent's table."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("shards", sa.Column("part_rows", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("parent_upload", sa.Text(), nullable=True))
    op.create_index("jobs_by_parent_upload", "jobs", ["parent_upload"])


def downgrade() -> None:
    op.drop_index("jobs_by_parent_upload", table_name="jobs")
    op.drop_column("jobs", "parent_upload")
    op.drop_column("shards", "part_rows")
