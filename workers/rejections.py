"""What a pass over all of a job's rows did not let stay, as it stands in the store: one list for each part.

Each item keeps its record's place. What was rejected of it is drawn again with seeds of its own, so that the outcome
depends on the job alone, and not on how it was cut or what died meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from models.spec import ItemError
from workers.contracts import Redo
from workers.records import EarlierRecord
from workers.store import ObjectStore

Earlier: TypeAlias = dict[int, EarlierRecord]


class Rejection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one item."""

    index: int
    rows: tuple[int, ...] = ()
    """Of a block of a table, which of its rows, from 0, in order."""
    rules: dict[str, int] = {}
    """By rule, how many of them."""
    like: int | None = None
    """Of a text, the item that it is too much like."""
    job: str = ""
    """Of which job that one is; empty for its own."""
    similarity: float | None = None

    @property
    def says(self) -> str:
        """Why, for people."""
        why = ", ".join(f"{rule} ({count:,})" if self.rows else rule for rule, count in self.rules.items())
        of = f" of job {self.job}" if self.job else ""
        like = "" if self.like is None else f", like item {self.like}{of}"
        return f"{why}{like}" + ("" if self.similarity is None else f" ({self.similarity:.2f})")


class Rejections(msgspec.Struct, frozen=True, kw_only=True):
    """Of one part, in item order."""

    round: int
    found: tuple[Rejection, ...]

    def encoded(self) -> bytes:
        """As it stands in the store."""
        return msgspec.json.encode(self)


_lists = msgspec.json.Decoder(Rejections)


def read_rejections(redo: Redo | None, store: ObjectStore) -> dict[int, Rejection]:
    """By item, what is to be drawn again of a shard; nothing where it is run for another reason.

    Raises:
        StoreError: the store cannot be reached, or lost the list.
    """
    if redo is None:
        return {}
    return {rejection.index: rejection for rejection in decode_rejections(store.get(redo.key)).found}


def judged(earlier: Mapping[int, EarlierRecord], rejected: Mapping[int, Rejection], redo: Redo | None) -> Earlier:
    """Records of a part as a pass has judged them: what it rejected is not ok, or is refused where no round is left."""
    if redo is None:
        return dict(earlier)
    return {
        index: record
        if (rejection := rejected.get(index)) is None
        else msgspec.structs.replace(record, ok=False, refused=None if redo.draw else _refusal(rejection))
        for index, record in earlier.items()
    }


def _refusal(rejection: Rejection) -> ItemError:
    if rejection.rows:
        many = f"{len(rejection.rows):,} of its rows break rules"
        return ItemError("rounds_exhausted", f"{many} over all rows after the last round: {rejection.says}")
    return ItemError("rejected", f"after the last round it is still rejected: {rejection.says}")


def decode_rejections(data: bytes) -> Rejections:
    """A list as it stands in the store."""
    return _lists.decode(data)
