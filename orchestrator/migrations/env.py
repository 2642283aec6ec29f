"""Runs revisions on the connection that `orchestrator.database.migrate` hands over, in its transaction."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from orchestrator.tables import Base


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        # SQLite cannot alter most things in place.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])
