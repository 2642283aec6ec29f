"""Rules that only all rows together fulfil or break: no value twice, one column determined by another.

Of rows that cannot all stay, the first stays: those that stayed in an earlier round before those that are new, then by
block and place. So the outcome depends on the rows alone. Each rule is asked by itself: a row that one of them rejects
still counts for the others, which may reject a row too many, and never lets one stay that must not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from workers.table_accept.rules import Dependency, TableRules, quoted, unique_name

MEMORY = "2GB"
"""What DuckDB may have; beyond it goes to disk."""


@dataclass(frozen=True, slots=True)
class BlockFile:
    """A block of rows on this machine."""

    index: int
    path: Path
    fresh: frozenset[int] | None = None
    """Places of rows that are new in this round; None where all are."""


@dataclass(slots=True)
class BlockVerdict:
    """What does not stay of a block."""

    rows: set[int] = field(default_factory=set)
    """Places."""
    rules: Counter[str] = field(default_factory=Counter)
    """By rule, how many of them."""


def judge(
    blocks: Sequence[BlockFile], rules: TableRules, scratch: Path, memory: str = MEMORY
) -> dict[int, BlockVerdict]:
    """Which rows do not stay, by block; blocks of which all stay are left out.

    Args:
        blocks: All blocks, in order.
        rules: Those over all rows are asked.
        scratch: A folder for what does not fit into memory.
        memory: How much of it there is, as DuckDB writes it.
    """
    verdicts: dict[int, BlockVerdict] = {}
    if not blocks:
        return verdicts
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory,
        "temp_directory": str(scratch),
        "autoinstall_known_extensions": False,
        "python_enable_replacements": False,
    }
    with duckdb.connect(config=config) as connection:
        _load(connection, blocks)
        queries = [(unique_name(columns), _twice(columns)) for columns in rules.unique]
        queries += [(each.shown, _undetermined(each)) for each in rules.dependencies]
        for name, query in queries:
            cursor = connection.execute(query)
            while found := cursor.fetchmany(100_000):
                for block, row in found:
                    verdict = verdicts.setdefault(block, BlockVerdict())
                    verdict.rows.add(row)
                    verdict.rules[name] += 1
    return dict(sorted(verdicts.items()))


def _load(connection: duckdb.DuckDBPyConnection, blocks: Sequence[BlockFile]) -> None:
    """The view `numbered`: every row with its block, its place, and its rank, which says who is first."""
    files = [str(block.path) for block in blocks]
    connection.execute("CREATE TABLE blocks (path VARCHAR, block BIGINT, all_new BOOLEAN)")
    connection.executemany(
        "INSERT INTO blocks VALUES (?, ?, ?)", [[str(b.path), b.index, b.fresh is None] for b in blocks]
    )
    connection.execute("CREATE TABLE fresh (block BIGINT, row BIGINT)")
    new = [(block.index, row) for block in blocks for row in sorted(block.fresh or ())]
    _insert(connection, "fresh", new)
    rank = "(CASE WHEN all_new OR fresh.row IS NOT NULL THEN 1::HUGEINT ELSE 0::HUGEINT END) * (1::HUGEINT << 100)"
    view = (
        "CREATE VIEW numbered AS SELECT data.* EXCLUDE (filename, file_row_number), blocks.block AS nightmill_block, "  # noqa: S608
        f"file_row_number AS nightmill_row, {rank} + blocks.block::HUGEINT * (1::HUGEINT << 40) + file_row_number "
        f"AS nightmill_rank FROM read_parquet({_list(files)}, filename = true, file_row_number = true, "
        "union_by_name = true) AS data JOIN blocks ON blocks.path = data.filename "
        "LEFT JOIN fresh ON fresh.block = blocks.block AND fresh.row = file_row_number"
    )
    connection.execute(view)


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[tuple[int, int]]) -> None:
    import pyarrow as pa  # noqa: PLC0415 - only for a round after the first

    if not rows:
        return
    given = pa.table({"block": [block for block, _ in rows], "row": [row for _, row in rows]})
    connection.register("given", given)
    connection.execute(f"INSERT INTO {table} SELECT block, row FROM given")  # noqa: S608 - one of our own tables
    connection.unregister("given")


def _twice(columns: Sequence[str]) -> str:
    names = ", ".join(map(quoted, columns))
    known = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in columns)
    # Of most tables only few values come twice: these alone are put in order.
    return (
        f"WITH several AS (SELECT {names} FROM numbered WHERE {known} GROUP BY {names} HAVING count(*) > 1) "  # noqa: S608
        f"SELECT nightmill_block, nightmill_row FROM numbered JOIN several USING ({names}) "
        f"QUALIFY row_number() OVER (PARTITION BY {names} ORDER BY nightmill_rank) > 1"
    )


def _undetermined(dependency: Dependency) -> str:
    of = ", ".join(map(quoted, dependency.of))
    known = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in dependency.of)
    to = f"row({', '.join(map(quoted, dependency.to))})"
    return (
        f"WITH first AS (SELECT {of}, arg_min({to}, nightmill_rank) AS nightmill_first FROM numbered WHERE {known} "  # noqa: S608
        f"GROUP BY {of} HAVING count(DISTINCT {to}) > 1) "
        f"SELECT nightmill_block, nightmill_row FROM numbered JOIN first USING ({of}) "
        f"WHERE {to} IS DISTINCT FROM nightmill_first"
    )


def _list(paths: Sequence[str]) -> str:
    return "[" + ", ".join("'" + path.replace("'", "''") + "'" for path in paths) + "]"
