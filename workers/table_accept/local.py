"""Rules that a row fulfils or breaks by itself."""

from __future__ import annotations

from collections.abc import Mapping
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
        broken = self.broken(table)
        if not broken:
            return pa.array([True] * table.num_rows), {}
        rejected = {rule: count for rule, rows in broken.items() if (count := int(rows.sum()))}
        return pa.array(~np.logical_or.reduce(list(broken.values()))), rejected

    def broken(self, table: pa.Table) -> dict[str, NDArray[np.bool_]]:
        """By rule, which rows break it.

        Raises:
            duckdb.Error: an expression meets a value that it cannot compute with.
        """
        if not self._rules:
            return {}
        self._connection.register("candidates", table)
        try:
            verdicts = self._connection.execute(self._query).fetchnumpy()
        finally:
            self._connection.unregister("candidates")
        found = (~np.asarray(column, bool) for column in verdicts.values())
        return {rule.shown: rows for rule, rows in zip(self._rules, found, strict=True)}


def rates(rejected: Mapping[str, int], candidates: int) -> str:
    """Which rule rejected how much, the strictest first."""
    shares = sorted(rejected.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{rule} rejected {100 * count / max(1, candidates):.3g} %" for rule, count in shares)
