"""Columns of texts as counts and as whole numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Texts: TypeAlias = "pa.ChunkedArray[pa.StringScalar]"
Codes: TypeAlias = NDArray[np.intp]


def count_values(columns: Sequence[Texts]) -> dict[str, int]:
    """How often each value stands in columns together, missing ones left out: most frequent first, ties by text."""
    counts: Counter[str] = Counter()
    for column in columns:
        encoded = pc.drop_null(column).combine_chunks().dictionary_encode()
        numbers = np.bincount(encoded.indices.to_numpy(), minlength=len(encoded.dictionary))
        for value, number in zip(encoded.dictionary.to_pylist(), numbers.tolist(), strict=True):
            counts[str(value)] += number
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def place_values(column: Texts, known: Sequence[str]) -> Codes:
    """The place of each value among the known ones; the next place for any other value, and the one after for none."""
    places = pc.index_in(column, value_set=pa.array(known, pa.string())).to_numpy(zero_copy_only=False)
    codes = np.where(np.isnan(places), len(known), places)
    codes[pc.is_null(column).to_numpy()] = len(known) + 1
    return codes.astype(np.intp)
