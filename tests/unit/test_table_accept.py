"""Rules for the rows of a table: which row breaks which, and which of several stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from workers.table_accept.expressions import RuleError, check_rules
from workers.table_accept.local import LocalRules
from workers.table_accept.over_all import BlockFile, judge
from workers.table_accept.rules import TableRules

COLUMNS = {"age": "int64", "sku": "string", "price": "double", "since": "date32[day]"}
TABLE = pa.table(
    {
        "age": [17, 18, None, 90],
        "sku": ["AB-1", "ab-1", "AB-22", None],
        "price": [1.0, 2.0, 3.0, 4.0],
        "since": pa.array([0, 20000, 20001, None], pa.date32()),
    }
)


def rules(**fields: Any) -> TableRules:
    return TableRules.model_validate(fields)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("age >= 18", [False, True, True, True]),  # what is missing breaks no rule
        ("age IS NOT NULL", [True, True, False, True]),
        ({"range": {"column": "price", "min": 2, "max": 3}}, [False, True, True, False]),
        ({"range": {"column": "since", "max": "2024-10-04"}}, [True, True, False, True]),
        ({"regex": {"column": "sku", "pattern": "[A-Z]{2}-\\d+"}}, [True, False, True, True]),
        ({"in": {"column": "sku", "values": ["AB-1", "it's"]}}, [True, False, False, True]),
        ("length(sku) * price < 9 OR price > 3", [True, True, False, True]),
    ],
)
def test_a_rule_keeps_the_rows_that_do_not_break_it(rule: object, kept: list[bool]) -> None:
    asked = rules(rules=[rule])
    check_rules(asked, COLUMNS)
    with LocalRules(asked) as local:
        mask, rejected = local.mask(TABLE)
    assert mask.to_pylist() == kept
    assert rejected == {asked.rules[0].shown: kept.count(False)}


def test_several_rules_are_counted_each() -> None:
    with LocalRules(rules(rules=["age >= 18", {"name": "cheap", "expression": "price < 2"}])) as local:
        mask, rejected = local.mask(TABLE)
    assert mask.to_pylist() == [False, False, False, False]
    assert rejected == {"age >= 18": 1, "cheap": 3}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("agee >= 18", "there is no column 'agee'; the table has age, sku"),
        ("age >=", "syntax error"),
        ("age IN (SELECT 1)", "subquery"),
        ("random() < 0.5", "random is not possible here"),
        ("since < now()::DATE", "now is not possible here"),
        ("current_date > since", "no column 'current_date'"),
        ("row_number() OVER () = 1", "window"),
        ("true); DROP TABLE rows; SELECT (true", "give one SQL expression"),
        ("true FROM rows) UNION (SELECT true", "syntax|no query"),
        ({"regex": {"column": "sku", "pattern": "("}}, "missing"),
        ({"range": {"column": "age", "min": "many"}}, "many"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(rule: object, says: str) -> None:
    with pytest.raises(RuleError, match=f"(?i){says}"):
        check_rules(rules(rules=[rule]), COLUMNS)


def test_no_expression_reads_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    query = "SELECT * FROM read_text('{}')"
    with pytest.raises(RuleError):
        check_rules(rules(rules=[f"exists({query.format(secret)})"]), COLUMNS)


def test_columns_of_rules_over_all_rows_are_known() -> None:
    with pytest.raises(RuleError, match="unique: there is no column 'mail'; the table has age, sku"):
        check_rules(rules(unique=["mail"]), COLUMNS)
    with pytest.raises(RuleError, match="dependencies: there is no column 'city'"):
        check_rules(rules(dependencies=[{"from": "sku", "to": "city"}]), COLUMNS)


def test_rules_have_names_of_their_own() -> None:
    with pytest.raises(ValidationError, match="two rules are called 'age > 1'"):
        rules(rules=["age > 1", "age > 1"])
    with pytest.raises(ValidationError, match="is one of"):
        rules(rules=[{"expression": "age > 1", "range": {"column": "age", "min": 1}}])


Cells = tuple[int | None, str | None, int]


def reference(blocks: Sequence[Sequence[Cells]], fresh: Sequence[frozenset[int]] | None) -> set[tuple[int, int]]:
    """Plain Python: `a` unique, and `b` determines `c`."""
    rows = [
        ((fresh is None or place in fresh[block]), block, place, cells)
        for block, content in enumerate(blocks)
        for place, cells in enumerate(content)
    ]
    rejected: set[tuple[int, int]] = set()
    seen: set[int] = set()
    first: dict[str, int] = {}
    for _, block, place, (a, b, c) in sorted(rows, key=lambda row: row[:3]):
        if a is not None:
            if a in seen:
                rejected.add((block, place))
            seen.add(a)
        if b is not None and first.setdefault(b, c) != c:
            rejected.add((block, place))
    return rejected


cells = st.tuples(st.none() | st.integers(0, 6), st.none() | st.sampled_from("xyz"), st.integers(0, 2))


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_the_first_of_those_that_cannot_all_stay_stays(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = data.draw(st.lists(st.lists(cells, min_size=1, max_size=8), min_size=1, max_size=4))
    fresh = data.draw(
        st.none() | st.tuples(*(st.frozensets(st.integers(0, len(block) - 1)) for block in content)).map(list)
    )
    folder = tmp_path_factory.mktemp("blocks")
    files = []
    for number, block in enumerate(content):
        path = folder / f"it's {number}.parquet"
        columns = zip(*block, strict=True)
        types = (pa.int64(), pa.string(), pa.int64())
        arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
        pq.write_table(pa.table(arrays, names=["a", "b", "c"]), path)
        files.append(BlockFile(number, path, None if fresh is None else fresh[number]))
    asked = rules(unique=["a"], dependencies=[{"from": ["b"], "to": ["c"]}])
    found = judge(files, asked, folder)
    assert {(block, row) for block, verdict in found.items() for row in verdict.rows} == reference(content, fresh)
