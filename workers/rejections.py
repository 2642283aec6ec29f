"""What a pass over all of a job's rows did not let stay, as it stands in the store: one list for each part.

Each item keeps its record's place. What was rejected of it is drawn again with seeds of its own, so that the outcome
depends on the job alone, and not on how it was cut or what died meanwhile.
"""

from __future__ import annotations

import msgspec

from workers.contracts import Redo
from workers.store import ObjectStore


class Rejection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one item."""

    index: int
    rows: tuple[int, ...] = ()
    """Of a block of a table, which of its rows, from 0, in order."""
    rules: dict[str, int] = {}
    """By rule, how many of them."""
    like: int | None = None
    """Of a text, the item that it is too much like."""
    similarity: float | None = None

    @property
    def says(self) -> str:
        """Why, for people."""
        why = ", ".join(f"{rule} ({count:,})" if self.rows else rule for rule, count in self.rules.items())
        like = "" if self.like is None else f", like item {self.like}"
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


def decode_rejections(data: bytes) -> Rejections:
    """A list as it stands in the store."""
    return _lists.decode(data)
