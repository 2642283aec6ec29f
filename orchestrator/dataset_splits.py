"""Which split a row of a dataset is in: by a hash alone, so that a row stays where it is whatever becomes of others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import accumulate

import orjson
from pydantic import JsonValue

WHOLE = "train"
"""The one split of a dataset that says nothing of splits."""


class Splits:
    """The splits of a job.

    Args:
        shares: By name, together 1; None for one split.
        seed: The job's.
    """

    def __init__(self, shares: Mapping[str, float] | None, seed: int) -> None:
        self.names: tuple[str, ...] = tuple(shares or (WHOLE,))
        self._ends = list(accumulate((shares or {WHOLE: 1.0}).values()))
        self._seed = seed

    def of(self, key: JsonValue) -> str:
        """The split of a row: of its index, or of the value that it shares with rows that must be in one split."""
        text = b"split/%d/" % self._seed + orjson.dumps(key, option=orjson.OPT_SORT_KEYS)
        share = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64
        # The shares need not add up to 1 to the last bit.
        return next((name for name, end in zip(self.names, self._ends, strict=True) if share < end), self.names[-1])
