"""The items of one shard, between their rows and their records."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from msgspec import UNSET, UnsetType

from models.spec import MAX_TOKENS_LIMIT, ItemError, ModelInfo, TextRequest, TextResult, Usage
from workers.contracts import Counts, Row, ShardTask
from workers.prompts import PromptError, PromptTemplate
from workers.records import EarlierRecord, Record, encode_record, item_seed
from workers.schemas import Validator


class ShardItems:
    """Turns a shard's rows into requests, and the results that come back into record lines.

    Args:
        task: the shard.
        info: the model that will answer.
        rows: the rows of `task.source`, all of them, in order.
        earlier: records of an earlier attempt; items that are ok in it are carried over and not asked again.
    """

    def __init__(
        self, task: ShardTask, info: ModelInfo, rows: Iterable[Row], earlier: Mapping[int, EarlierRecord]
    ) -> None:
        self.requests: list[TextRequest] = []
        self.usage = Usage()
        self._ok = self._failed = 0
        self._task = task
        self._work = task.work
        self._info = info
        self._validator = None if task.work.schema is None else Validator(task.work.schema)
        self._lines: list[bytes | None] = [None] * task.count
        self._custom_ids: list[str | UnsetType] = [UNSET] * task.count
        self._inputs: list[Row | UnsetType] = [UNSET] * task.count
        self._earlier = earlier
        self._attempts = {index: record.attempts + 1 for index, record in earlier.items() if not record.ok}
        self._read(rows, earlier)

    @property
    def counts(self) -> Counts:
        """Items by how they ended, so far."""
        return Counts(self._ok, self._failed)

    def settle(self, result: TextResult) -> None:
        """Take an item's result as its end."""
        error = result.error
        if error is None and self._validator is not None:
            error = self._invalid(result, self._validator)
        if error is not None:
            self._fail(result.index, error, result.usage)
            return
        record = self._record(result)
        self._end(result.index, encode_record(record), result.usage, ok=True)

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

    def _read(self, rows: Iterable[Row], earlier: Mapping[int, EarlierRecord]) -> None:
        task, work = self._task, self._work
        template = PromptTemplate(work.messages)
        sampling, options = work.parsed_sampling(), work.parsed_options()
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
                if before is not None and before.ok:
                    self._end(item, before.line, before.usage, ok=True)
                    continue
                try:
                    messages = template.render(values)
                    limit = None if work.max_tokens_field is None else _limit(values, work.max_tokens_field)
                except PromptError as error:
                    self._fail(item, ItemError("invalid_prompt", str(error)), Usage())
                    continue
                self.requests.append(
                    TextRequest(
                        index=item,
                        messages=messages,
                        sampling=sampling,
                        seed=item_seed(work.seed, item, self._attempts.get(item, 1)),
                        n=work.n,
                        max_tokens=limit,
                        schema=work.schema,
                        options=options,
                    )
                )
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

    def _invalid(self, result: TextResult, validator: Validator) -> ItemError | None:
        for output in result.outputs:
            if output.finish_reason == "length":
                return ItemError("output_truncated", "the output reached max_tokens before its JSON was complete")
            try:
                value = orjson.loads(output.text)
            except orjson.JSONDecodeError as error:
                return ItemError("invalid_output", f"the output is not JSON: {error}")
            problem = validator.error(value)
            if problem is not None:
                return ItemError("invalid_output", f"the output does not satisfy the schema: {problem}")
        return None

    def _record(self, result: TextResult) -> Record:
        offset = result.index - self._task.first
        first = result.outputs[0]
        output: str | dict[str, Any] | UnsetType = first.text  # an object of any shape
        if self._work.n > 1:
            output = UNSET
        elif self._validator is not None:
            output = orjson.loads(first.text)
        return Record(
            index=result.index,
            custom_id=self._custom_ids[offset],
            status="ok",
            output=output,
            outputs=result.outputs if self._work.n > 1 else UNSET,
            finish_reason=first.finish_reason if self._work.n == 1 else UNSET,
            usage=result.usage,
            model=self._info.model,
            model_revision=self._info.revision,
            seed=first.seed,
            reproducible=self._info.reproducible,
            input=self._inputs[offset],
            attempts=self._attempts.get(result.index, 1),
        )

    def _fail(self, index: int, error: ItemError, usage: Usage) -> None:
        offset = index - self._task.first
        record = Record(
            index=index,
            custom_id=self._custom_ids[offset],
            status="failed",
            error=error,
            usage=usage if usage.prompt_tokens else UNSET,
            input=self._inputs[offset],
            attempts=self._attempts.get(index, 1),
        )
        self._end(index, encode_record(record), usage, ok=False)

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


def _limit(values: Row, field: str) -> int:
    value = values.get(field)
    try:
        limit = int(value)  # type: ignore[arg-type] # whatever is no number raises, and is told so
    except (TypeError, ValueError) as error:
        raise PromptError(f"{field} is {value!r}; it bounds this item's output and must be a whole number") from error
    if not 1 <= limit <= MAX_TOKENS_LIMIT:
        raise PromptError(f"{field} is {limit}; it bounds this item's output and must be from 1 to {MAX_TOKENS_LIMIT}")
    return limit
