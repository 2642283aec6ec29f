"""Flows: jobs whose nodes are jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # No foreign key: SQLite would have to copy the whole table for it. Whoever removes a flow removes its nodes.
    op.add_column("jobs", sa.Column("flow", sa.String(length=26), nullable=True))
    op.add_column("jobs", sa.Column("node", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("needs", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("blocked", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index("jobs_by_flow", "jobs", ["flow", "node"], unique=True)


def downgrade() -> None:
    op.drop_index("jobs_by_flow", "jobs")
    op.drop_column("jobs", "blocked")
    op.drop_column("jobs", "needs")
    op.drop_column("jobs", "node")
    op.drop_column("jobs", "flow")
