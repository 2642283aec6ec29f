"""Rules of a row as SQL, and what an expression of a stranger may hold.

An expression is parsed by DuckDB itself, and its tree is held against a list of what is allowed: columns of the table,
constants, comparisons and functions of one row's values that always give the same answer. Nothing else reaches the
database: no subquery, no aggregate, no function that reads files, clocks or chance.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from workers.table_accept.engine import connected, literal, plain_schema, quoted
from workers.table_accept.errors import TableRuleError
from workers.table_accept.rules import RowRule, TableRules

if TYPE_CHECKING:
    import duckdb

ROWS: Final = "candidates"
"""The name by which the table is asked."""
_ALLOWED: Final = frozenset({
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "OPERATOR",
    "TYPE",
})  # fmt: skip
"""What a tree may consist of, as DuckDB calls it."""
_REFUSED: Final = {
    "SUBQUERY": "a subquery; a rule sees one row: use unique or dependencies for what holds between rows",
    "WINDOW": "a window function; a rule sees one row: use unique or dependencies for what holds between rows",
    "STAR": "*; name the columns",
    "PARAMETER": "a parameter; write the value",
    "LAMBDA": "a lambda; write the condition out",
}
FUNCTIONS: Final = frozenset({
    "+", "-", "*", "/", "//", "%", "**", "^", "||", "~~", "!~~", "~~*", "!~~*", "abs", "ceil", "ceiling", "exp",
    "floor", "greatest", "isfinite", "isinf", "isnan", "least", "ln", "log", "log10", "log2", "mod", "pow", "power",
    "round", "sign", "sqrt", "trunc", "concat", "contains", "ends_with", "instr", "lcase", "left", "len", "length",
    "like_escape", "lower", "ltrim", "not_like_escape", "position", "prefix", "regexp_full_match", "regexp_matches",
    "reverse", "right", "rtrim", "split_part", "starts_with", "strpos", "substr", "substring", "suffix", "trim",
    "ucase", "upper", "date_diff", "date_part", "date_sub", "date_trunc", "datediff", "datepart", "datetrunc", "day",
    "dayofweek", "dayofyear", "epoch", "hour", "isodow", "last_day", "make_date", "minute", "month", "quarter",
    "second", "strftime", "strptime", "to_days", "to_hours", "to_minutes", "to_months", "to_seconds", "to_weeks",
    "to_years", "try_strptime", "week", "year", "if", "ifnull", "nullif",
})  # fmt: skip
"""Functions and operators that an expression may use."""


def check_rules(rules: TableRules, schema: pa.Schema) -> None:
    """Refuse what cannot be kept, as far as can be told without data.

    Raises:
        TableRuleError: a column is unknown, an expression holds what is not allowed or is not true or false, a pattern
            is none; or DuckDB is not installed.
    """
    _check_names(schema)
    for column, label in rules.named_columns.items():
        _check_column(column, schema.names, label)
    if rules.rules:
        connection = connected()
        try:
            plain = plain_schema(schema)
            missing = pa.table([pa.nulls(1, column.type) for column in plain], plain.names)
            connection.register(ROWS, missing)
            for rule in rules.rules:
                _check_bound(connection, rule, condition(rule, schema, connection))
        finally:
            connection.close()


def columns_used(rules: TableRules, schema: pa.Schema, connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Columns of the schema that the rules of a row look at, in its order."""
    used = {rule.column for rule in rules.rules if rule.column is not None}
    folded = {name.casefold(): name for name in schema.names}
    for rule in rules.rules:
        if rule.expression is not None:
            used |= {folded[name.casefold()] for name in _names(_tree(connection, rule))}
    return [name for name in schema.names if name in used]


def condition(rule: RowRule, schema: pa.Schema, connection: duckdb.DuckDBPyConnection) -> str:
    """A rule as SQL that is true, false or, where values are missing, unknown.

    Raises:
        TableRuleError: an expression holds what is not allowed.
    """
    if rule.expression is not None:
        _check_tree(_tree(connection, rule), schema.names, rule.label)
        return f"(\n{rule.expression}\n)"
    if rule.range is not None:
        column, low, high = quoted(rule.range.column), rule.range.min, rule.range.max
        ends = [*([f"{column} >= {literal(low)}"] if low is not None else [])]
        ends += [f"{column} <= {literal(high)}"] if high is not None else []
        return f"({' AND '.join(ends)})"
    if rule.regex is not None:
        return f"regexp_matches(CAST({quoted(rule.regex.column)} AS VARCHAR), {literal(rule.regex.pattern)})"
    if rule.within is not None:
        return f"{quoted(rule.within.column)} IN ({', '.join(map(literal, rule.within.values))})"
    raise AssertionError(f"a rule of no kind: {rule!r}")


def first_line(error: Exception) -> str:
    """What DuckDB says, without the picture of the place."""
    return str(error).partition("\n")[0].strip()


def _check_names(schema: pa.Schema) -> None:
    """SQL's names have no case: two that differ in nothing else would be mistaken for one another."""
    twice = [name for name, count in Counter(name.casefold() for name in schema.names).items() if count > 1]
    if twice:
        same = [name for name in schema.names if name.casefold() == twice[0]]
        raise TableRuleError(f"the table has columns {' and '.join(map(repr, same))}, which rules cannot tell apart")


def _check_column(column: str, known: Iterable[str], label: str) -> None:
    known = list(known)
    if column not in known:
        near = difflib.get_close_matches(column, known, n=1)
        what = f"did you mean {near[0]!r}?" if near else f"the table has {', '.join(known[:12])}"
        raise TableRuleError(f"there is no column {column!r}; {what}", label)


def _check_bound(connection: duckdb.DuckDBPyConnection, rule: RowRule, sql: str) -> None:
    import duckdb  # noqa: PLC0415 - as `connected`

    try:
        found = connection.execute(f"SELECT {sql} FROM {ROWS}").description  # noqa: S608 - an expression that was checked
        # Run, not only described: a pattern that is none, or a date, shows itself only then.
        connection.fetchall()
    except duckdb.Error as error:
        raise TableRuleError(first_line(error), rule.label) from error
    kind = str(found[0][1]) if found else "nothing"
    if kind.upper() not in {"BOOL", "BOOLEAN"}:
        raise TableRuleError(f"it is of type {kind}; a rule is true or false, as in `price > 0`", rule.label)


def _tree(connection: duckdb.DuckDBPyConnection, rule: RowRule) -> Mapping[str, Any]:
    """The expression as DuckDB parses it: JSON of whatever shape it has.

    It is parsed alone as well, where parentheses that do not match are an error: else one could leave those around it.
    """
    _parsed(connection, f"SELECT\n{rule.expression}\n", rule.label)
    return _parsed(connection, f"SELECT (\n{rule.expression}\n)", rule.label)


def _parsed(connection: duckdb.DuckDBPyConnection, sql: str, label: str) -> Mapping[str, Any]:  # JSON
    [(answer,)] = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    parsed = json.loads(answer)
    if parsed.get("error"):
        raise TableRuleError(f"it cannot be read: {parsed.get('error_message')}", label)
    statements = parsed["statements"]
    node = statements[0]["node"]
    chosen = node.get("select_list", [])
    extra = [
        *node.get("modifiers", []),
        node.get("where_clause"),
        node.get("having"),
        node.get("qualify"),
        node.get("sample"),
    ]
    plain = node.get("type") == "SELECT_NODE" and node["from_table"]["type"] == "EMPTY" and not any(extra)
    if len(statements) != 1 or not plain or len(chosen) != 1 or chosen[0].get("alias"):
        raise TableRuleError("it is more than one expression; write a condition such as `age BETWEEN 18 AND 90`", label)
    tree: Mapping[str, Any] = chosen[0]
    return tree


def _check_tree(tree: Mapping[str, Any], known: Iterable[str], label: str) -> None:
    names = {name.casefold(): name for name in known}
    for node in _nodes(tree):
        what = node["class"]
        if what not in _ALLOWED:
            raise TableRuleError(f"it holds {_REFUSED.get(what, f'{what.lower()}, which a rule may not')}", label)
        if what == "COLUMN_REF":
            steps = node["column_names"]
            if len(steps) != 1:
                raise TableRuleError(f"{'.'.join(steps)} is not a column's name; write it without a table's", label)
            if steps[0].casefold() not in names:
                _check_column(steps[0], names.values(), label)
        if what == "FUNCTION" and node["function_name"].casefold() not in FUNCTIONS:
            name = node["function_name"]
            near = difflib.get_close_matches(name.casefold(), sorted(FUNCTIONS), n=1, cutoff=0.75)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else "allowed are arithmetic and functions of numbers, texts and dates"
            )
            raise TableRuleError(f"{name} is not among the functions that a rule may use; {hint}", label)


def _names(tree: Mapping[str, Any]) -> Iterator[str]:
    return (node["column_names"][-1] for node in _nodes(tree) if node["class"] == "COLUMN_REF")


def _nodes(value: object) -> Iterator[Mapping[str, Any]]:  # JSON
    if isinstance(value, Mapping):
        if "class" in value:
            yield value
        for inner in value.values():
            yield from _nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _nodes(inner)
