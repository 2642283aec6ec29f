"""The rows of one shard of a dataset under a plan: each goes through the plan's columns, from its source to its record.

A row has one request at the engine at a time, and goes on as soon as that is answered, whatever the others wait for. A
column whose value breaks a rule is asked again with the reasons; then the whole row is drawn anew. Every value follows
from the job's seed, the row's index, the column, the draw and the try alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue

from models.spec import Adapter, FinishReason, ItemError, Message, ModelInfo, TextRequest, TextResult, Usage
from workers.columns.compiled import AskedColumn, compile_columns
from workers.columns.kinds import parse_columns
from workers.columns.rules import NoRules, Rejection, RowRules
from workers.columns.samplers import Place
from workers.contracts import Row, ShardTask
from workers.items import NO_ADAPTERS, ShardItems
from workers.prompts import PromptError
from workers.records import EarlierRecord, Record, encode_record, item_seed
from workers.upstream import NO_UPSTREAM, Upstream

REJECTED = "rejected"
_NO_USAGE = Usage()


class DatasetItems(ShardItems):
    """As `ShardItems`; `requests` are the first ones of the rows that are not done yet."""

    def __init__(
        self,
        task: ShardTask,
        info: ModelInfo,
        rows: Iterable[Row],
        earlier: Mapping[int, EarlierRecord],
        upstream: Upstream = NO_UPSTREAM,
        adapters: Mapping[str, Adapter] = NO_ADAPTERS,
        rules: RowRules | None = None,
    ) -> None:
        work = task.work
        if work.dataset is None:
            raise AssertionError("the shard is not one of a dataset")
        self.requests: list[TextRequest] = []
        self._output = work.dataset.output
        self._columns = compile_columns(parse_columns(work.dataset.columns), work.parsed_sampling())
        self._adapter = None if work.adapter is None else adapters[work.adapter]
        self._options = work.parsed_options()
        self._rules: RowRules = rules or NoRules()
        self._open: dict[int, _OpenRow] = {}
        super().__init__(task, info, rows, earlier, upstream, adapters)

    def settle(self, results: Sequence[TextResult]) -> list[TextRequest]:
        """Take answers as the values of their columns; returns what is to be asked next of the same rows."""
        following = (self._settle(result) for result in results)
        return [request for request in following if request is not None]

    def _ask(self, index: int, values: Row) -> None:
        # A row that failed in an earlier attempt is not drawn as it was then.
        first_draw = 1 + (self._attempt(index) - 1) * (1 + self._rules.draws)
        row = self._open[index] = _OpenRow(index, values, Place(self._work.seed, index, first_draw))
        request = self._advance(row)
        if request is not None:
            self.requests.append(request)

    def _settle(self, result: TextResult) -> TextRequest | None:
        row = self._open[result.index]
        column = self._columns[row.at]
        if not isinstance(column, AskedColumn):
            raise AssertionError(f"{column.name} asks no model, and was answered")  # noqa: TRY004 - a broken back-end
        row.usage += result.usage
        row.tries += 1
        if result.error is not None:
            return self._give_up(row, column.name, result.error)
        answer = result.outputs[0]
        value = column.value(answer)
        if isinstance(value, ItemError):
            return self._reject(row, column, answer.text, (Rejection(value.code, value.message),), value)
        row.values[column.name] = value
        rejections = self._rules.of_column(column.name, row.values)
        if rejections:
            return self._reject(row, column, answer.text, rejections)
        row.cut |= answer.finish_reason == "length"
        row.next_column()
        return self._advance(row)

    def _advance(self, row: _OpenRow) -> TextRequest | None:
        """Fill columns up to the next that the model is asked for; None where the row has ended."""
        while row.at < len(self._columns):
            column = self._columns[row.at]
            try:
                if isinstance(column, AskedColumn):
                    return self._request(row, column)
                row.values[column.name] = column.fill(row.place, row.values)
            except PromptError as error:
                return self._give_up(row, column.name, ItemError("invalid_prompt", error.message))
            rejections = self._rules.of_column(column.name, row.values)
            if rejections:
                return self._draw_anew(row, column.name, rejections)
            row.next_column()
        output = {name: row.values.get(name) for name in self._output}
        rejections = self._rules.of_row(row.values, output)
        if rejections:
            return self._draw_anew(row, None, rejections)
        self._finish(row, output)
        return None

    def _request(self, row: _OpenRow, column: AskedColumn) -> TextRequest | None:
        messages = column.messages(row.values)
        for message in messages:
            denied = self._refused(message.content)
            if denied is not None:
                return self._give_up(row, column.name, denied)
        return TextRequest(
            index=row.index,
            messages=messages + row.repair,
            sampling=column.sampling,
            seed=row.place.number(column.name, f"try {row.tries}"),
            schema=column.schema,
            options=self._options,
            adapter=self._adapter,
        )

    def _reject(
        self,
        row: _OpenRow,
        column: AskedColumn,
        text: str,
        rejections: tuple[Rejection, ...],
        error: ItemError | None = None,
    ) -> TextRequest | None:
        """Ask a column again, draw its row anew, or end the row, with `error` where it was no value at all."""
        if column.repairable and row.tries <= self._rules.repairs:
            row.repair = () if error is not None else (Message("assistant", text), _complaint(rejections))
            return self._request(row, column)
        return self._draw_anew(row, column.name, rejections, error)

    def _draw_anew(
        self, row: _OpenRow, column: str | None, rejections: tuple[Rejection, ...], error: ItemError | None = None
    ) -> TextRequest | None:
        if row.draws < self._rules.draws:
            row.draw_anew()
            return self._advance(row)
        if error is None:
            first = rejections[0]
            error = ItemError(REJECTED, f"the rule {first.rule}: {first.reason}")
        return self._give_up(row, column, error)

    def _give_up(self, row: _OpenRow, column: str | None, error: ItemError) -> TextRequest | None:
        """End a row with an error; nothing more is asked of it."""
        del self._open[row.index]
        place = "" if column is None else f"{column}: "
        self.fail(row.index, ItemError(error.code, f"{place}{error.message}"), row.usage)
        return None

    def _finish(self, row: _OpenRow, output: dict[str, JsonValue]) -> None:
        del self._open[row.index]
        offset = row.index - self._task.first
        reason: FinishReason = "length" if row.cut else "stop"
        record = Record(
            index=row.index,
            custom_id=self._custom_ids[offset],
            status="ok",
            output=output,
            finish_reason=reason,
            usage=row.usage,
            model=self._info.model,
            model_revision=self._info.revision,
            adapters=self._adapters,
            seed=item_seed(self._work.seed, row.index, row.place.draw),
            reproducible=self._info.reproducible,
            input=self._inputs[offset],
            attempts=self._attempt(row.index),
        )
        self._end(row.index, encode_record(record), row.usage, ok=True)


class _OpenRow:
    """A row on its way through the columns."""

    def __init__(self, index: int, source: Row, place: Place) -> None:
        self.index = index
        self.values = dict(source)
        self.place = place
        self.at = 0
        """The column that is being filled."""
        self.tries = 0
        """How often that column was answered in this draw."""
        self.draws = 0
        """How often the row was drawn anew."""
        self.repair: tuple[Message, ...] = ()
        self.usage = _NO_USAGE
        self.cut = False
        self._source = source

    def next_column(self) -> None:
        """Go on to the next column."""
        self.at, self.tries, self.repair = self.at + 1, 0, ()

    def draw_anew(self) -> None:
        """Begin at the first column, with other numbers."""
        self.draws += 1
        self.place = Place(self.place.seed, self.index, self.place.draw + 1)
        self.values = dict(self._source)
        self.at, self.tries, self.repair, self.cut = 0, 0, (), False


def _complaint(rejections: Sequence[Rejection]) -> Message:
    reasons = "\n".join(f"- {rejection.reason}" for rejection in rejections)
    return Message(
        "user", f"That cannot be used:\n{reasons}\nWrite it again, so that this is mended. Write nothing else."
    )
