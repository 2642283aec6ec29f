"""A table out of somebody's database, by a query. The only place where a worker speaks SQL, and never Nightmill's own.

A job names a database that the operator has given to the workers in an environment variable, `NIGHTMILL_SOURCE_NAME`. A
job cannot give an address: whoever may submit jobs could otherwise have workers connect to whatever they can reach.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Final
from uuid import UUID

import pyarrow as pa
from sqlalchemy import create_engine, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError, ResourceClosedError

from models.errors import FailureKind, ModelError
from workers.training_data import FetchStoppedError

VARIABLE: Final = "NIGHTMILL_SOURCE_"
"""Followed by a database's name in capitals; its value is a SQLAlchemy URL, best of a user who can only read."""
_ROWS_AT_ONCE: Final = 10_000


def fetch_query(query: str, database: str, *, limit: int, stop: threading.Event) -> pa.Table:
    """The rows of a query, in the order that it gives them.

    Raises:
        ModelError: kind MODEL, code `unknown_database`, `query_failed` or `training_data_unreadable` (there are more
            than `limit` rows, or a column holds values of several types); kind PLATFORM, code `database_unreachable`.
        FetchStoppedError: `stop` was set.
    """
    variable = VARIABLE + database.upper()
    url = os.environ.get(variable)
    if url is None:
        raise ModelError(
            FailureKind.MODEL, "unknown_database", f"the database {database!r} is none that workers have: {variable}"
        )
    try:
        engine = create_engine(url)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        # What is wrong with it may hold its password.
        raise ModelError(
            FailureKind.MODEL, "unknown_database", f"{variable} is no URL of a database that can be read here"
        ) from error
    names: list[str] = []
    rows: list[tuple[Any, ...]] = []  # of values as the database's driver gives them
    try:
        with engine.connect().execution_options(yield_per=_ROWS_AT_ONCE) as connection:
            found = connection.execute(text(query))
            names = list(found.keys())
            for some in found.partitions():
                if stop.is_set():
                    raise FetchStoppedError
                rows += [tuple(row) for row in some]
                if len(rows) > limit:
                    raise ModelError(
                        FailureKind.MODEL,
                        "training_data_unreadable",
                        f"the query gives more than {limit:,} rows, which is what a training takes; add a LIMIT",
                    )
    except OperationalError as error:
        if error.connection_invalidated or not names:
            raise ModelError(FailureKind.PLATFORM, "database_unreachable", f"{database}: {error.orig}") from error
        raise ModelError(FailureKind.MODEL, "query_failed", f"{database}: {error.orig}") from error
    except (DBAPIError, ResourceClosedError) as error:
        raise ModelError(
            FailureKind.MODEL, "query_failed", f"{database}: {getattr(error, 'orig', None) or error}"
        ) from error
    finally:
        engine.dispose()
    columns = [_column(name, [_plain(row[place]) for row in rows]) for place, name in enumerate(names)]
    return pa.Table.from_arrays(columns, names=names)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value


def _column(name: str, values: list[object]) -> pa.Array[Any]:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ModelError(
            FailureKind.MODEL, "training_data_unreadable", f"column {name!r} holds values of several types: {error}"
        ) from error
