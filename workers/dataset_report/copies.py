"""What of its source stands in a dataset as it is: rows, rare values, texts and ids. Looks at every row, on disk."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from workers.dataset_report.bins import LEAST_SHARED
from workers.dataset_report.figures import Copied, SmallGroups
from workers.dataset_report.tables import MODELLED, Feature, Tables

MOST_PAIRS: Final = 60
"""Pairs of categorical columns whose rare combinations are looked for; the first ones."""


def repeated_share(tables: Tables, name: str) -> float:
    """Share of a table's rows that equal an earlier one in every column but ids, by hashes of 64 bits."""
    fields = [feature.field for feature in tables.features if feature.kind != "key"]
    if not fields:
        return 0.0
    distinct = f"SELECT DISTINCT hash({', '.join(fields)}) FROM {name}"  # noqa: S608
    return 1 - tables.number(f"SELECT count(*) FROM ({distinct})") / tables.rows[name]  # noqa: S608


def identical_rows(tables: Tables, name: str, source: str) -> int:
    """Rows of a table that equal a row of another in every modelled column."""
    fields = _modelled(tables)
    if not fields:
        return 0
    listed = ", ".join(fields)
    same = " AND ".join(f"a.{field} IS NOT DISTINCT FROM b.{field}" for field in fields)
    return tables.number(
        f"SELECT count(*) FROM {name} a SEMI JOIN (SELECT DISTINCT {listed} FROM {source}) b ON {same}"  # noqa: S608
    )


def copied_values(tables: Tables, name: str, sources: Sequence[str]) -> tuple[Copied, ...]:
    """Of each column of texts or ids, the values that stand in a source; space around them and case do not count."""
    found = []
    for feature in tables.features:
        if feature.kind in MODELLED:
            continue
        plain = f"lower(trim({feature.field}))"
        known = " UNION ".join(f"SELECT {plain} AS known FROM {source}" for source in sources)  # noqa: S608
        values = tables.number(f"SELECT count(*) FROM {name} WHERE {plain} != ''")  # noqa: S608
        copied = tables.number(
            f"SELECT count(*) FROM {name} a SEMI JOIN ({known}) b ON {plain} = b.known WHERE {plain} != ''"  # noqa: S608
        )
        share = copied / values if values else 0.0
        found.append(Copied(column=feature.name, values=values, copied=copied, share=share))
    return tuple(found)


def small_groups(tables: Tables, name: str, source: str, holdout: str | None) -> SmallGroups | None:
    """Values and pairs of values that few rows of the source share, and whether a dataset shows them.

    None where no column is categorical. What is missing is a value like any other.
    """
    columns = [feature for feature in tables.features if feature.kind == "category"]
    if not columns:
        return None
    singles = [_rare(tables, (column,), source, (name,)) for column in columns]
    looked = list(itertools.combinations(columns, 2))[:MOST_PAIRS]
    beside = (name,) if holdout is None else (name, holdout)
    doubles = [_rare(tables, pair, source, beside) for pair in looked]
    showing = [column for column, (_, shown) in zip(columns, singles, strict=True) if shown[0]]
    return SmallGroups(
        least=LEAST_SHARED,
        values=sum(there for there, _ in singles),
        values_shown=sum(shown[0] for _, shown in singles),
        pairs=sum(there for there, _ in doubles),
        pairs_shown=sum(shown[0] for _, shown in doubles),
        pairs_shown_holdout=None if holdout is None else sum(shown[1] for _, shown in doubles),
        pair_columns=len(looked),
        rows=_rows_with_rare(tables, showing, name, source),
        columns=tuple(column.name for column in showing),
    )


def _rare(
    tables: Tables, columns: Sequence[Feature], source: str, others: Sequence[str]
) -> tuple[int, tuple[int, ...]]:
    """How many groups of a source fewer than `LEAST_SHARED` rows share, and how many of them each other table has."""
    rare = _rare_groups(columns, source)
    same = " AND ".join(f"a.{column.field} IS NOT DISTINCT FROM b.{column.field}" for column in columns)
    there = tables.number(f"SELECT count(*) FROM ({rare})")  # noqa: S608
    shown = tuple(
        tables.number(f"SELECT count(*) FROM ({rare}) a SEMI JOIN {other} b ON {same}") if there else 0  # noqa: S608
        for other in others
    )
    return there, shown


def _rows_with_rare(tables: Tables, columns: Sequence[Feature], name: str, source: str) -> int:
    if not columns:
        return 0
    held = " OR ".join(
        f"{column.field} IN (SELECT {column.field} FROM ({_rare_groups((column,), source)}))"  # noqa: S608
        for column in columns
    )
    return tables.number(f"SELECT count(*) FROM {name} WHERE {held}")  # noqa: S608


def _rare_groups(columns: Sequence[Feature], source: str) -> str:
    listed = ", ".join(column.field for column in columns)
    return f"SELECT {listed} FROM {source} GROUP BY {listed} HAVING count(*) < {LEAST_SHARED}"  # noqa: S608


def _modelled(tables: Tables) -> list[str]:
    return [feature.field for feature in tables.features if feature.kind in MODELLED]
