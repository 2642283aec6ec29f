"""Which rows of a table are accepted: by their own values, and beside all others."""

from __future__ import annotations

import datetime as dt
import itertools
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from pydantic import ValidationError

from workers.store import StoreError
from workers.table_accept.errors import TableRuleError
from workers.table_accept.expressions import check_rules
from workers.table_accept.global_pass import CandidateBlock, global_pass
from workers.table_accept.local_rules import LocalRules, local_mask
from workers.table_accept.rules import TableRules

TABLE = pa.table(
    {
        "age": [17, 18, 90, 91, None],
        "price": [0.0, 12.5, 1000.0, -1.0, 5.0],
        "sku": ["ABC-1", "AB-1", "XYZ-99", "ABC-1x", None],
        "status": pa.array(["new", "old", "new", "gone", "old"]).dictionary_encode(),
        "born": [dt.date(2000, 1, day) for day in range(1, 6)],
        "two words": [1, 2, 3, 4, 5],
    }
)


def _rules(*rules: object, **others: object) -> TableRules:
    return TableRules.model_validate({"rules": rules, **others})


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("age BETWEEN 18 AND 90", [False, True, True, False, True]),
        ("age BETWEEN 18 AND 90 AND age IS NOT NULL", [False, True, True, False, False]),
        ({"range": {"column": "price", "min": 0, "max": 1000}}, [True, True, True, False, True]),
        ({"range": {"column": "price", "min": 0.5}}, [False, True, True, False, True]),
        ({"range": {"column": "born", "max": "2000-01-03"}}, [True, True, True, False, False]),
        ({"regex": {"column": "sku", "pattern": r"^[A-Z]{3}-\d+$"}}, [True, False, True, False, True]),
        ({"in": {"column": "status", "values": ["new", "it's"]}}, [True, False, True, False, False]),
        ({"in": {"column": "age", "values": [17, 91]}}, [True, False, False, True, True]),
        ("status = 'new' OR price > 3", [True, True, True, False, True]),
        ('"two words" % 2 = 1 -- odd', [True, False, True, False, True]),
        ("lower(sku) LIKE 'abc%' OR AGE > 89", [True, False, True, True, True]),
        ("CASE WHEN price < 0 THEN false ELSE year(born) = 2000 END", [True, True, True, False, True]),
        ("born >= DATE '2000-01-02' AND born < DATE '2000-01-01' + INTERVAL 3 DAY", [False, True, True, False, False]),
        ("TRY_CAST(sku AS INTEGER) IS NULL", [True, True, True, True, True]),
        ("1 = 2", [False] * 5),
    ],
)
def test_a_row_meets_or_breaks_a_rule(rule: object, kept: list[bool]) -> None:
    rules = _rules(rule)
    check_rules(rules, TABLE.schema)
    mask, counts = local_mask(TABLE, rules)
    assert mask.tolist() == kept
    assert counts == {rules.row_labels[0]: kept.count(False)}


def test_a_row_may_break_several_rules_and_each_counts_it() -> None:
    rules = _rules({"name": "grown up", "expression": "age >= 18"}, "price >= 5", unique=["sku"])
    with LocalRules(rules, TABLE.schema) as ready:
        for _ in range(2):
            mask, counts = ready.mask(TABLE)
            assert mask.tolist() == [False, True, True, False, True]
            assert counts == {"grown up": 1, "price >= 5": 2}
        assert ready.mask(TABLE.slice(0, 0))[0].tolist() == []


def test_rows_of_a_large_table_keep_their_order() -> None:
    values = np.random.default_rng(0).integers(0, 100, 300_000)
    mask, counts = local_mask(pa.table({"value": values}), _rules("value < 40"))
    assert np.array_equal(mask, values < 40)
    assert counts == {"value < 40": int((values >= 40).sum())}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("agee > 3", r"rule 'agee > 3': there is no column 'agee'; did you mean 'age'\?"),
        ({"range": {"column": "cost", "min": 0}}, r"rule 'cost in 0\.\.': there is no column 'cost'"),
        ("age", "is of type (INTEGER|BIGINT); a rule is true or false"),
        ("age > (SELECT max(age) FROM candidates)", "a subquery; a rule sees one row"),
        ("age > ALL (SELECT 1)", "a subquery"),
        ("count(*) OVER () > 1", "a window function"),
        ("sum(age) > 1", "sum is not among the functions"),
        ("read_text('/etc/passwd') = 'x'", "read_text is not among the functions"),
        ("getenv('HOME') = 'x'", "getenv is not among"),
        ("random() < 0.5", "random is not among"),
        ("born < now()", "now is not among"),
        ("born < current_date", "no column 'current_date'"),
        ("lenght(sku) > 1", r"did you mean length\?"),
        ("repeat(sku, 1000000000) = 'x'", "repeat is not among"),
        ("candidates.age > 3", "candidates.age is not a column's name"),
        ("* > 1", "it holds \\*; name the columns"),
        ("COLUMNS('a') > 1", "it holds \\*; name the columns"),
        ("age > $1", "a parameter; write the value"),
        ("age > 1; DROP TABLE x", "cannot be read|more than one"),
        ("age > 1) OR (true", "cannot be read"),
        ("age > 1, true", "more than one expression"),
        ("age > 1 FROM candidates", "more than one expression"),
        ("age > 1 AS x", "more than one expression"),
        ("age > 1 /* and", "cannot be read"),
        ("age >", "cannot be read"),
        ("sku + 1 > 2", "rule 'sku [+] 1 > 2'"),
        ("price > born", "rule 'price > born'"),
        ({"regex": {"column": "sku", "pattern": "("}}, "missing \\)|parenthes"),
        ({"range": {"column": "age", "min": "young"}}, "young"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_there_is_data(rule: object, message: str) -> None:
    with pytest.raises(TableRuleError, match=message):
        check_rules(_rules(rule), TABLE.schema)


def test_columns_of_other_rules_are_checked_as_well() -> None:
    with pytest.raises(
        TableRuleError, match=r"rule 'unique skuu, age': there is no column 'skuu'; did you mean 'sku'\?"
    ):
        check_rules(_rules(unique=[["skuu", "age"]]), TABLE.schema)
    with pytest.raises(TableRuleError, match="rule 'sku → zip': there is no column 'zip'"):
        check_rules(_rules(dependencies=[{"from": "sku", "to": "zip"}]), TABLE.schema)
    with pytest.raises(TableRuleError, match="'a' and 'A', which rules cannot tell apart"):
        check_rules(_rules("a > 1"), pa.schema([("a", pa.int64()), ("A", pa.int64())]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rules": [{"range": {"column": "a"}}]}, "a range needs min, max or both"),
        ({"rules": [{"name": "x"}]}, "this one is 0 of them"),
        ({"rules": [{"expression": "a", "in": {"column": "a", "values": [1]}}]}, "this one is 2 of them"),
        ({"rules": ["a > 1", " a  >  1 "]}, "two rules are called 'a > 1'"),
        ({"unique": ["a", ["a"]]}, "two rules are called 'unique a'"),
        ({"dependencies": [{"from": ["a", "b"], "to": "b"}]}, "'b' is in from and in to"),
        ({"uniqe": ["a"]}, "Extra inputs are not permitted"),
        ({"rules": [{"range": {"column": "a", "max": float("inf")}}]}, "finite"),
    ],
)
def test_rules_say_what_is_wrong(given: Mapping[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TableRules.model_validate(given)


def test_a_value_that_cannot_be_computed_names_what_helps() -> None:
    rules = _rules("CAST(sku AS INTEGER) > 1")
    check_rules(rules, TABLE.schema)
    with pytest.raises(TableRuleError, match=r"ABC-1.*TRY_CAST may help"):
        local_mask(TABLE, rules)


def test_rules_load_neither_duckdb_nor_pandas() -> None:
    script = "import sys, workers.table_accept.rules, workers.table_accept.expressions; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"duckdb", "pandas", "torch"} & set(done.stdout.split())


def _written(folder: Path, rows: Sequence[Mapping[str, object]], cuts: Sequence[int], schema: pa.Schema) -> list[Path]:
    edges = [0, *sorted(cuts), len(rows)]
    paths = []
    for number, (first, end) in enumerate(itertools.pairwise(edges)):
        paths.append(folder / f"{number}.parquet")
        parquet.write_table(pa.Table.from_pylist(list(rows[first:end]), schema), paths[-1], row_group_size=7)
    return paths


KEYS = pa.schema(
    [("email", pa.string()), ("first", pa.string()), ("last", pa.int64()), ("zip", pa.int32()), ("city", pa.string())]
)
ALL = TableRules.model_validate(
    {
        "unique": ["email", ["first", "last"]],
        "dependencies": [{"from": ["zip"], "to": ["city"]}, {"from": "first", "to": "zip"}],
    }
)


def _by_hand(rows: Sequence[Mapping[str, object]], out: set[int], accepted: set[int]) -> dict[int, list[str]]:
    """The same by comparing every row with every accepted one before it."""

    def clash(row: Mapping[str, object], other: Mapping[str, object]) -> set[str]:
        found = set()
        for key in ALL.unique:
            if all(row[name] is not None and row[name] == other[name] for name in key):
                found.add(f"unique {', '.join(key)}")
        for each in ALL.dependencies:
            same = all(row[name] is not None and row[name] == other[name] for name in each.determinant)
            if same and any(row[name] != other[name] for name in each.dependent):
                found.add(each.label)
        return found

    kept = [row for number, row in enumerate(rows) if number in accepted]
    broken = {}
    for number, row in enumerate(rows):
        if number in accepted or number in out:
            continue
        labels = set().union(*(clash(row, other) for other in kept))
        if labels:
            broken[number] = [label for label in ALL.labels if label in labels]
        else:
            kept.append(row)
    return broken


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    batch=st.sampled_from([9, 25, 1000]),
    accepted=st.sets(st.integers(0, 59), max_size=8),
    out=st.sets(st.integers(0, 59), max_size=8),
)
def test_the_outcome_is_that_of_comparing_all(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: list[int], batch: int, accepted: set[int], out: set[int]
) -> None:
    chance = random.Random(seed)
    out = out - accepted
    rows = [
        {
            "email": chance.choice([None, *(f"{number}@example.org" for number in range(60))]),
            "first": chance.choice(["Ann", "Ben", "Cem", "Dee", "Eva", None]),
            "last": chance.choice([None, *range(20)]),
            "zip": chance.choice([10115, 20095, 50667, None]),
            "city": chance.choice(["Berlin", "Berlin", "Berlin", "Hamburg", None]),
        }
        for _ in range(60)
    ]
    folder = tmp_path_factory.mktemp("blocks")
    paths = _written(folder, rows, cuts, KEYS)
    edges = [0, *sorted(cuts), len(rows)]
    blocks = [
        CandidateBlock(
            path, *(np.array(sorted(n - first for n in some if first <= n < end), np.int64) for some in (out, accepted))
        )
        for path, first, end in zip(paths, edges[:-1], edges[1:], strict=True)
    ]
    outcomes = list(global_pass(blocks, ALL, scratch=folder / "scratch", batch=batch))
    expected = _by_hand(rows, out, accepted)
    assert [outcome.block for outcome in outcomes] == list(range(len(blocks)))
    assert [edges[each.block] + row for each in outcomes for row in each.rejected] == sorted(expected)
    for label in ALL.labels:
        assert sum(each.by_rule[label] for each in outcomes) == sum(label in labels for labels in expected.values())
    assert not (folder / "scratch").exists()


def test_an_earlier_choice_stays(tmp_path: Path) -> None:
    rows = [{"email": "a@example.org"}, {"email": "a@example.org"}]
    [path] = _written(tmp_path, rows, [], pa.schema([("email", pa.string())]))
    rules = TableRules(unique=(("email",),))

    def rejected(accepted: list[int]) -> tuple[int, ...]:
        block = CandidateBlock(path, accepted=np.array(accepted, np.int64))
        return next(global_pass([block], rules, scratch=tmp_path / "scratch")).rejected

    assert rejected([]) == (1,)
    assert rejected([1]) == (0,)
    assert rejected([0, 1]) == ()


def test_a_block_may_have_missing_values_alone_and_dictionaries_of_its_own(tmp_path: Path) -> None:
    columns: list[pa.Array] = [
        pa.nulls(2),
        pa.array(["x", "y"]).dictionary_encode(),
        pa.array(["z", "y"]).dictionary_encode(),
    ]
    paths = [tmp_path / f"{number}.parquet" for number in range(3)]
    for path, column in zip(paths, columns, strict=True):
        parquet.write_table(pa.table({"key": column}), path)
    blocks = [CandidateBlock(path) for path in paths]
    outcomes = list(global_pass(blocks, TableRules(unique=(("key",),)), scratch=tmp_path / "scratch", batch=2))
    assert [outcome.rejected for outcome in outcomes] == [(), (), (1,)]


def test_keys_beyond_the_memory_go_to_disk(tmp_path: Path) -> None:
    rows = 400_000
    keys = np.char.add("a key that is long enough to need room on disk, number ", np.arange(rows).astype(str))
    keys[-1] = keys[0]
    parquet.write_table(pa.table({"key": keys}), tmp_path / "rows.parquet")
    blocks = [CandidateBlock(tmp_path / "rows.parquet")]
    rules = TableRules(unique=(("key",),))
    [outcome] = global_pass(blocks, rules, scratch=tmp_path / "scratch", memory_mib=64, batch=50_000)
    assert outcome.rejected == (rows - 1,)
    assert outcome.by_rule == {"unique key": 1}


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    rules = TableRules(unique=(("key",),))
    with pytest.raises(StoreError, match=r"nothing\.parquet cannot be read"):
        list(global_pass([CandidateBlock(tmp_path / "nothing.parquet")], rules, scratch=tmp_path / "scratch"))
    parquet.write_table(pa.table({"other": [1]}), tmp_path / "rows.parquet")
    with pytest.raises(TableRuleError, match=r"no column 'key' in rows\.parquet"):
        list(global_pass([CandidateBlock(tmp_path / "rows.parquet")], rules, scratch=tmp_path / "scratch"))


def test_without_rules_over_all_rows_nothing_is_read(tmp_path: Path) -> None:
    [outcome] = global_pass([CandidateBlock(tmp_path / "none")], _rules("a > 1"), scratch=tmp_path / "scratch")
    assert (outcome.rejected, outcome.by_rule) == ((), {})
