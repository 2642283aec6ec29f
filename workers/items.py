"""The items of one shard, between their rows and their records: what every kind of job has in common."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from msgspec import UNSET, UnsetType

from models.spec import Adapter, ItemError, ModelInfo, Usage
from workers.acceptance.figures import ItemChecks
from workers.contracts import Counts, Row, ShardTask
from workers.prompts import PromptError
from workers.records import EarlierRecord, Record, encode_record
from workers.screening import DenyList
from workers.upstream import NO_UPSTREAM, Upstream

_NO_USAGE = Usage()
_NOTHING: Row = {}
NO_ADAPTERS: Mapping[str, Adapter] = {}
NO_CHECKS = ItemChecks()


class ShardItems(ABC):
    """Turns a shard's rows into requests, and the results that come back into record lines.

    Args:
        task: the shard.
        info: the model that will answer.
        rows: the rows of `task.source`, all of them, in order.
        earlier: records of an earlier attempt; items that are ok in it are carried over and not asked again.
        upstream: what earlier nodes of a flow made of the items, or why an item cannot be run.
        adapters: the job's, by the names that its work has for them.
    """

    def __init__(
        self,
        task: ShardTask,
        info: ModelInfo,
        rows: Iterable[Row],
        earlier: Mapping[int, EarlierRecord],
        upstream: Upstream = NO_UPSTREAM,
        adapters: Mapping[str, Adapter] = NO_ADAPTERS,
    ) -> None:
        self.usage = Usage()
        self._ok = self._failed = 0
        self._task = task
        self._work = task.work
        self._info = info
        self._lines: list[bytes | None] = [None] * task.count
        self._custom_ids: list[str | UnsetType] = [UNSET] * task.count
        self._inputs: list[Row | UnsetType] = [UNSET] * task.count
        self._earlier = earlier
        self._adapters = {name: adapter.revision for name, adapter in adapters.items()} or UNSET
        self._forbidden = DenyList(self._work.deny)
        self._upstream = upstream
        self._attempts = {index: record.attempts + 1 for index, record in earlier.items() if not record.ok}
        self._read(rows, earlier)

    @property
    def counts(self) -> Counts:
        """Items by how they ended, so far."""
        return Counts(self._ok, self._failed)

    def join(self) -> bytes:
        """The part: every record, one a line, in item order."""
        lines = [line for line in self._lines if line is not None]
        if len(lines) != self._task.count:
            # A back-end that forgets an item breaks its protocol; no part may be written with a hole in it.
            raise AssertionError(f"{self._task.count - len(lines)} items of {self._task.count} have no record")
        lines.append(b"")
        return b"\n".join(lines)

    def join_ended(self) -> tuple[bytes, Counts, Usage]:
        """The records of the items that have ended, of this or an earlier attempt, in item order; and their sums."""
        lines: list[bytes] = []
        usage = self.usage
        for index, line in enumerate(self._lines, self._task.first):
            before = self._earlier.get(index)
            if line is not None:
                lines.append(line)
            elif before is not None:
                lines.append(before.line)
                usage += before.usage
        counts = Counts(self._ok, len(lines) - self._ok)
        lines.append(b"")
        return b"\n".join(lines), counts, usage

    def fail(self, index: int, error: ItemError, usage: Usage = _NO_USAGE, checks: ItemChecks = NO_CHECKS) -> None:
        """Take an error as an item's end."""
        offset = index - self._task.first
        record = Record(
            index=index,
            custom_id=self._custom_ids[offset],
            status="failed",
            error=error,
            usage=usage if usage.prompt_tokens else UNSET,
            input=self._inputs[offset],
            checks=UNSET if checks == NO_CHECKS else checks,
            attempts=self._attempt(index),
        )
        self._end(index, encode_record(record), usage, ok=False)

    @abstractmethod
    def _ask(self, index: int, values: Row) -> None:
        """Make the request of an item out of its row; raises PromptError where that cannot be."""

    def _refused(self, text: str) -> ItemError | None:
        """Why the service makes nothing of a prompt, where it does not. Of its list, only what was hit is told."""
        found = self._forbidden.find(text)
        if found is None:
            return None
        return ItemError("prompt_denied", f"the prompt holds {found!r}, which this service does not allow")

    def _attempt(self, index: int) -> int:
        """Which try at an item this is, from 1."""
        return self._attempts.get(index, 1)

    def _read(self, rows: Iterable[Row], earlier: Mapping[int, EarlierRecord]) -> None:
        task, work = self._task, self._work
        grid = [dict(zip(work.grid, values, strict=True)) for values in itertools.product(*work.grid.values())]
        size = len(grid)
        crossed = bool(work.grid)
        first, end = task.first, task.first + task.count
        index = first - task.skip
        index -= index % size
        for row in rows:
            if index >= end:
                break
            for combination in range(size):
                item, index = index, index + 1
                if not first <= item < end:
                    continue
                values = {**row, **grid[combination]} if crossed else row
                self._identify(item - first, values, combination if size > 1 else None)
                before = earlier.get(item)
                if before is not None and before.refused is not None:
                    self.fail(item, before.refused, before.usage)
                    continue
                if before is not None and before.ok:
                    self._end(item, before.line, before.usage, ok=True)
                    continue
                made = self._upstream.get(item, _NOTHING)
                if isinstance(made, ItemError):
                    self.fail(item, made)
                    continue
                try:
                    self._ask(item, {**values, **made} if made else values)
                except PromptError as error:
                    self.fail(item, ItemError("invalid_prompt", str(error)))
        if index < end:
            # The planner counted these rows in the same bytes: what is there now is not what was planned.
            raise AssertionError(f"the source ends at item {index}, {end - index} before the shard's end")

    def _identify(self, offset: int, values: Row, combination: int | None) -> None:
        work = self._work
        if work.custom_id is not None and values.get(work.custom_id) is not None:
            name = str(values[work.custom_id])
            self._custom_ids[offset] = name if combination is None else f"{name}/{combination}"
        if work.keep:
            self._inputs[offset] = {field: values.get(field) for field in work.keep}

    def _end(self, index: int, line: bytes, usage: Usage, *, ok: bool) -> None:
        offset = index - self._task.first
        if self._lines[offset] is not None:
            raise AssertionError(f"item {index} was answered twice")
        self._lines[offset] = line
        self.usage += usage
        if ok:
            self._ok += 1
        else:
            self._failed += 1
