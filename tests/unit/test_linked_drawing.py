"""Sequences drawn for the subjects of a block, and drawn again where one of their rows is rejected."""

from __future__ import annotations

import asyncio
from itertools import groupby, pairwise

import pyarrow as pa
import pytest

from models.tabular.engine import TableRequest
from tests.support.linked import ALONE, OF_PEOPLE, ORDERS, Sequences
from workers.linked_drawing import LinkedDrawing
from workers.table_accept.local import LocalRules
from workers.table_accept.rules import TableRules

PEOPLE = pa.table({"key": [70, 50, 90, 10, 30], "city": ["Graz", "Linz", "Wels", "Graz", "Linz"]})
RULES = TableRules.model_validate({"rules": ["amount < 60", {"name": "even", "expression": "amount % 2 = 0"}]})


def drawn(drawing: LinkedDrawing, backend: Sequences, first: int = 0) -> None:
    """Draw as a shard does."""
    while drawing.due:
        request = TableRequest(
            rows=drawing.next_count(),
            context=drawing.context(),
            seed=drawing.draws,
            first=first + 1000 * drawing.draws,
        )
        drawing.take(asyncio.run(backend.sample(request)))


def test_a_subject_with_a_rejected_row_is_drawn_again_as_a_whole() -> None:
    backend = Sequences(OF_PEOPLE, ORDERS)
    with LocalRules(RULES) as rules:
        drawing = LinkedDrawing(PEOPLE, 5, OF_PEOPLE, 1000, rules)
        drawn(drawing, backend)
    assert (drawing.missing, drawing.draws, drawing.subjects) == (0, len(backend.requests), 5)
    assert drawing.draws > 1
    assert drawing.candidates == sum(request.rows for request in backend.requests)
    table = drawing.accepted()
    assert all(amount < 60 and amount % 2 == 0 for amount in table["amount"].to_pylist())
    order = [key for key, _ in groupby(table["person"].to_pylist())]
    assert order == [key for key in PEOPLE["key"].to_pylist() if key in order]
    cities = dict(zip(PEOPLE["key"].to_pylist(), PEOPLE["city"].to_pylist(), strict=True))
    assert all(cities[row["person"]] == row["city"] for row in table.to_pylist())
    # A sequence is of one draw: its rows' numbers follow each other.
    rows: dict[int, list[int]] = {}
    for row in table.to_pylist():
        rows.setdefault(row["person"], []).append(row["order"])
    assert all(numbers == list(range(numbers[0], numbers[0] + len(numbers))) for numbers in rows.values())
    asked = [request.context["key"].to_pylist() for request in backend.requests if request.context is not None]
    assert asked[0] == PEOPLE["key"].to_pylist()
    assert all(set(later) < set(before) or later == before for before, later in pairwise(asked))


def test_keys_that_the_model_made_are_kept_where_a_subject_is_drawn_again() -> None:
    backend = Sequences(ALONE, ORDERS, amounts=70)
    with LocalRules(TableRules.model_validate({"rules": ["amount < 60"]})) as rules:
        drawing = LinkedDrawing(None, 200, ALONE, 50, rules)
        drawn(drawing, backend, first=400)
    assert (drawing.missing, drawing.subjects) == (0, 200)
    assert backend.requests[0].context is None
    again = backend.requests[1].context
    assert again is not None
    assert 0 < again.num_rows < 200
    assert again.column_names == ["person"]
    table = drawing.accepted()
    assert set(table["person"].to_pylist()) <= set(range(400, 600))
    assert table["person"].to_pylist() == sorted(table["person"].to_pylist())
    assert len(set(table["order"].to_pylist())) == table.num_rows


def test_a_budget_that_is_used_up_is_told_in_subjects() -> None:
    backend = Sequences(OF_PEOPLE, ORDERS)
    with LocalRules(TableRules.model_validate({"rules": ["amount < 0"]})) as rules:
        drawing = LinkedDrawing(PEOPLE, 5, OF_PEOPLE, 2, rules)
        drawn(drawing, backend)
    assert drawing.candidates <= 10
    assert not drawing.due
    assert drawing.missing > 0
    error = drawing.error()
    assert error.code == "candidates_exhausted"
    assert error.message.startswith(
        f"{drawing.candidates} sequences were drawn for 5 subjects, and {drawing.missing} of"
    )
    [count] = drawing.rejected.values()
    assert f"amount < 0 rejected {100 * count / drawing.candidates:.3g} %" in error.message
    # Rows are not what is counted.
    assert count <= drawing.candidates


def test_a_budget_ends_within_a_draw() -> None:
    backend = Sequences(OF_PEOPLE, ORDERS, longest=1)
    people = pa.concat_tables([PEOPLE] * 3).drop_columns("key").append_column("key", pa.array(range(15)))
    with LocalRules(TableRules.model_validate({"rules": ["amount < 0"]})) as rules:
        drawing = LinkedDrawing(people, 15, OF_PEOPLE, 2, rules)
        drawn(drawing, backend)
    assert backend.requests[0].rows == 15
    assert drawing.candidates == sum(request.rows for request in backend.requests) == 30
    assert drawing.missing > 0


def test_a_block_without_subjects_has_its_columns() -> None:
    backend = Sequences(OF_PEOPLE, ORDERS)
    with LocalRules(RULES) as rules:
        drawing = LinkedDrawing(PEOPLE.slice(0, 0), 0, OF_PEOPLE, 10, rules)
        drawn(drawing, backend)
    assert len(backend.requests) == 1
    assert drawing.accepted().schema.names == [column.name for column in ORDERS]


def test_rows_of_strangers_are_a_fault_of_the_model() -> None:
    strange = pa.table({"order": [1], "person": [11], "city": ["Graz"], "amount": [1]})
    with LocalRules(RULES) as rules:
        drawing = LinkedDrawing(PEOPLE, 5, OF_PEOPLE, 10, rules)
        with pytest.raises(AssertionError, match="not asked for"):
            drawing.take(strange)
