"""What earlier nodes of a flow made of a shard's items: values that its templates and inputs name like fields of a row.

They are read from the parts of those nodes, which have ended and do not change while this shard runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from models.spec import ItemError
from workers.contracts import Row
from workers.store import ObjectStore


class MadeFile(msgspec.Struct, frozen=True):
    """A picture that an earlier node made. No row can hold one: it names an object in Nightmill's own store."""

    key: str


Upstream: TypeAlias = Mapping[int, Row | ItemError]
"""By item: values under the names of nodes, or why the item cannot be run."""
NO_UPSTREAM: Upstream = {}


class _Text(msgspec.Struct):
    text: str


class _Made(msgspec.Struct):
    """As much of a record as a later node may use."""

    index: int
    status: str
    output: str | dict[str, Any] | UnsetType = UNSET  # with a schema, the object itself: any JSON
    outputs: tuple[_Text, ...] = ()
    images: tuple[MadeFile, ...] = ()
    error: ItemError | None = None

    @property
    def value(self) -> object:
        """An output as it is; several as a list of texts; the one picture of an item that has one."""
        if self.output is not UNSET:
            return self.output
        return self.images[0] if self.images else [each.text for each in self.outputs]


_records = msgspec.json.Decoder(_Made)


def read_upstream(parts: Mapping[str, Sequence[str]], first: int, count: int, store: ObjectStore) -> Upstream:
    """What nodes made of items `first` to `first + count`. An item that one of them failed cannot be run.

    Args:
        parts: By node, the keys of the parts that hold its records of these items.
        first: The first item.
        count: How many there are.
        store: Where the parts lie.

    Raises:
        StoreError: the store cannot be reached, or lost a part.
    """
    if not parts:
        return NO_UPSTREAM
    items = range(first, first + count)
    found: dict[int, Row | ItemError] = {index: {} for index in items}
    for node, keys in parts.items():
        made = {record.index: record for record in _records_in(keys, store) if record.index in items}
        for index, values in found.items():
            if not isinstance(values, ItemError):
                found[index] = _joined(values, node, made.get(index))
    return found


def _records_in(keys: Sequence[str], store: ObjectStore) -> Iterator[_Made]:
    for key in keys:
        yield from map(_records.decode, store.get(key).splitlines())


def _joined(values: Row, node: str, record: _Made | None) -> Row | ItemError:
    if record is None:
        return ItemError("upstream_failed", f"the node {node} has no result of this item")
    if record.status != "ok":
        why = f": {record.error.message}" if record.error is not None else ""
        return ItemError("upstream_failed", f"the node {node} {record.status}{why}")
    return {**values, node: record.value}
