"""The rows of one shard of a dataset under a plan: each goes through the plan's columns, from its source to its record.

A row has one request at the engine at a time, and goes on as soon as that is answered, whatever the others wait for. A
column whose value breaks a rule is asked again with the reasons; then the whole row is drawn anew. Every value follows
from the job's seed, the row's index, the column, the draw and the try alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

from msgspec import UNSET

from models.spec import Adapter, FinishReason, ItemError, Message, ModelInfo, Output, TextRequest, TextResult, Usage
from models.text_classifiers import TextClassifiers
from workers.acceptance.checks import Problem
from workers.acceptance.trials import REJECTED, SCHEMA, reasons
from workers.columns.compiled import AskedColumn, compile_columns
from workers.columns.kinds import parse_columns
from workers.columns.open_row import OpenRow
from workers.columns.rules import RowRules, RowVerdict
from workers.columns.samplers import Place
from workers.contracts import Counts, Row, ShardTask
from workers.items import NO_ADAPTERS, NO_CHECKS, ShardItems
from workers.prompts import PromptError
from workers.records import EarlierRecord, Record, encode_record, item_seed
from workers.upstream import NO_UPSTREAM, Upstream


class DatasetItems(ShardItems):
    """As `ShardItems`; `requests` are the first ones of the rows that are not done yet.

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
        if work.dataset is None:
            raise AssertionError("the shard is not one of a dataset")
        self._output = work.dataset.output
        plan = parse_columns(work.dataset.columns)
        self._columns = compile_columns(plan, work.parsed_sampling())
        self._adapter = None if work.adapter is None else adapters[work.adapter]
        self._options = work.parsed_options()
        self._rules = RowRules(work.parsed_accept(), plan, self._output, classifiers or TextClassifiers())
        self._open: dict[int, OpenRow] = {}
        self._turn = threading.Lock()
        super().__init__(task, info, rows, earlier, upstream, adapters)
        self.requests: list[TextRequest] = self._advance(list(self._open.values()))

    def settle(self, results: Sequence[TextResult]) -> list[TextRequest]:
        """Take answers as the values of their columns; returns what is to be asked next of the same rows.

        Raises:
            ModelError: a classifier that a rule needs cannot be loaded.
        """
        with self._turn:
            requests: list[TextRequest] = []
            going: list[OpenRow] = []
            answered: dict[str, list[tuple[OpenRow, AskedColumn, Output]]] = {}
            for result in results:
                row = self._open[result.index]
                column = self._columns[row.at]
                if not isinstance(column, AskedColumn):
                    raise AssertionError(f"{column.name} asks no model, and was answered")  # noqa: TRY004
                row.usage += result.usage
                row.tries += 1
                if result.error is not None:
                    self._give_up(row, column.name, result.error)
                    continue
                answer = result.outputs[0]
                value = column.value(answer)
                if isinstance(value, ItemError):
                    verdict = RowVerdict(problems=(Problem(SCHEMA, value.message),), mends=True)
                    self._reject(row, column, verdict, requests, going, error=value)
                    continue
                row.values[column.name] = value
                answered.setdefault(column.name, []).append((row, column, answer))
            for name, group in answered.items():
                verdicts = self._rules.of_column(name, [row.values for row, _, _ in group])
                for (row, column, answer), verdict in zip(group, verdicts, strict=True):
                    if verdict.problems:
                        self._reject(row, column, verdict, requests, going, text=answer.text)
                    else:
                        row.cut |= answer.finish_reason == "length"
                        row.keep(verdict)
                        going.append(row)
            return requests + self._advance(going)

    def join_ended(self) -> tuple[bytes, Counts, Usage]:
        """As `ShardItems.join_ended`; waits for answers that are being settled in a thread."""
        with self._turn:
            return super().join_ended()

    def _ask(self, index: int, values: Row) -> None:
        # A row that failed in an earlier attempt is not drawn as it was then.
        first_draw = 1 + (self._attempt(index) - 1) * (1 + self._rules.draws)
        self._open[index] = OpenRow(index, values, Place(self._work.seed, index, first_draw))

    def _advance(self, rows: Sequence[OpenRow]) -> list[TextRequest]:
        """Fill columns up to the next that the model is asked for, of rows that may end there."""
        requests: list[TextRequest] = []
        while rows:
            following: list[OpenRow] = []
            whole = [row for row in rows if self._fill(row, requests, following)]
            for row, verdict in zip(whole, self._rules.of_row([row.values for row in whole]), strict=True):
                if verdict.problems:
                    self._draw_anew(row, None, verdict, following)
                else:
                    row.note(verdict)
                    self._finish(row)
            rows = following
        return requests

    def _fill(self, row: OpenRow, requests: list[TextRequest], anew: list[OpenRow]) -> bool:
        """Fill a row's columns; whether it is whole now. If it is not, it waits for the model, or has ended."""
        while row.at < len(self._columns):
            column = self._columns[row.at]
            try:
                if isinstance(column, AskedColumn):
                    self._request(row, column, requests)
                    return False
                row.values[column.name] = column.fill(row.place, row.values)
            except PromptError as error:
                self._give_up(row, column.name, ItemError("invalid_prompt", error.message))
                return False
            [verdict] = self._rules.of_column(column.name, [row.values])
            if verdict.problems:
                self._draw_anew(row, column.name, verdict, anew)
                return False
            row.keep(verdict)
        return True

    def _request(self, row: OpenRow, column: AskedColumn, requests: list[TextRequest]) -> None:
        messages = column.messages(row.values)
        denied = next((found for message in messages if (found := self._refused(message.content))), None)
        if denied is not None:
            self._give_up(row, column.name, denied)
            return
        requests.append(
            TextRequest(
                index=row.index,
                messages=messages + row.repair,
                sampling=column.sampling,
                seed=row.place.number(column.name, f"try {row.tries}"),
                schema=column.schema,
                options=self._options,
                adapter=self._adapter if column.judge is None else None,  # the model as it is judges what it has become
            )
        )

    def _reject(
        self,
        row: OpenRow,
        column: AskedColumn,
        verdict: RowVerdict,
        requests: list[TextRequest],
        anew: list[OpenRow],
        *,
        text: str | None = None,
        error: ItemError | None = None,
    ) -> None:
        """Ask a column again, draw its row anew, or end it: with `error`, where the answer is no value at all."""
        again = column.repairable and verdict.mends and row.tries <= self._rules.repairs
        if not again or (text is not None and self._refused(text) is not None):
            self._draw_anew(row, column.name, verdict, anew, error)
            return
        row.reject(verdict)
        row.again += 1
        row.repair = () if text is None else (Message("assistant", text), Message("user", reasons(verdict.problems)))
        self._request(row, column, requests)

    def _draw_anew(
        self,
        row: OpenRow,
        column: str | None,
        verdict: RowVerdict,
        anew: list[OpenRow],
        error: ItemError | None = None,
    ) -> None:
        row.reject(verdict)
        if row.draws < self._rules.draws:
            row.draw_anew()
            anew.append(row)
            return
        what = "; ".join(map(str, verdict.problems))
        tries = f"after {row.draws + 1} draws: " if row.draws else ""
        self._give_up(row, column, error or ItemError(REJECTED, f"{tries}{what}"))

    def _give_up(self, row: OpenRow, column: str | None, error: ItemError) -> None:
        del self._open[row.index]
        place = "" if column is None else f"{column}: "
        self.fail(row.index, ItemError(error.code, f"{place}{error.message}"), row.usage, row.checks)

    def _finish(self, row: OpenRow) -> None:
        del self._open[row.index]
        offset = row.index - self._task.first
        reason: FinishReason = "length" if row.cut else "stop"
        checks = row.checks
        record = Record(
            index=row.index,
            custom_id=self._custom_ids[offset],
            status="ok",
            output={name: row.values.get(name) for name in self._output},
            finish_reason=reason,
            usage=row.usage,
            model=self._info.model,
            model_revision=self._info.revision,
            adapters=self._adapters,
            seed=item_seed(self._work.seed, row.index, row.place.draw),
            reproducible=self._info.reproducible,
            input=self._inputs[offset],
            checks=UNSET if checks == NO_CHECKS else checks,
            attempts=self._attempt(row.index),
        )
        self._end(row.index, encode_record(record), row.usage, ok=True)
