"""Rules that a row fulfils or breaks by itself."""

from __future__ import annotations

from typing import Self

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.table_accept.expressions import SETTINGS
from workers.table_accept.rules import TableRules


class LocalRules:
    """The rules of a table, ready to be asked; used as a context.

    Args:
        rules: The rules; those over all rows are not asked here.
    """

    def __init__(self, rules: TableRules) -> None:
        self._rules = rules.rules
        asked = ", ".join(f"(({rule.sql})::BOOLEAN IS NOT FALSE)" for rule in self._rules)
        # A missing value makes a rule neither true nor false, and breaks it as little as a CHECK constraint.
        self._query = f"SELECT {asked} FROM candidates"  # noqa: S608 - `expressions` has checked what the rules are
        self._connection = duckdb.connect(config=SETTINGS)

    def __enter__(self) -> Self:
        """Use the rules, and close the connection after."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give back what the connection holds."""
        self._connection.close()

    def mask(self, table: pa.Table) -> tuple[pa.BooleanArray, dict[str, int]]:
        """Which rows break no rule, and by rule how many rows break it.

        Raises:
            duckdb.Error: an expression meets a value that it cannot compute with.
        """
        if not self._rules:
            return pa.array([True] * table.num_rows), {}
        self._connection.register("candidates", table)
        try:
            verdicts = self._connection.execute(self._query).fetchnumpy()
        finally:
            self._connection.unregister("candidates")
        columns = np.stack([np.asarray(column, bool) for column in verdicts.values()])
        broken = (~columns).sum(axis=1).tolist()
        rejected = {rule.shown: count for rule, count in zip(self._rules, broken, strict=True) if count}
        accepted: NDArray[np.bool_] = np.logical_and.reduce(columns)
        return pa.array(accepted), rejected
