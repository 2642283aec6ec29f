"""How a block of a linked table is drawn: a sequence for each subject, until those of all subjects are accepted.

A subject of whose rows one is rejected is drawn again as a whole, with all others that were: what it had is forgotten.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.spec import ItemError
from models.tabular.columns import Values
from models.tabular.links import places_of
from models.tabular.saved import Linked
from workers.table_accept.local import LocalRules, rates


class LinkedDrawing:
    """A block that is being drawn. Subjects are known by their places in it.

    Args:
        subjects: Their keys and what their sequences depend on; None where the model makes keys for them.
        count: How many subjects there are.
        linked: How the model's rows belong to them.
        candidates: How many sequences are drawn at most for each subject, on average.
        rules: What every row must fulfil.
    """

    def __init__(
        self, subjects: pa.Table | None, count: int, linked: Linked, candidates: int, rules: LocalRules
    ) -> None:
        self.draws = 0
        self.candidates = 0
        self.rejected: Counter[str] = Counter()
        """By rule, how many sequences it did not let pass."""
        self.subjects = count
        self._limit = candidates * count
        self._foreign_key = linked.foreign_key
        self._key = linked.key
        self._context = subjects
        self._open: NDArray[np.int64] = np.arange(count)
        self._rules = rules
        self._tables: list[pa.Table] = []
        self._places: list[NDArray[np.int64]] = []

    @property
    def missing(self) -> int:
        """Subjects without a sequence that is accepted."""
        return len(self._open)

    @property
    def due(self) -> bool:
        """Whether there is to be another draw; a block without subjects has one, that gives its columns."""
        return not self.draws or (self.missing > 0 and self.candidates < self._limit)

    def next_count(self) -> int:
        """How many subjects are drawn next."""
        return min(self.missing, self._limit - self.candidates)

    def context(self) -> pa.Table | None:
        """These subjects; None where the model is to make keys for them."""
        return None if self._context is None else self._context.take(self._open[: self.next_count()])

    def take(self, table: pa.Table) -> None:
        """Take the sequences of the subjects that were asked for, and keep those of which every rule accepts all."""
        count = self.next_count()
        later = self._open[count:]
        keys: Values = table[self._foreign_key].combine_chunks()
        if self._context is None:
            # A subject that has no rows has none that a rule could reject, and is never asked for again.
            self._context = pa.table({self._key: pc.unique(keys)})
        found = places_of(keys, self._context[self._key].combine_chunks())
        if found.null_count:
            raise AssertionError("the model made rows of subjects that it was not asked for")
        places = found.to_numpy(zero_copy_only=False).astype(np.int64)
        again: set[int] = set()
        for rule, broken in self._rules.broken(table).items():
            of_rule = set(places[broken].tolist())
            again |= of_rule
            if of_rule:
                self.rejected[rule] += len(of_rule)
        self.draws += 1
        self.candidates += count
        rejected: NDArray[np.int64] = np.array(sorted(again), dtype=np.int64)
        kept = ~np.isin(places, rejected)
        self._tables.append(table.filter(kept))
        self._places.append(places[kept])
        self._open = np.concatenate([rejected, later])

    def accepted(self) -> pa.Table:
        """The sequences, in the order of their subjects."""
        return pa.concat_tables(self._tables).take(np.argsort(np.concatenate(self._places), kind="stable"))

    def error(self) -> ItemError:
        """Why not every subject has a sequence."""
        return ItemError(
            "candidates_exhausted",
            f"{self.candidates:,} sequences were drawn for {self.subjects:,} subjects, and {self.missing:,} of these "
            f"have none that is accepted; of the sequences {rates(self.rejected, self.candidates)}. Loosen that rule, "
            "or raise accept.candidates",
        )
