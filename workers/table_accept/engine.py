"""DuckDB, shut in: it reads what it is handed, and nothing else.

No file, no address, no extension, no variable of the program can be reached by a statement, whatever a job's
expressions say (https://duckdb.org/docs/stable/operations_manual/securing_duckdb/overview). The one place it writes is
the folder that it is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from workers.table_accept.errors import TableRuleError
from workers.table_accept.rules import Scalar

if TYPE_CHECKING:
    import duckdb

_SHUT = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
}
DEFAULT_MEMORY_MIB = 512


def connected(
    folder: Path | None = None, *, memory_mib: int = DEFAULT_MEMORY_MIB, threads: int = 1
) -> duckdb.DuckDBPyConnection:
    """A connection of its own, in memory or, for what may outgrow it, in files of a folder.

    Args:
        folder: An existing folder. Without one nothing is written, and what outgrows the memory fails.
        memory_mib: What DuckDB may hold, in MiB. At least 64 for each thread.
        threads: Cores that it may use.

    Raises:
        TableRuleError: DuckDB is not installed.
    """
    try:
        # Only where rules are checked or kept: the control plane starts without it.
        import duckdb  # noqa: PLC0415
    except ImportError as error:
        raise TableRuleError(
            "rules for rows of tables are checked with DuckDB, which is not installed here: pip install 'duckdb>=2.0'"
        ) from error
    settings: dict[str, str | bool | int | float | list[str]] = {
        **_SHUT,
        "threads": str(threads),
        "memory_limit": f"{memory_mib}MiB",
    }
    if folder is not None:
        settings["temp_directory"] = str(folder)
    connection = duckdb.connect(":memory:" if folder is None else str(folder / "rows.duckdb"), config=settings)
    connection.execute("SET lock_configuration = true")
    return connection


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """A schema without dictionaries, whose types would be different in each table."""
    kinds = [field.type for field in schema]
    plain = [kind.value_type if isinstance(kind, pa.DictionaryType) else kind for kind in kinds]
    return pa.schema(list(zip(schema.names, plain, strict=True)))


def quoted(name: str) -> str:
    """A column's name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Scalar) -> str:
    """A value as SQL writes it."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value)
