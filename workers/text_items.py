"""The items of one shard of a text job, between their rows and their records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import orjson
from msgspec import UNSET, UnsetType

from models.spec import MAX_TOKENS_LIMIT, Adapter, ItemError, ModelInfo, TextRequest, TextResult
from models.text_classifiers import TextClassifiers
from workers.acceptance.checks import Verdict
from workers.acceptance.figures import ItemChecks
from workers.acceptance.subjects import Output
from workers.acceptance.trials import Accepted, Trials
from workers.contracts import Row, ShardTask
from workers.items import NO_ADAPTERS, NO_CHECKS, ShardItems
from workers.prompts import PromptError, PromptTemplate
from workers.records import EarlierRecord, Record, encode_record, item_seed
from workers.schemas import Validator
from workers.upstream import NO_UPSTREAM, Upstream


class TextItems(ShardItems):
    """As `ShardItems`; `requests` are those of the items that are not done yet.

    Of a job without rules an answer is the item's end: `settle`. Of one that has rules (`on_trial`) answers are looked
    at, and each then taken as an end or asked for again: `look`, `take`.

    Args:
        classifiers: Asked by rules that need one.
    """

    def __init__(
        self,
        task: ShardTask,
        info: ModelInfo,
        rows: Iterable[Row],
        earlier: Mapping[int, EarlierRecord],
        upstream: Upstream = NO_UPSTREAM,
        adapters: Mapping[str, Adapter] = NO_ADAPTERS,
        classifiers: TextClassifiers | None = None,
    ) -> None:
        work = task.work
        self.requests: list[TextRequest] = []
        self._validator = None if work.schema is None else Validator(work.schema)
        self._template = PromptTemplate(work.messages)
        self._adapter = None if work.adapter is None else adapters[work.adapter]
        self._sampling, self._options = work.parsed_sampling(), work.parsed_options()
        accept = work.parsed_accept()
        self._trials: Trials | None = None
        if accept is not None:
            classifiers = classifiers or TextClassifiers()
            self._trials = Trials(
                accept, classifiers, parse=self._output, allowed=lambda text: self._refused(text) is None
            )
        super().__init__(task, info, rows, earlier, upstream, adapters)

    @property
    def on_trial(self) -> bool:
        """Whether the job has rules."""
        return self._trials is not None

    def settle(self, result: TextResult) -> None:
        """Take an item's result as its end."""
        error = result.error
        if error is None and self._validator is not None:
            error = self._invalid(result, self._validator)
        if error is not None:
            self.fail(result.index, error, result.usage)
            return
        self._keep(result)

    def look(self, results: Sequence[TextResult]) -> list[Verdict | None]:
        """As `Trials.look`: may take its time, in a thread."""
        assert self._trials is not None  # noqa: S101 - on_trial
        return self._trials.look(results)

    def take(self, result: TextResult, verdict: Verdict | None) -> TextRequest | None:
        """Take what came of an answer; what is asked next, where the item has not ended."""
        assert self._trials is not None  # noqa: S101 - on_trial
        outcome = self._trials.take(result, verdict)
        if isinstance(outcome, TextRequest):
            return outcome
        if isinstance(outcome, Accepted):
            self._keep(outcome.result, outcome.checks)
        else:
            self.fail(outcome.index, outcome.error, outcome.usage, outcome.checks)
        return None

    def _keep(self, result: TextResult, checks: ItemChecks = NO_CHECKS) -> None:
        record = self._record(result, checks)
        self._end(result.index, encode_record(record), result.usage, ok=True)

    def _ask(self, index: int, values: Row) -> None:
        work = self._work
        messages = self._template.render(values)
        for message in messages:
            refused = self._refused(message.content)
            if refused is not None:
                self.fail(index, refused)
                return
        seed = partial(item_seed, work.seed, index, self._attempt(index))
        request = TextRequest(
            index=index,
            messages=messages,
            sampling=self._sampling,
            seed=seed(),
            n=work.n,
            max_tokens=None if work.max_tokens_field is None else _limit(values, work.max_tokens_field),
            schema=work.schema,
            options=self._options,
            adapter=self._adapter,
        )
        self.requests.append(request)
        if self._trials is not None:
            self._trials.begin(request, values, seed)

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

    def _output(self, result: TextResult) -> Output | ItemError:
        """What rules look at in an answer; why it is none, where the job has a schema that it does not satisfy."""
        if self._validator is None:
            return result.outputs[0].text
        error = self._invalid(result, self._validator)
        parsed: Output = {} if error is not None else orjson.loads(result.outputs[0].text)
        return error or parsed

    def _record(self, result: TextResult, checks: ItemChecks) -> Record:
        offset = result.index - self._task.first
        first = result.outputs[0]
        output: Output | UnsetType = first.text
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
            checks=UNSET if checks == NO_CHECKS else checks,
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
