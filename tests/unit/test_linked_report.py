"""The report of a linked table: what it finds of sequences and keys whose faults are known, and its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.dataset_report.bins import bin_feature
from workers.dataset_report.fidelity import agree
from workers.dataset_report.figures import Asked, LinkedFigures, Report
from workers.dataset_report.linked import LinkedTable, compare_linked, following_rows, number_subjects
from workers.dataset_report.linked_files import LinkedFiles
from workers.dataset_report.report import make_report
from workers.dataset_report.tables import features_of

ORDERS = {"customer": "id", "step": "integer", "amount": "numeric", "state": "categorical"}
CUSTOMERS = {"id": "id", "tier": "categorical", "age": "integer"}
STATES = ["open", "paid", "sent"]


def customers(count: int, seed: int, first: int = 0) -> pa.Table:
    draws = np.random.default_rng(seed)
    return pa.table(
        {
            "id": np.arange(first, first + count),
            "tier": draws.choice(["gold", "plain"], count, p=[0.3, 0.7]),
            "age": draws.integers(18, 80, count),
            "note": [f"never looked at {number}" for number in range(count)],
        }
    )


def orders(parents: pa.Table, seed: int) -> pa.Table:
    """Each customer's: amounts wander from the one before, states go round, gold ones pay more and order more."""
    draws = np.random.default_rng(seed)
    rows: dict[str, list[object]] = {name: [] for name in ORDERS}
    for key, tier in zip(parents["id"].to_pylist(), parents["tier"].to_pylist(), strict=True):
        amount = draws.normal(300 if tier == "gold" else 100, 20)
        state = int(draws.integers(3))
        for step in range(int(draws.integers(3, 8) if tier == "gold" else draws.integers(0, 4))):
            for name, value in zip(ORDERS, (key, step, amount, STATES[state]), strict=True):
                rows[name].append(value)
            amount += draws.normal(0, 5)
            state = (state + 1) % 3 if draws.random() < 0.9 else state
    return pa.table(rows)


def keep(folder: Path, name: str, table: pa.Table) -> Path:
    path = folder / f"{name}.parquet"
    pq.write_table(table, path)
    return path


class Given:
    """A source on disk, and reports beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parents = [customers(400, 1), customers(200, 2, first=400)]
        tables = [orders(parent, seed) for seed, parent in enumerate(self.parents, 3)]
        # The source is in no order: the report is told by which column a sequence goes.
        tables = [table.take(np.random.default_rng(0).permutation(table.num_rows)) for table in tables]
        self.source = [keep(folder, name, table) for name, table in zip(("train", "holdout"), tables, strict=True)]
        self.files = [
            keep(folder, name, table) for name, table in zip(("parent", "other-parent"), self.parents, strict=True)
        ]

    def report(self, rows: pa.Table, parents: pa.Table | None = None, **given: object) -> Report:
        linked = LinkedFiles(foreign_key="customer", order_by="step")
        if parents is not None:
            linked = LinkedFiles(
                foreign_key="customer",
                order_by="step",
                parent_key="id",
                parent_columns=CUSTOMERS,
                synthetic=[keep(self.folder, "made-parent", parents)],
                train=[self.files[0]],
                holdout=[self.files[1]],
            )
        made = keep(self.folder, "made", rows)
        return make_report(made, *self.source, columns=ORDERS, linked=linked, seed=3, name="orders", **given)  # type: ignore[arg-type]


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return Given(tmp_path)


def linked_of(report: Report) -> LinkedFigures:
    assert report.linked is not None
    return report.linked


def lost(pairs: Sequence[object]) -> float:
    """How far the worst pair is below what a fresh sample would reach."""
    return max(pair.accuracy_expected - pair.accuracy for pair in pairs)  # type: ignore[attr-defined]


def shuffled(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    draws = np.random.default_rng(9)
    for name in names:
        mixed = rows[name].take(draws.permutation(rows.num_rows))
        rows = rows.set_column(rows.column_names.index(name), name, mixed)
    return rows


def weak(report: Report) -> list[str]:
    return [remark.text for remark in report.remarks if remark.level == "weak" and remark.subject == "subjects"]


def test_other_subjects_of_the_same_kind_are_faithful(given: Given) -> None:
    parents = customers(500, 7)
    report = given.report(orders(parents, 8), parents)
    found = linked_of(report)
    assert (found.orphans, found.integrity) == (0, 1.0)
    assert (found.subjects, found.subjects_original) == (500, 600)
    assert found.rows_per_subject.accuracy == pytest.approx(found.rows_per_subject.accuracy_expected, abs=0.05)
    assert found.mean_rows == pytest.approx(found.mean_rows_original, abs=0.3)
    assert [pair.second for pair in found.coherence] == ["step, next row", "amount, next row", "state, next row"]
    assert lost(found.coherence) < 0.06
    assert len(found.with_parent) == 6
    assert lost(found.with_parent) < 0.06
    assert weak(report) == []
    assert report.fidelity is not None
    assert abs(report.fidelity.accuracy - report.fidelity.accuracy_expected) < 0.03
    assert report.fidelity.told_apart is not None
    assert report.fidelity.told_apart_error is not None
    assert report.fidelity.told_apart < 0.5 + 3 * report.fidelity.told_apart_error
    assert report.privacy is not None
    assert report.privacy.closeness is not None
    assert abs(report.privacy.closeness.share - 0.5) < 3 * report.privacy.closeness.error
    # The key is of no figure: neither a column, nor looked for in the source.
    assert [column.name for column in report.columns] == ["step", "amount", "state"]
    assert report.privacy.copied == ()
    assert msgspec.json.decode(report.json(), type=Report) == report
    page = report.html().decode()
    assert "rows per subject" in page
    assert "amount, next row" in page
    assert "never looked at" not in page + report.json().decode()


def test_shuffled_sequences_are_caught(given: Given) -> None:
    parents = customers(500, 7)
    rows = orders(parents, 8)
    whole, mixed = given.report(rows, parents), given.report(shuffled(rows, ["amount", "state"]), parents)
    found = {pair.first: pair for pair in linked_of(mixed).coherence}
    for name in ("amount", "state"):
        accuracy, expected = found[name].accuracy, found[name].accuracy_expected
        assert accuracy is not None
        assert expected is not None
        assert accuracy < expected - 0.2, name
    assert linked_of(mixed).rows_per_subject == linked_of(whole).rows_per_subject
    assert whole.fidelity is not None
    assert mixed.fidelity is not None
    assert mixed.fidelity.univariate == whole.fidelity.univariate
    assert mixed.fidelity.accuracy < whole.fidelity.accuracy - 0.05
    assert any("'amount'" in text and "next row" in text for text in weak(mixed))


def test_rows_of_others_parents_are_caught(given: Given) -> None:
    parents = customers(500, 7)
    rows = orders(parents, 8)
    strangers = shuffled(parents, ["tier"])
    report = given.report(rows, strangers)
    pairs = {(pair.first, pair.second): pair for pair in linked_of(report).with_parent}
    amounts = pairs["tier", "amount"]
    assert amounts.accuracy is not None
    assert amounts.accuracy_expected is not None
    assert amounts.accuracy < amounts.accuracy_expected - 0.2
    assert lost(linked_of(report).coherence) < 0.06
    assert any("'tier'" in text for text in weak(report))


def test_broken_keys_are_counted(given: Given) -> None:
    parents = customers(500, 7)
    rows = orders(parents, 8)
    keys = rows["customer"].to_pylist()
    keys[:7] = [9_999_999] * 6 + [None]
    report = given.report(rows.set_column(0, "customer", pa.array(keys)), parents)
    found = linked_of(report)
    assert found.orphans == 7
    assert found.integrity == 1 - 7 / rows.num_rows
    assert any(text.startswith("7 rows") for text in weak(report))


def test_rows_per_subject_are_compared(given: Given) -> None:
    parents = customers(500, 7)
    rows = orders(parents, 8)
    first = rows.filter(pa.array([step == 0 for step in rows["step"].to_pylist()]))
    found = linked_of(given.report(first, parents))
    assert found.rows_per_subject.accuracy is not None
    assert found.rows_per_subject.accuracy < 0.6
    assert found.mean_rows < 1
    assert found.rows_per_subject.shape is not None
    # Subjects without rows count, where there is a table of subjects.
    none = sum(key not in set(rows["customer"].to_pylist()) for key in parents["id"].to_pylist())
    assert found.rows_per_subject.shape.synthetic[0] == pytest.approx(none / 500, abs=1e-5)


def test_without_a_parent_subjects_are_those_that_have_rows(given: Given) -> None:
    rows = orders(customers(500, 7), 8)
    report = given.report(rows)
    found = linked_of(report)
    assert found.subjects == len(set(rows["customer"].to_pylist()))
    assert (found.orphans, found.integrity, found.with_parent) == (None, None, ())
    assert lost(found.coherence) < 0.06
    assert weak(report) == []


def test_a_sample_is_of_whole_subjects(given: Given) -> None:
    parents = customers(500, 7)
    report = given.report(orders(parents, 8), parents, sample=300)
    found = linked_of(report)
    assert 200 < report.sampled_rows < 400
    assert 60 < found.subjects < 200
    assert found.integrity == 1.0
    assert found.mean_rows == pytest.approx(2.4, abs=0.6)
    assert report == given.report(orders(parents, 8), parents, sample=300)


def test_conditions_on_rows_leave_subjects_whole(given: Given) -> None:
    parents = customers(500, 7)
    rows = orders(parents, 8)
    paid = rows.set_column(3, "state", pa.array(["paid"] * rows.num_rows))
    found = linked_of(given.report(paid, parents, asked=Asked(where={"state": "paid"})))
    assert found.rows_per_subject.accuracy == pytest.approx(found.rows_per_subject.accuracy_expected, abs=0.05)


def test_a_linked_dataset_without_its_source_is_described_alone(given: Given) -> None:
    parents = customers(100, 7)
    made = keep(given.folder, "made", orders(parents, 8))
    linked = LinkedFiles(
        foreign_key="customer",
        parent_key="id",
        parent_columns=CUSTOMERS,
        synthetic=[keep(given.folder, "made-parent", parents)],
    )
    report = make_report(made, columns=ORDERS, linked=linked, seed=3, name="orders")
    found = linked_of(report)
    assert found.integrity == 1.0
    assert found.rows_per_subject.accuracy is None
    assert [pair.accuracy for pair in found.coherence] == [None] * 3
    assert max(pair.association for pair in found.coherence) > 0.5
    assert b"rows per subject" in report.html()


def test_a_foreign_key_that_is_no_column_is_refused(given: Given) -> None:
    with pytest.raises(ValueError, match="the foreign key 'client' is no column; the columns are customer, step"):
        make_report(given.source[0], columns=ORDERS, linked=LinkedFiles(foreign_key="client"), seed=0, name="orders")


def test_rows_are_followed_by_the_next_of_their_subject() -> None:
    numbers = number_subjects(pa.chunked_array([["b", "a", "b", None, "a", "b"]]))
    assert numbers.tolist() == [0, 1, 0, 2, 1, 0]
    first, second = following_rows(numbers)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 2), (2, 5), (1, 4)]


def test_figures_of_tables_in_memory() -> None:
    """The same sequences under other keys, in other places among each other, are the same."""
    features = features_of({"state": "categorical"})
    table = pa.table({"c0": ["a", "b", "c"] * 20, "key": [str(row // 3) for row in range(60)]})
    other = pa.table({"c0": ["a"] * 20 + ["b"] * 20 + ["c"] * 20, "key": [f"k{row % 20}" for row in range(60)]})
    tables = [
        LinkedTable(keys=each["key"], lengths=dict.fromkeys(each["key"].unique().to_pylist(), 3))
        for each in (table, other)
    ]
    binned = [bin_feature(features[0], [table, other])]
    found = compare_linked(tables, binned, (), "key", 0)
    assert found.coherence[0].accuracy == 1.0
    assert found.coherence[0].association == pytest.approx(1.0, abs=0.05)
    assert found.rows_per_subject.accuracy == 1.0
    assert found.mean_rows == 3.0


def test_subjects_whose_rows_are_alike_say_less_than_as_many_others() -> None:
    """What a fresh sample would reach, beside what fresh samples do reach: each subject has one value in all rows."""
    features = features_of({"state": "categorical"})

    def made(seed: int, subjects: int) -> tuple[pa.Table, np.ndarray]:  # type: ignore[type-arg]
        values = np.random.default_rng(seed).choice(["a", "b", "c", "d"], subjects)
        return pa.table({"c0": np.repeat(values, 25)}), np.repeat(np.arange(subjects), 25)

    found = []
    for seed in range(40):
        (table, whose), (other, others) = made(seed, 60), made(1000 + seed, 40)
        found.append(agree((bin_feature(features[0], [table, other], subjects=(whose, others)),)))
        alone = agree((bin_feature(features[0], [table, other]),))
        assert alone.expected > found[-1].expected
    accuracy, expected = (float(np.mean([getattr(one, name) for one in found])) for name in ("accuracy", "expected"))
    assert accuracy == pytest.approx(expected, abs=0.02)
    assert expected < 0.9
