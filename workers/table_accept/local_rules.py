"""The rules that a row meets or breaks alone, over a table at a time."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.table_accept.engine import connected, plain_schema
from workers.table_accept.errors import TableRuleError
from workers.table_accept.expressions import ROWS, columns_used, condition, first_line
from workers.table_accept.rules import TableRules


class LocalRules:
    """Rules made ready for tables of one schema: what is ready once serves for every block. Not for several threads.

    Args:
        rules: Those of `rules`; uniqueness and dependencies are for `global_pass`.
        schema: Of the tables.
        threads: Cores that may be used.

    Raises:
        TableRuleError: as `check_rules`.
    """

    def __init__(self, rules: TableRules, schema: pa.Schema, *, threads: int = 1) -> None:
        self._labels = rules.row_labels
        self._connection = connected(threads=threads)
        self._columns = columns_used(rules, schema, self._connection)
        conditions = [condition(rule, schema, self._connection) for rule in rules.rules]
        broken = ", ".join(f"({sql}) IS FALSE AS r{place}" for place, sql in enumerate(conditions))
        self._sql = f"SELECT {broken} FROM {ROWS}"  # noqa: S608 - expressions that were checked

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the engine."""
        self._connection.close()

    def mask(self, table: pa.Table) -> tuple[NDArray[np.bool_], Mapping[str, int]]:
        """Which rows break no rule, and how many rows break each rule; a row may break several.

        Raises:
            TableRuleError: a rule cannot be computed of these values, such as a text that is cast to a number.
        """
        kept = np.ones(len(table), bool)
        if not self._labels or not len(table):
            return kept, dict.fromkeys(self._labels, 0)
        import duckdb  # noqa: PLC0415 - as `connected`

        # A rule without any column is asked of as many rows, too.
        asked = table.select(self._columns) if self._columns else pa.table({"row": pa.nulls(len(table))})
        self._connection.register(ROWS, asked.cast(plain_schema(asked.schema)))
        try:
            found = self._connection.execute(self._sql).fetchnumpy()
        except duckdb.Error as error:
            raise TableRuleError(f"the rules cannot be computed: {first_line(error)}; TRY_CAST may help") from error
        finally:
            self._connection.unregister(ROWS)
        counts = {}
        for place, label in enumerate(self._labels):
            broken = np.asarray(found[f"r{place}"], bool)
            counts[label] = int(broken.sum())
            kept &= ~broken
        return kept, counts


def local_mask(table: pa.Table, rules: TableRules) -> tuple[NDArray[np.bool_], Mapping[str, int]]:
    """As `LocalRules.mask`, for one table. Raises as `LocalRules` and its `mask`."""
    with LocalRules(rules, table.schema) as ready:
        return ready.mask(table)
