"""Sampling from TabularARGN, the engine of `mostlyai-engine`.

Tiwald et al., 2025, "TabularARGN: a flexible and efficient auto-regressive framework for generating high-fidelity
synthetic data", https://arxiv.org/abs/2501.12012: a network foretells each column from any set of others, so columns
are drawn one by one, in any order: what is given first, what must not be missing last.

The engine's own `generate` builds its network anew in each call, reads its weights from a workspace and writes rows to
it. Here the network stays, and the engine's own parts are put together as `generate` does; a test holds the two
together, value for value.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.errors import FailureKind, ModelError
from models.tabular.argn_decoding import SPECIAL, Codes, Decode, decoder, part_names, unescaped
from models.tabular.argn_engine import (
    POSITIONAL_COLUMN,
    ImputationConfig,
    RareCategoryReplacementMethod,
    SequentialModel,
    encode_df,
    fix_imputation_probs,
    fix_rare_token_probs,
    get_argn_column_names,
    get_cardinalities,
    get_columns_from_cardinalities,
    merge_probabilities,
    prepare_context_inputs,
    translate_fixed_probs,
)
from models.tabular.argn_frames import engine_names, to_frame
from models.tabular.argn_sequences import Drawing, build_network, draw_rows, draw_sequences
from models.tabular.columns import Column, Values, table_schema
from models.tabular.engine import TableRequest
from models.tabular.fresh import make_fresh
from models.tabular.requests import check_request, context_columns, context_keys, invalid, value_array
from models.tabular.saved import WEIGHTS, Linked, SavedTable, read_config

STATS: Final = "stats.json"
"""What the engine has learned of each column: categories that are not rare, ranges without their ends."""
PARENT_STATS: Final = "parent-stats.json"
"""The same of the columns of the subjects' table."""
ROWS_AT_ONCE: Final = 10_000
"""A larger request is drawn in pieces: that bounds the memory, and larger ones are slower a row."""
_SHOWN = 10
_CATEGORY = "cat"
"""The engine's name of the one number that a category is."""


def open_model(folder: Path) -> ArgnModel:
    """The model of a folder, on the processor.

    Raises:
        ModelError: kind MODEL, code `model_folder_incomplete`, `model_folder_invalid` or `weights_damaged`.
    """
    saved = read_config(folder)
    try:
        stats = orjson.loads((folder / STATS).read_bytes())
        parent_stats = orjson.loads((folder / PARENT_STATS).read_bytes()) if saved.linked else {}
        return ArgnModel(saved, stats, parent_stats, load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError, orjson.JSONDecodeError) as error:
        raise ModelError(
            FailureKind.MODEL, "weights_damaged", f"{folder} does not hold a whole model of tables: {error}"
        ) from error


class ArgnModel:
    """A `TableModel` (see there)."""

    def __init__(
        self,
        saved: SavedTable,
        stats: dict[str, Any],  # JSON, the engine's
        parent_stats: dict[str, Any],
        tensors: dict[str, Tensor],
    ) -> None:
        self._saved = saved
        self._stats = stats
        self._parent_stats = parent_stats
        self._names = engine_names(saved.columns)
        self._cardinalities: dict[str, int] = get_cardinalities(stats)
        with torch.random.fork_rng(devices=[]):  # its first weights are thrown away
            self._network = build_network(
                stats, self._cardinalities, get_cardinalities(parent_stats), saved.engine["configs"]["model_units"]
            )
        self._network.load_state_dict(tensors)
        self._decoders: dict[str, tuple[Decode, dict[str, str]]] = {}
        for column in saved.columns:
            if column.name in self._names:
                known = stats["columns"][self._names[column.name]]
                self._decoders[column.name] = decoder(column, known), part_names(known)
        self._network.eval()

    @property
    def columns(self) -> tuple[Column, ...]:
        """See `TableModel`."""
        return self._saved.columns

    @property
    def linked(self) -> Linked | None:
        """See `TableModel`."""
        return self._saved.linked

    def sample(self, request: TableRequest) -> pa.Table:
        """See `TableModel`."""
        check_request(request, self.columns, self.linked)
        pieces = []
        with seeded(request.seed), _one_thread():
            drawing = Drawing(
                probabilities=self._probabilities(request),
                fixed=self._fixed(request),
                order=self._order(request),
                temperature=request.temperature,
            )
            for start in range(0, request.rows, ROWS_AT_ONCE):
                subjects = min(ROWS_AT_ONCE, request.rows - start)
                pieces.append(self._draw(request, subjects, start, drawing))
        return pa.concat_tables(pieces) if pieces else table_schema(self.columns).empty_table()

    def _draw(self, request: TableRequest, subjects: int, start: int, drawing: Drawing) -> pa.Table:
        context = None if request.context is None else request.context.slice(start, subjects)
        inputs = self._context_inputs(context)
        if isinstance(self._network, SequentialModel):
            rows = draw_sequences(self._network, self._stats, subjects, inputs, drawing)
        else:
            rows = draw_rows(self._network, subjects, inputs, drawing)
        longest = 1 if self.linked is None else self.linked.longest
        numbers = ((request.first + start + rows.subjects) * longest + rows.steps).tolist()
        arrays = []
        for place, column in enumerate(self.columns):
            if self.linked is not None and column.name == self.linked.foreign_key:
                arrays.append(self._keys(request, context, place, start, subjects).take(pa.array(rows.subjects)))
            else:
                arrays.append(self._column(column, place, request, start, numbers, rows.codes))
        table = pa.Table.from_arrays(arrays, schema=table_schema(self.columns))
        return self._in_order(table, rows.subjects)

    def _column(
        self, column: Column, place: int, request: TableRequest, start: int, numbers: list[int], codes: Codes
    ) -> Values:
        if column.name in request.where:
            return value_array(column, request.where[column.name], len(numbers))
        if column.name in self._names:
            decode, parts = self._decoders[column.name]
            return decode({part: codes[name] for part, name in parts.items()})
        return make_fresh(
            self._saved.fresh[column.name],
            column,
            numbers=numbers,
            seed=(request.seed, place, start),
            complete=column.name in request.impute,
        )

    def _keys(self, request: TableRequest, context: pa.Table | None, place: int, start: int, subjects: int) -> Values:
        """The foreign key of each subject."""
        column = self.columns[place]
        if self.linked is not None and context is not None:
            return context_keys(context, self.linked, column)
        first = request.first + start
        return make_fresh(
            self._saved.fresh[column.name],
            column,
            numbers=range(first, first + subjects),
            seed=(request.seed, place, start),
        )

    def _context_inputs(self, context: pa.Table | None) -> dict[str, Tensor]:
        """What is known of the subjects, as the network takes it."""
        if context is None or self.linked is None:
            return {}
        columns = context_columns(context, self.linked)
        if not engine_names(columns):
            return {}
        frame = to_frame(context, columns)
        inputs: dict[str, Tensor]
        inputs, _, _ = prepare_context_inputs(frame, self._parent_stats, torch.device("cpu"))
        return inputs

    def _in_order(self, table: pa.Table, subjects: NDArray[np.int64]) -> pa.Table:
        """Rows of each subject in the order that sequences have in the source."""
        if self.linked is None or self.linked.order_by is None or not table.num_rows:
            return table
        order = self.linked.order_by
        values = to_frame(table.select([order]), self.columns)[self._names[order]]
        return table.take(pa.array(np.lexsort((values.rank(method="dense", na_option="bottom").to_numpy(), subjects))))

    def _engine_names(self, names: Sequence[str]) -> list[str]:
        """Of those that are modelled."""
        return [self._names[name] for name in names if name in self._names]

    def _order(self, request: TableRequest) -> list[str]:
        """What is given first, then what is re-balanced; last what is not to be missing."""
        columns = self._stats["columns"]
        given = get_argn_column_names(columns, self._engine_names(list(request.where)))
        balanced = get_argn_column_names(columns, self._engine_names(list(request.rebalance)))
        complete = get_argn_column_names(columns, self._engine_names(request.impute))
        early = list(dict.fromkeys([*given, *balanced]))
        late = [name for name in complete if name not in early]
        rest = get_columns_from_cardinalities(self._cardinalities)
        whole = [*early, *(name for name in rest if name not in early and name not in late), *late]
        return sorted(whole, key=lambda name: name != POSITIONAL_COLUMN)  # a row's place before all of its values

    def _fixed(self, request: TableRequest) -> dict[str, int]:
        """Codes of what is given, by the engine's names of their parts."""
        where = {name: value for name, value in request.where.items() if name in self._names}
        if not where:
            return {}
        chosen = [column for column in self.columns if column.name in where]
        for column in chosen:
            if column.kind == "categorical" and where[column.name] is not None:
                self._known(column, _text(value_array(column, where[column.name], 1)))
        values = pa.table({column.name: value_array(column, where[column.name], 1) for column in chosen})
        frame = to_frame(values, self.columns)
        encoded, _, _ = encode_df(df=frame, stats=self._stats)
        return {name: int(encoded[name].iloc[0]) for name in encoded.columns if name in self._cardinalities}

    def _probabilities(self, request: TableRequest) -> dict[str, dict[int, float]]:
        """Shares that are set from outside: of rare values, of missing ones, and of what is re-balanced."""
        complete = ImputationConfig(columns=self._engine_names(request.impute)) if request.impute else None
        balanced = {
            self._names[column.name]: {
                _CATEGORY: {
                    self._known(column, value): share for value, share in request.rebalance[column.name].items()
                }
            }
            for column in self.columns
            if column.name in request.rebalance
        }
        probabilities: dict[str, dict[int, float]] = translate_fixed_probs(
            merge_probabilities(
                fix_rare_token_probs(self._stats, RareCategoryReplacementMethod.sample),
                fix_imputation_probs(self._stats, complete),
                balanced,
            ),
            self._stats,
        )
        return probabilities

    def _known(self, column: Column, value: str) -> int:
        """The code of a category; one that is rare in the source is none."""
        codes: dict[str, int] = self._stats["columns"][self._names[column.name]]["codes"]
        known = {unescaped(text): code for text, code in codes.items() if text not in SPECIAL}
        if value not in known:
            shown = ", ".join(list(known)[:_SHOWN]) + (", …" if len(known) > _SHOWN else "")
            raise invalid(f"column {column.name!r} has no value {value!r}, or it is too rare; there are {shown}")
        return known[value]


def engine_seed(seed: int) -> int:
    """A seed of any size as the engine's generators take it: 32 bits."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which the engine draws from; they are then as they were before."""
    number = engine_seed(seed)
    ours, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 - what the engine draws from
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        np.random.seed(number)  # noqa: NPY002
        random.seed(number)
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(numpys)  # noqa: NPY002


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in this thread alone: sums then do not depend on how many cores there are, nor do rows.

    The layers are so small that several threads wait for each other longer than they compute.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _text(values: Values) -> str:
    text: str = values.cast(pa.string())[0].as_py()
    return text
