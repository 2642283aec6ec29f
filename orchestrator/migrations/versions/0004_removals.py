"""Prefixes of the store that are to be emptied; which upload a job reads; how far an ended job was swept."""

from __future__ import annotations

import json
import re

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_PAGE = 100
_UPLOAD = re.compile(r"nightmill://(inputs/[^/]+/)")


def upgrade() -> None:
    op.create_table(
        "removals",
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("prefix", name=op.f("removals_pkey")),
    )
    op.add_column("jobs", sa.Column("upload", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("swept", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    _name_uploads(op.get_bind())
    unswept = sa.text("swept < generation")
    op.create_index("jobs_by_end", "jobs", ["finished_at"])
    op.create_index("jobs_by_upload", "jobs", ["upload"])
    op.create_index("jobs_unswept", "jobs", ["finished_at"], sqlite_where=unswept, postgresql_where=unswept)


def downgrade() -> None:
    for name in ("jobs_unswept", "jobs_by_upload", "jobs_by_end"):
        op.drop_index(name, "jobs")
    op.drop_column("jobs", "swept")
    op.drop_column("jobs", "upload")
    op.drop_table("removals")


def _name_uploads(connection: sa.Connection) -> None:
    jobs = sa.table("jobs", sa.column("id"), sa.column("spec"), sa.column("upload"))
    after = ""
    while True:
        page = (
            sa.select(jobs.c.id, jobs.c.spec)
            .where(jobs.c.id > after, jobs.c.spec.like('%"nightmill://inputs/%'))
            .order_by(jobs.c.id)
            .limit(_PAGE)
        )
        rows = connection.execute(page).all()
        if not rows:
            return
        for row in rows:
            upload = _UPLOAD.match(json.loads(row.spec)["source"].get("file") or "")
            if upload is not None:
                connection.execute(sa.update(jobs).where(jobs.c.id == row.id).values(upload=upload[1]))
        after = rows[-1].id
