"""Whether rules can be asked of a table with given columns, told before anything runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import duckdb

from workers.table_accept.rules import TableRules, quoted

SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
}
"""Of every connection: an expression computes with the columns, and reaches nothing else."""
_FORBIDDEN = frozenset({"SUBQUERY", "PARAMETER", "WINDOW", "STAR", "POSITIONAL_REFERENCE", "LAMBDA_REF"})


class RuleError(ValueError):
    """A rule cannot be asked; the message says which, why, and what would be right."""


def check_rules(rules: TableRules, columns: Mapping[str, str]) -> None:
    """Raise RuleError where a rule does not fit a table.

    Args:
        rules: The rules.
        columns: By name, the type of each as Arrow writes it.
    """
    named = [("unique", name) for group in rules.unique for name in group]
    named += [("dependencies", name) for each in rules.dependencies for name in (*each.of, *each.to)]
    for field, name in named:
        if name not in columns:
            raise RuleError(f"{field}: there is no column {name!r}; the table has {', '.join(columns)}")
    if not rules.rules:
        return
    with duckdb.connect(config=SETTINGS) as connection:
        types = ", ".join(f"{quoted(name)} {_sql_type(kind)}" for name, kind in columns.items())
        connection.execute(f"CREATE TABLE rows ({types})")
        steady = _steady_functions(connection)
        # Whatever an expression does with one row, it does with this one: a pattern is read, a number is one.
        connection.execute("INSERT INTO rows DEFAULT VALUES")
        for rule in rules.rules:
            where = f"rules: {rule.shown!r}"
            query = f"SELECT ({rule.sql})::BOOLEAN FROM rows"  # noqa: S608 - it is taken apart before it is asked
            _check_tree(where, _tree(connection, query), steady, columns)
            try:
                connection.execute(query).fetchall()
            except duckdb.Error as error:
                first = str(error).partition("\n")[0]
                raise RuleError(f"{where}: {first}. The columns are {', '.join(columns)}") from error


def _tree(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, Any]:  # DuckDB's own JSON
    [text] = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchone() or ("{}",)
    tree: dict[str, Any] = json.loads(text)
    return tree


def _check_tree(where: str, tree: dict[str, Any], steady: frozenset[str], columns: Collection[str]) -> None:  # as above
    if tree.get("error"):
        raise RuleError(f"{where}: {tree.get('error_message')}; give one SQL expression over the columns")
    statements = tree.get("statements") or []
    node = statements[0]["node"] if len(statements) == 1 else {}
    selected = node.get("select_list", [])
    if len(selected) != 1 or node.get("where_clause") or node["from_table"].get("type") != "BASE_TABLE":
        raise RuleError(f"{where}: give one expression over the columns, and no query")
    known = {name.casefold() for name in columns}
    for part in _parts(selected[0]):
        kind = part.get("class", "")
        if kind in _FORBIDDEN:
            what = kind.lower().replace("_", " ")
            raise RuleError(f"{where}: an expression is about one row; {what} is not possible")
        if kind == "FUNCTION" and (function := part.get("function_name")) not in steady:
            raise RuleError(f"{where}: {function} is not possible here: what it gives depends on more than the row")
        if kind == "COLUMN_REF" and (name := part["column_names"][-1]).casefold() not in known:
            raise RuleError(f"{where}: there is no column {name!r}; the table has {', '.join(columns)}")


def _parts(tree: object) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _parts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _parts(value)


def _steady_functions(connection: duckdb.DuckDBPyConnection) -> frozenset[str]:
    """Names of functions of one row that always give the same for the same."""
    rows = connection.execute(
        "SELECT function_name FROM duckdb_functions() WHERE function_type IN ('scalar', 'macro') "
        "GROUP BY 1 HAVING bool_and(coalesce(stability, 'CONSISTENT') = 'CONSISTENT')"
    ).fetchall()
    return frozenset(name for (name,) in rows) - {"getenv", "current_setting", "nextval", "currval", "query"}


def _sql_type(arrow: str) -> str:
    for start, name in (
        ("int", "BIGINT"),
        ("uint", "UBIGINT"),
        ("float", "DOUBLE"),
        ("double", "DOUBLE"),
        ("halffloat", "DOUBLE"),
        ("bool", "BOOLEAN"),
        ("date", "DATE"),
        ("timestamp", "TIMESTAMPTZ" if "tz=" in arrow else "TIMESTAMP"),
        ("decimal", "DOUBLE"),
    ):
        if arrow.startswith(start):
            return name
    return "VARCHAR"
