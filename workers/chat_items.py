"""The items of one shard of a batch of requests: each row is a request of its own, its parameters included."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson
from msgspec import UNSET, structs

from models.spec import Adapter, ItemError, ModelInfo, TextRequest, TextResult
from workers.acceptance.figures import ItemChecks
from workers.chat_requests import ChatError, ChatRequest, parse_chat
from workers.contracts import Row, ShardTask
from workers.items import NO_ADAPTERS
from workers.records import EarlierRecord, Record, item_seed
from workers.schemas import Validator
from workers.text_items import TextItems
from workers.upstream import NO_UPSTREAM, Upstream

BODY = "body"
"""The field of a row that holds its request."""
_MOST_VALIDATORS = 64


class ChatItems(TextItems):
    """As `TextItems`. A record holds what the response is made of, the time of the answer too.

    An output that ends at its limit is an answer like any, whole or not: so says `finish_reason`.

    Args:
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        task: ShardTask,
        info: ModelInfo,
        rows: Iterable[Row],
        earlier: Mapping[int, EarlierRecord],
        upstream: Upstream = NO_UPSTREAM,
        adapters: Mapping[str, Adapter] = NO_ADAPTERS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._asked: dict[int, ChatRequest] = {}
        self._validators: dict[bytes, Validator] = {}
        super().__init__(task, info, rows, earlier, upstream, adapters)

    def settle(self, result: TextResult) -> None:
        """Take an item's result as its end."""
        asked = self._asked.pop(result.index)
        error = result.error or self._unfit(asked, result)
        if error is not None:
            self.fail(result.index, error, result.usage)
            return
        self._keep(result)

    def _ask(self, index: int, values: Row) -> None:
        try:
            asked = parse_chat(values.get(BODY))
        except ChatError as error:
            self.fail(index, ItemError(error.code, error.message, UNSET if error.param is None else error.param))
            return
        for message in asked.messages:
            refused = self._refused(message.content)
            if refused is not None:
                self.fail(index, refused)
                return
        own = item_seed(self._work.seed, index, self._attempt(index))
        self._asked[index] = asked
        self.requests.append(
            TextRequest(
                index=index,
                messages=asked.messages,
                sampling=asked.sampling,
                seed=own if asked.seed is None else asked.seed,
                n=asked.n,
                fill=not asked.limited,
                schema=asked.schema,
                options=self._options,
                adapter=self._adapter,
            )
        )

    def _unfit(self, asked: ChatRequest, result: TextResult) -> ItemError | None:
        if asked.schema is None:
            return None
        validator = self._validator_of(asked.schema)
        for output in result.outputs:
            if output.finish_reason == "length":
                continue
            try:
                value = orjson.loads(output.text)
            except orjson.JSONDecodeError as error:
                return ItemError("invalid_output", f"the output is not JSON: {error}")
            problem = validator.error(value)
            if problem is not None:
                return ItemError("invalid_output", f"the output does not satisfy the schema: {problem}")
        return None

    def _validator_of(self, schema: dict[str, Any]) -> Validator:  # a JSON Schema
        # Requests of a batch mostly share one.
        key = orjson.dumps(schema)
        if key not in self._validators:
            if len(self._validators) >= _MOST_VALIDATORS:
                self._validators.clear()
            self._validators[key] = Validator(schema)
        return self._validators[key]

    def _record(self, result: TextResult, checks: ItemChecks) -> Record:
        several = len(result.outputs) > 1
        record = super()._record(result, checks)
        return structs.replace(
            record,
            output=UNSET if several else result.outputs[0].text,
            outputs=result.outputs if several else UNSET,
            finish_reason=UNSET if several else result.outputs[0].finish_reason,
            created=int(self._clock()),
        )
