"""The items of one shard of a text job, between their rows and their records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from msgspec import UNSET, UnsetType

from models.spec import MAX_TOKENS_LIMIT, Adapter, ItemError, ModelInfo, TextRequest, TextResult
from workers.contracts import Row, ShardTask
from workers.items import NO_ADAPTERS, ShardItems
from workers.prompts import PromptError, PromptTemplate
from workers.records import EarlierRecord, Record, encode_record, item_seed
from workers.schemas import Validator
from workers.upstream import NO_UPSTREAM, Upstream


class TextItems(ShardItems):
    """As `ShardItems`; `requests` are those of the items that are not done yet."""

    def __init__(
        self,
        task: ShardTask,
        info: ModelInfo,
        rows: Iterable[Row],
        earlier: Mapping[int, EarlierRecord],
        upstream: Upstream = NO_UPSTREAM,
        adapters: Mapping[str, Adapter] = NO_ADAPTERS,
    ) -> None:
        work = task.work
        self.requests: list[TextRequest] = []
        self._validator = None if work.schema is None else Validator(work.schema)
        self._template = PromptTemplate(work.messages)
        self._adapter = None if work.adapter is None else adapters[work.adapter]
        self._sampling, self._options = work.parsed_sampling(), work.parsed_options()
        super().__init__(task, info, rows, earlier, upstream, adapters)

    def settle(self, result: TextResult) -> None:
        """Take an item's result as its end."""
        error = result.error
        if error is None and self._validator is not None:
            error = self._invalid(result, self._validator)
        if error is not None:
            self.fail(result.index, error, result.usage)
            return
        record = self._record(result)
        self._end(result.index, encode_record(record), result.usage, ok=True)

    def _ask(self, index: int, values: Row) -> None:
        work = self._work
        messages = self._template.render(values)
        for message in messages:
            refused = self._refused(message.content)
            if refused is not None:
                self.fail(index, refused)
                return
        self.requests.append(
            TextRequest(
                index=index,
                messages=messages,
                sampling=self._sampling,
                seed=item_seed(work.seed, index, self._attempt(index)),
                n=work.n,
                max_tokens=None if work.max_tokens_field is None else _limit(values, work.max_tokens_field),
                schema=work.schema,
                options=self._options,
                adapter=self._adapter,
            )
        )

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
            adapters=self._adapters,
            seed=first.seed,
            reproducible=self._info.reproducible,
            input=self._inputs[offset],
            attempts=self._attempt(result.index),
        )


def _limit(values: Row, field: str) -> int:
    value = values.get(field)
    try:
        limit = int(value)  # type: ignore[arg-type] # whatever is no number raises, and is told so
    except (TypeError, ValueError) as error:
        raise PromptError(f"{field} is {value!r}; it bounds this item's output and must be a whole number") from error
    if not 1 <= limit <= MAX_TOKENS_LIMIT:
        raise PromptError(f"{field} is {limit}; it bounds this item's output and must be from 1 to {MAX_TOKENS_LIMIT}")
    return limit
