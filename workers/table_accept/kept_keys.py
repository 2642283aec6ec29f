"""Keys of accepted rows, in tables of a database that spills to disk, and what new rows have in common with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.table_accept.rules import TableRules

if TYPE_CHECKING:
    import duckdb

_NONE: Final = -1


class KeptKeys:
    """Keys of accepted rows, a table for each rule: of a unique key its columns, of a dependency both sides'."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, rules: TableRules, schema: pa.Schema) -> None:
        self._connection = connection
        self._labels = rules.global_labels
        # By number: no name of a column is then mistaken for one of ours.
        self._numbers = {name: f"c{number}" for number, name in enumerate(schema.names)}
        # By rule the columns that make rows comparable, and those that must then be equal.
        pairs: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
            *((key, ()) for key in rules.unique),
            *((each.determinant, each.dependent) for each in rules.dependencies),
        ]
        self._rules = [(self._named(key), self._named(dependent)) for key, dependent in pairs]
        with self._batch(schema.empty_table()):
            for place, (key, dependent) in enumerate(self._rules):
                connection.execute(f"CREATE TABLE kept{place} AS SELECT {_listed(*key, *dependent)} FROM batch")  # noqa: S608 - names of ours

    def keep(self, rows: pa.Table) -> None:
        """Accept rows without judging them."""
        with self._batch(rows):
            self._insert("TRUE")

    def judge(self, rows: pa.Table) -> Mapping[int, list[str]]:
        """Judge rows that stand behind all that was seen, in order; the accepted ones are kept.

        Returns:
            By place in the batch, ascending, the rules that reject the row.
        """
        with self._batch(rows):
            met = [self._met(place) for place in range(len(self._rules))]
            groups = [self._groups(key, dependent) for key, dependent in self._rules]
            broken = self._settled(met, groups)
            self._connection.register("broken", pa.table({"place": pa.array(list(broken), pa.int64())}))
            self._insert("place NOT IN (SELECT place FROM broken)")
            self._connection.unregister("broken")
        return broken

    def _settled(
        self, met: Sequence[frozenset[int]], groups: Sequence[Mapping[int, tuple[int, int]]]
    ) -> dict[int, list[str]]:
        """Go through the rows that others may reject, in order: only accepted rows reject."""
        taken: list[dict[int, int]] = [{} for _ in self._rules]
        broken: dict[int, list[str]] = {}
        for row in sorted({row for rows in (*met, *groups) for row in rows}):
            labels = []
            for place, (_, dependent) in enumerate(self._rules):
                group, rest = groups[place].get(row, (_NONE, _NONE))
                other = taken[place].get(group, _NONE)
                if row in met[place] or (other != _NONE and not (dependent and other == rest)):
                    labels.append(self._labels[place])
            if labels:
                broken[row] = labels
                continue
            for place in range(len(self._rules)):
                if row in groups[place]:
                    taken[place].setdefault(*groups[place][row])
        return broken

    @contextmanager
    def _batch(self, rows: pa.Table) -> Iterator[None]:
        """Make rows known to SQL, with their places."""
        named = rows.rename_columns([self._numbers[name] for name in rows.column_names])
        self._connection.register("batch", named.append_column("place", pa.array(np.arange(len(rows)))))
        try:
            yield
        finally:
            self._connection.unregister("batch")

    def _insert(self, where: str) -> None:
        for place, (key, dependent) in enumerate(self._rules):
            # Of a dependency, what is known already is not written again.
            known = f" EXCEPT SELECT * FROM kept{place}" if dependent else ""  # noqa: S608 - names of ours
            self._connection.execute(
                f"INSERT INTO kept{place} SELECT DISTINCT {_listed(*key, *dependent)} FROM batch "  # noqa: S608 - names of ours
                f"WHERE {where} AND {_present(key)}{known}"
            )

    def _met(self, place: int) -> frozenset[int]:
        """Places of rows that an accepted row of an earlier batch rejects."""
        key, dependent = self._rules[place]
        same = " AND ".join(f"kept.{name} = batch.{name}" for name in key)
        other = " OR ".join(f"kept.{name} IS DISTINCT FROM batch.{name}" for name in dependent) or "TRUE"
        found = self._connection.execute(
            f"SELECT DISTINCT batch.place FROM batch JOIN kept{place} AS kept ON {same} WHERE {other}"  # noqa: S608 - names of ours
        )
        places: NDArray[np.int64] = np.asarray(found.fetchnumpy()["place"], np.int64)
        return frozenset(places.tolist())

    def _groups(self, key: Sequence[str], dependent: Sequence[str]) -> Mapping[int, tuple[int, int]]:
        """Of rows that others of the batch may reject: by place, a number of the key and one of all columns."""
        found = self._connection.execute(
            f"WITH shared AS (SELECT * FROM batch WHERE {_present(key)} "  # noqa: S608 - names of ours
            f"QUALIFY count(*) OVER (PARTITION BY {_listed(*key)}) > 1) "
            f"SELECT place, dense_rank() OVER (ORDER BY {_listed(*key)}) AS same, "
            f"dense_rank() OVER (ORDER BY {_listed(*key, *dependent)}) AS whole FROM shared"
        ).fetchnumpy()
        places, same, whole = (np.asarray(found[name], np.int64) for name in ("place", "same", "whole"))
        if dependent and len(places):
            # Rows that agree in everything cannot contradict one another; most groups are of such rows.
            last = int(same.max()) + 1
            lowest, highest = np.full(last, len(same) + 1), np.zeros(last, np.int64)
            np.minimum.at(lowest, same, whole)
            np.maximum.at(highest, same, whole)
            mixed = (lowest < highest)[same]
            places, same, whole = places[mixed], same[mixed], whole[mixed]
        return dict(zip(places.tolist(), zip(same.tolist(), whole.tolist(), strict=True), strict=True))

    def _named(self, columns: Sequence[str]) -> tuple[str, ...]:
        return tuple(self._numbers[column] for column in columns)


def _listed(*names: str) -> str:
    return ", ".join(names)


def _present(names: Sequence[str]) -> str:
    return " AND ".join(f"{name} IS NOT NULL" for name in names)
