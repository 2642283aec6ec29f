"""The report of a dataset: what it finds of datasets whose faults are known, and its page."""

from __future__ import annotations

import datetime as dt
import html.parser
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from workers.dataset_report.bins import write_moment, write_number
from workers.dataset_report.fidelity import agreement, association
from workers.dataset_report.figures import Asked, Report
from workers.dataset_report.gate import Gate, check_gate
from workers.dataset_report.ranking import auc
from workers.dataset_report.report import EmptyDatasetError, make_report
from workers.dataset_report.tables import features_of
from workers.dataset_report.texts import describe_texts, words_of
from workers.dataset_report.weighing import weigh

KINDS = {"age": "integer", "income": "numeric", "city": "categorical", "joined": "datetime", "left": "categorical"}
CITIES = ["Bern", "Genf", "Basel", None]


def people(rows: int, seed: int) -> pa.Table:
    """Rows of one origin: income grows with age, and who leaves depends on both."""
    draws = np.random.default_rng(seed)
    age = draws.integers(18, 70, rows)
    income = age * 800 + draws.normal(0, 6000, rows)
    left = np.where(income + draws.normal(0, 5000, rows) > 36_000, "yes", "no")
    city = [CITIES[place] for place in draws.choice(4, rows, p=[0.5, 0.3, 0.1, 0.1])]
    joined = [dt.date(2020, 1, 1) + dt.timedelta(days=int(day)) for day in draws.integers(0, 900, rows)]
    return pa.table(
        {
            "age": age,
            "income": pa.array(np.where(age == 30, np.nan, income)),
            "city": city,
            "joined": joined,
            "left": left,
        }
    )


def noise(rows: int, seed: int) -> pa.Table:
    draws = np.random.default_rng(seed)
    days = [dt.date(1990, 1, 1) + dt.timedelta(days=int(day)) for day in draws.integers(0, 20_000, rows)]
    return pa.table(
        {
            "age": draws.integers(0, 1000, rows),
            "income": draws.uniform(-1e6, 1e6, rows),
            "city": draws.choice(["Rom", "Bern"], rows),
            "joined": days,
            "left": draws.choice(["yes", "no"], rows),
        }
    )


def keep(folder: Path, name: str, table: pa.Table) -> Path:
    path = folder / f"{name}.parquet"
    pq.write_table(table, path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, Path]:
    return keep(tmp_path, "train", people(400, 1)), keep(tmp_path, "holdout", people(200, 2))


def report_on(
    folder: Path,
    table: pa.Table,
    source: tuple[Path, Path | None],
    kinds: dict[str, str] | None = None,
    **given: object,
) -> Report:
    made = keep(folder, "synthetic", table)
    return make_report(made, *source, columns=kinds or KINDS, seed=3, name="people", **given)  # type: ignore[arg-type]


def levels(report: Report, subject: str) -> set[str]:
    return {remark.level for remark in report.remarks if remark.subject == subject}


STRICT = Gate(
    min_accuracy=0.75, max_identical=0.01, min_utility=0.6, max_closer=0.65, max_membership=0.65, max_copied=0
)


def test_an_independent_half_of_the_same_data_passes(tmp_path: Path, source: tuple[Path, Path]) -> None:
    report = report_on(tmp_path, people(500, 5), source)
    assert report.fidelity is not None
    assert report.privacy is not None
    assert report.privacy.closeness is not None
    assert report.utility is not None
    assert abs(report.fidelity.accuracy - report.fidelity.accuracy_expected) < 0.02
    assert abs(report.privacy.closeness.share - 0.5) < 3 * report.privacy.closeness.error
    assert report.utility.target == "left"
    assert report.utility.real.mean > 0.8
    assert report.privacy.identical_rows == 0
    assert check_gate(report, STRICT) == ()
    assert not any(remark.level == "weak" for remark in report.remarks)


def test_a_copy_of_the_training_rows_is_caught(tmp_path: Path, source: tuple[Path, Path]) -> None:
    report = report_on(tmp_path, people(400, 1), source)
    assert report.privacy is not None
    assert report.privacy.closeness is not None
    assert report.privacy.membership is not None
    assert report.privacy.identical == 1.0
    assert report.privacy.identical_holdout == 0.0
    assert report.privacy.closeness.share > 0.99
    assert report.privacy.membership.auc > 0.99
    held = check_gate(report, STRICT)
    assert f"<li>{held[0]}</li>".encode() in report.html(held)
    assert held[0] == "the share of rows equal to a training row is 1.0000, above max_identical, 0.01"
    assert [sentence.split(",")[1].split()[1] for sentence in held] == ["max_identical", "max_closer", "max_membership"]
    assert "weak" in levels(report, "privacy")
    assert "weak" not in levels(report, "fidelity")


def test_noise_is_caught(tmp_path: Path, source: tuple[Path, Path]) -> None:
    report = report_on(tmp_path, noise(400, 4), source)
    assert report.fidelity is not None
    assert report.utility is not None
    assert report.fidelity.accuracy < 0.4
    assert report.fidelity.told_apart is not None
    assert report.fidelity.told_apart > 0.95
    assert report.utility.ratio is not None
    assert report.utility.ratio < 0.5
    assert "weak" in levels(report, "fidelity")
    assert check_gate(report, Gate(min_accuracy=0.8))[0].startswith("the accuracy is 0.")


def test_columns_that_no_longer_belong_together_are_named(tmp_path: Path, source: tuple[Path, Path]) -> None:
    table = people(400, 5)
    table = table.set_column(1, "income", people(400, 6).column("income"))
    report = report_on(tmp_path, table, (source[0], None))
    said = [remark for remark in report.remarks if "belong together" in remark.text]
    assert [remark.level for remark in said] == ["weak"]
    assert "'income' with 'left', 0.0" in said[0].text


def test_half_copied_rows_show_in_the_share(tmp_path: Path, source: tuple[Path, Path]) -> None:
    mixed = pa.concat_tables([people(400, 1).slice(0, 150), people(150, 9)])
    report = report_on(tmp_path, mixed, source)
    assert report.privacy is not None
    assert report.privacy.identical == 0.5
    assert report.privacy.closeness is not None
    assert report.privacy.closeness.share > 0.5 + 3 * report.privacy.closeness.error


def test_the_same_report_again(tmp_path: Path, source: tuple[Path, Path]) -> None:
    reports = [report_on(tmp_path, people(300, 5), source, sample=200) for _ in range(2)]
    assert reports[0].json() == reports[1].json()
    assert reports[0].html() == reports[1].html()
    assert reports[0].sampled_rows == 200
    assert msgspec.json.decode(reports[0].json(), type=Report) == reports[0]


def test_identical_rows_are_looked_for_in_all_rows(tmp_path: Path, source: tuple[Path, Path]) -> None:
    table = pa.concat_tables([people(600, 5), people(400, 1).slice(7, 3)])
    report = report_on(tmp_path, table, source, sample=60)
    assert report.privacy is not None
    assert report.privacy.identical_rows == 3


def test_a_dataset_in_several_files_whose_numbers_came_back_as_fractions(tmp_path: Path) -> None:
    source = pa.table({"doors": [2, 4, 4, 5] * 30, "price": np.arange(120.0)})
    made = pa.table({"doors": [2.0, 4.0, 4.0, None] * 30, "price": np.arange(120.0)})
    files = [keep(tmp_path, "a", made.slice(0, 50)), keep(tmp_path, "b", made.slice(50))]
    columns = {"doors": "categorical", "price": "numeric"}
    report = make_report(files, keep(tmp_path, "train", source), columns=columns, seed=0, name="cars")
    assert report.rows == 120
    assert report.privacy is not None
    assert report.privacy.identical == 0.75
    assert report.columns[0].shape is not None
    assert report.columns[0].shape.labels == ("2", "4", "5", "(other)", "(missing)")
    assert report.columns[0].shape.synthetic == (0.25, 0.5, 0.0, 0.0, 0.25)


def test_copied_texts_ids_and_small_groups_are_counted_and_not_shown(tmp_path: Path) -> None:
    rows = 100
    source = pa.table(
        {
            "key": [f"K-{row}" for row in range(rows)],
            "note": [f"called on day {row}" for row in range(rows)],
            "job": ["nurse"] * 97 + ["astronaut"] * 3,
        }
    )
    made = pa.table(
        {
            "key": [f"N-{row}" for row in range(rows)],
            "note": [f"wrote on day {row}" for row in range(99)] + ["  Called on day 5 "],
            "job": ["nurse"] * 99 + ["astronaut"],
        }
    )
    kinds = {"key": "id", "note": "text", "job": "categorical"}
    report = make_report(
        keep(tmp_path, "synthetic", made), keep(tmp_path, "train", source), columns=kinds, seed=0, name="notes"
    )
    assert report.privacy is not None
    assert [(one.column, one.values, one.copied) for one in report.privacy.copied] == [
        ("key", 100, 0),
        ("note", 100, 1),
    ]
    groups = report.privacy.small_groups
    assert groups is not None
    assert (groups.values, groups.values_shown, groups.rows, groups.columns) == (1, 1, 1, ("job",))
    (held,) = check_gate(report, Gate(max_copied=0))
    assert held == "the share of values of 'note' that stand in the source is 0.0100, above max_copied, 0"
    for page in (report.json(), report.html()):
        assert b"astronaut" not in page
        assert b"on day 5" not in page
        assert b"nurse" in page


def test_a_gate_holds_back_what_it_cannot_see(tmp_path: Path) -> None:
    report = make_report(keep(tmp_path, "synthetic", people(50, 1)), columns=KINDS, seed=0, name="alone")
    held = check_gate(report, STRICT)
    assert len(held) == 6
    assert all("could not be measured: there is no table to compare it with" in sentence for sentence in held)
    assert check_gate(report, Gate()) == ()
    with pytest.raises(ValidationError, match="min_acuracy"):
        Gate(min_acuracy=0.9)  # type: ignore[call-arg]


def test_without_a_source_the_dataset_is_described_alone(tmp_path: Path) -> None:
    table = pa.table(
        {
            "topic": ["bills", "delivery"] * 19 + ["returns"] * 2,
            "text": [f"My parcel {row} has not come, and it was due on day {row * 7}." for row in range(39)] + [None],
        }
    )
    report = make_report(
        keep(tmp_path, "synthetic", table), columns={"topic": "categorical", "text": "text"}, seed=0, name="tickets"
    )
    assert report.fidelity is None
    assert report.privacy is None
    assert report.columns[0].shape is not None
    assert report.columns[0].shape.labels[:3] == ("bills", "delivery", "returns")
    assert report.columns[0].shape.synthetic[:3] == (0.475, 0.475, 0.05)
    (texts,) = report.texts
    assert texts.empty == pytest.approx(1 / 40)
    assert texts.openings == pytest.approx(1 / 39)
    assert b"Privacy: does it" not in report.html()


def test_texts_that_repeat_themselves() -> None:
    varied = describe_texts("text", ["The bridge is closed.", "Rain falls on Basel all week.", "她在学习物理。"], 0)
    same = describe_texts("text", ["How can I help you today, Sir?"] * 9 + ["How can I help you, Sir?"], 0)
    assert varied.repeated == 0
    assert same.rows == 10
    assert varied.near == 0
    assert same.repeated == 0.9
    assert same.near is not None
    assert same.near >= 0.9
    assert same.openings == 1.0
    assert same.distinct[0] < 0.2 < varied.distinct[0]
    assert words_of("It's 物理, no?") == ["it", "s", "物", "理", "no"]
    assert describe_texts("text", [None, " "], 0).empty == 1.0


class Reader(html.parser.HTMLParser):
    """Which elements a page has, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_names_and_values_stay_text(tmp_path: Path) -> None:
    name = '</text></svg><script>alert("c")</script>"\'; DROP TABLE train; --'
    value = '<img src=x onerror=alert(1)>" onload="x'
    kinds = {name: "categorical", f"{name}2": "numeric", "{{ 7 * 7 }}": "text"}
    table = pa.table([[value, "b"] * 60, np.arange(120.0), [f"<b>{row}</b>" for row in range(120)]], names=list(kinds))
    train, holdout = keep(tmp_path, "train", table), keep(tmp_path, "holdout", table)
    report = make_report(
        keep(tmp_path, "synthetic", table), train, holdout, columns=kinds, target=name, seed=0, name=f"<i>{name}"
    )
    reader = Reader()
    reader.feed(report.html().decode())
    assert not reader.tags & {"script", "img"}
    assert not {attribute for attribute in reader.attributes if attribute.startswith("on")}
    assert name in reader.text
    assert "{{ 7 * 7 }}" in reader.text
    assert report.utility is not None
    assert report.utility.target == name


def test_the_page_needs_nothing_else(tmp_path: Path, source: tuple[Path, Path]) -> None:
    page = report_on(tmp_path, people(300, 5), (source[0], None)).html()
    assert b"http://" not in page
    assert b"https://" not in page
    assert b"<svg" in page
    assert b"Held back" not in page
    assert len(page) < 300_000


def test_missing_values_count_as_values_of_their_own(tmp_path: Path, source: tuple[Path, Path]) -> None:
    table = people(400, 5)
    nothing = pa.array([None] * 400, pa.float64())
    report = report_on(tmp_path, table.set_column(1, "income", nothing), (source[0], None))
    income = next(column for column in report.columns if column.name == "income")
    assert income.missing == 1.0
    assert income.missing_original is not None
    assert income.missing_original < 0.1
    assert income.accuracy is not None
    assert income.accuracy < 0.1


def test_columns_differ_by_case_and_stand_in_any_order(tmp_path: Path) -> None:
    table = pa.table({"a": np.arange(100.0), "A": ["x", "y"] * 50})
    other = pa.table({"A": ["x", "y"] * 50, "a": np.arange(100.0)})
    report = make_report(
        keep(tmp_path, "synthetic", other),
        keep(tmp_path, "train", table),
        columns={"a": "numeric", "A": "categorical"},
        seed=0,
        name="case",
    )
    assert report.privacy is not None
    assert report.privacy.identical == 1.0


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("numeric", [1.5] * 100),
        ("categorical", ["one"] * 100),
        ("datetime", [dt.datetime(2024, 5, 1, 12, 30, tzinfo=dt.UTC)] * 100),
        ("integer", list(range(100))),
        ("numeric", [None] * 100),
        ("categorical", [None] * 100),
        ("id", list(range(100))),
        ("geo", ["46.9, 7.4", "47.5, 7.6"] * 50),
    ],
)
def test_tables_of_one_column_and_constants(tmp_path: Path, kind: str, values: list[object]) -> None:
    files = [keep(tmp_path, name, pa.table({"only": values})) for name in ("synthetic", "train", "holdout")]
    report = make_report(*files, columns={"only": kind}, seed=0, name="one")
    assert report.fidelity is None if kind == "id" else report.fidelity.accuracy == 1.0  # type: ignore[union-attr]
    assert report.no_utility == "a model needs two columns that it can learn from, or more"
    assert report.html()


@pytest.mark.parametrize("rows", [1, 2, 30])
def test_tables_of_few_rows(tmp_path: Path, rows: int) -> None:
    files = [keep(tmp_path, name, people(rows, seed)) for seed, name in enumerate(("synthetic", "train", "holdout"))]
    report = make_report(*files, columns=KINDS, seed=0, name="few")
    assert report.utility is None
    assert report.no_utility is not None
    assert "a model needs 50 training rows" in report.no_utility
    assert report.html()


def test_an_empty_table_says_so(tmp_path: Path, source: tuple[Path, Path]) -> None:
    with pytest.raises(EmptyDatasetError, match="the synthetic table of 'people' has no rows"):
        report_on(tmp_path, people(5, 1).slice(0, 0), source)
    report = report_on(tmp_path, people(60, 5), (source[0], keep(tmp_path, "none", people(5, 1).slice(0, 0))))
    assert report.no_utility == "there are no held-out rows to try a model on"
    assert report.privacy is not None
    assert report.privacy.closeness is None


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ({**KINDS, "age": "number"}, "column 'age': 'number' is no kind; take one of categorical, numeric"),
        ({**KINDS, "height": "numeric"}, "the synthetic table has no column 'height'; it has age, income"),
        ({"age": "numeric"}, "the synthetic table has a column 'city' of which no kind is given"),
    ],
)
def test_columns_that_do_not_fit_are_named(
    tmp_path: Path, source: tuple[Path, Path], kinds: dict[str, str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        report_on(tmp_path, people(20, 1), source, kinds)


def test_a_target_that_cannot_be_learned_says_why(tmp_path: Path, source: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="the target 'gone' is no column"):
        report_on(tmp_path, people(20, 1), source, target="gone")
    kinds = {**KINDS, "city": "text"}
    report = report_on(tmp_path, people(100, 5), source, kinds, target="city")
    assert report.no_utility == "the target 'city' is no column that a model can learn"
    held = check_gate(report, Gate(min_utility=0.5))
    assert held == (f"min_utility is 0.5, but the utility could not be measured: {report.no_utility}",)


def test_a_number_is_a_target_as_well(tmp_path: Path, source: tuple[Path, Path]) -> None:
    report = report_on(tmp_path, people(400, 5), source, target="income")
    assert report.utility is not None
    assert report.utility.measure == "R2"
    assert report.utility.real.mean > 0.4
    assert report.utility.ratio is not None
    assert report.utility.ratio > 0.7


def test_whoever_reads_a_report_need_not_load_what_made_it() -> None:
    script = (
        "import sys, workers.dataset_report.gate, workers.dataset_report.figures;"
        "print(sorted({'duckdb', 'sklearn', 'numpy', 'pyarrow', 'pandas', 'jinja2'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_figures_of_known_tables() -> None:
    same = agreement(np.array([50.0, 50.0]), np.array([500.0, 500.0]))
    assert same.accuracy == 1.0
    assert 0.9 < same.expected < 1.0
    assert agreement(np.array([10.0, 0.0]), np.array([0.0, 10.0])).accuracy == 0.0
    assert association(np.array([[50.0, 0.0], [0.0, 50.0]])) == pytest.approx(1.0, abs=0.01)
    assert association(np.array([[25.0, 25.0], [25.0, 25.0]])) == 0.0
    assert association(np.array([[9.0, 9.0], [0.0, 0.0]])) == 0.0
    assert auc(np.array([True, True, False, False]), np.array([3.0, 1.0, 1.0, 0.0])) == 0.875
    weights = np.array([1.0, 3.0, 1.0, 1.0])
    assert auc(np.array([True, True, False, False]), np.array([3.0, 1.0, 1.0, 0.0]), weights) == 0.8125


def test_numbers_and_times_are_written_so_that_they_differ() -> None:
    assert write_number(1234.567, np.array([1234.567, 1234.6, 9.0])) == "1,234.57"
    assert write_number(0.25, np.array([0.25, 1.0])) == "0.25"
    day = 1_700_000_000.0
    assert write_moment(day, np.array([day, day + 86_400])) == "2023-11-14"
    assert write_moment(day, np.array([day, day + 60])) == "2023-11-14 22:13"
    assert write_moment(1e15, np.array([1e15])) == "9999-12-31"


def as_asked(rows: int, seed: int) -> pa.Table:
    """As many rows of `people` as have two Baslers for each three others; no income of theirs is missing."""
    table = people(8 * rows, seed)
    table = table.filter(pc.invert(pc.is_nan(table.column("income"))))
    there = pc.fill_null(pc.equal(table.column("city"), "Basel"), False)
    some = [
        table.filter(chosen).slice(0, count)
        for chosen, count in ((there, rows * 2 // 5), (pc.invert(there), rows * 3 // 5))
    ]
    return pa.concat_tables(some)


def test_a_dataset_that_is_as_it_was_asked_to_be_is_faithful(tmp_path: Path, source: tuple[Path, Path]) -> None:
    made = as_asked(500, 5)
    asked = Asked(rebalance={"city": {"Basel": 0.4}}, impute=("income",))
    report = report_on(tmp_path, made, source, asked=asked)
    unasked = report_on(tmp_path, made, source)
    assert report.fidelity is not None
    assert unasked.fidelity is not None
    assert abs(report.fidelity.accuracy - report.fidelity.accuracy_expected) < 0.03
    assert unasked.fidelity.accuracy < unasked.fidelity.accuracy_expected - 0.06
    city, income = (next(one for one in report.columns if one.name == name) for name in ("city", "income"))
    assert city.shape is not None
    assert city.shape.original[city.shape.labels.index("Basel")] == pytest.approx(0.4, abs=1e-4)
    assert city.accuracy is not None
    assert city.accuracy > 0.95
    assert income.shape is not None
    assert income.shape.original[-1] == income.shape.synthetic[-1] == 0
    assert income.missing_original is not None
    assert income.missing_original > 0
    assert report.comparison is not None
    assert report.comparison.effective_rows is not None
    assert 100 < report.comparison.effective_rows < 600
    assert "weak" not in levels(report, "fidelity")
    assert report.fidelity.told_apart is not None
    assert report.fidelity.told_apart_error is not None
    assert report.fidelity.told_apart < 0.5 + 3 * report.fidelity.told_apart_error
    # Whom it gives away does not hang on what was asked for.
    assert report.privacy == unasked.privacy
    page = report.html().decode()
    assert "city is Basel in 40.0 % of the rows" in page
    assert "income is never missing" in page
    assert 'id="asked"' not in unasked.html().decode()
    assert msgspec.json.decode(report.json(), type=Report) == report


def test_a_dataset_that_is_not_as_it_was_asked_to_be_is_not(tmp_path: Path, source: tuple[Path, Path]) -> None:
    asked = Asked(rebalance={"city": {"Basel": 0.6}}, impute=("income",))
    report = report_on(tmp_path, people(500, 5), source, asked=asked)
    columns = {column.name: column for column in report.columns}
    assert columns["city"].accuracy is not None
    assert columns["city"].accuracy < 0.6
    missing = columns["income"].missing
    assert missing > 0
    assert columns["income"].accuracy is not None
    assert columns["income"].accuracy < 1 - missing


def test_two_columns_are_weighted_to_their_shares_and_hang_together_as_before() -> None:
    draws = np.random.default_rng(0)
    sex = draws.choice(["f", "m"], 20_000, p=[0.2, 0.8])
    left = np.where(draws.random(20_000) < np.where(sex == "f", 0.6, 0.1), "true", "false")
    features = features_of({"sex": "categorical", "left": "categorical"})
    table = pa.table({"c0": sex, "c1": left})
    asked = Asked(rebalance={"sex": {"f": 0.5}, "left": {"true": 0.7}})
    weights = weigh(features, asked, table).weights
    assert weights is not None
    assert weights[sex == "f"].sum() / weights.sum() == pytest.approx(0.5, abs=1e-4)
    assert weights[left == "true"].sum() / weights.sum() == pytest.approx(0.7, abs=1e-4)

    def odds(of: np.ndarray) -> float:  # type: ignore[type-arg]
        cells = [of[(sex == first) & (left == second)].sum() for first in ("f", "m") for second in ("true", "false")]
        return float(cells[0] * cells[3] / (cells[1] * cells[2]))

    assert odds(weights) == pytest.approx(odds(np.ones(20_000)), rel=1e-3)


def test_shares_out_of_reach_are_said(tmp_path: Path, source: tuple[Path, Path]) -> None:
    asked = Asked(rebalance={"city": {"Wien": 0.5, "Bern": 0.25}})
    report = report_on(tmp_path, people(100, 5), source, asked=asked)
    assert report.comparison is not None
    found = [(one.value, one.asked, round(one.reached, 4)) for one in report.comparison.unreached]
    assert found == [("Wien", 0.5, 0.0), ("Bern", 0.25, 0.5)]
    assert any("'Wien' in 'city'" in remark.text for remark in report.remarks)
    with pytest.raises(ValueError, match="'age' is to be re-balanced, but is no column of categories"):
        report_on(tmp_path, people(100, 5), source, asked=Asked(rebalance={"age": {"30": 0.5}}))


def test_numbers_are_re_balanced_however_they_are_written() -> None:
    features = features_of({"doors": "categorical"})
    asked = Asked(rebalance={"doors": {"2": 0.5}})
    weighing = weigh(features, asked, pa.table({"c0": ["2.0", "4.0", "4.0", "4.0"]}))
    assert weighing.weights is not None
    assert weighing.weights[0] == pytest.approx(weighing.weights.sum() / 2)
    assert weighing.effective_rows == pytest.approx(3.0)
    assert weighing.unreached == ()


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ({"city": "Genf"}, lambda row: row["city"] == "Genf"),
        ({"city": None, "left": "no"}, lambda row: row["city"] is None and row["left"] == "no"),
        ({"age": 30}, lambda row: row["age"] == 30),
        ({"income": None}, lambda row: np.isnan(row["income"])),
        ({"joined": "2020-05-01"}, lambda row: row["joined"] == dt.date(2020, 5, 1)),
    ],
)
def test_a_dataset_of_rows_that_are_alike_is_compared_with_such_rows(
    tmp_path: Path, where: dict[str, object], rows: Callable[[dict[str, Any]], bool]
) -> None:
    table = people(3000, 1)
    alike = [row for row in table.to_pylist() if rows(row)]
    made = pa.Table.from_pylist(alike, schema=table.schema)
    report = report_on(tmp_path, made, (keep(tmp_path, "train", table), None), asked=Asked(where=where))
    assert report.training_rows == len(alike) > 0
    assert report.fidelity is not None
    assert report.fidelity.accuracy == pytest.approx(1.0)


def test_a_dataset_that_nothing_in_its_source_is_like_is_described_alone(
    tmp_path: Path, source: tuple[Path, Path]
) -> None:
    report = report_on(tmp_path, people(60, 5), source, asked=Asked(where={"city": "Wien"}))
    assert report.fidelity is None
    assert report.privacy is None
    assert report.training_rows is None
    assert any("No row of its source has 'city' = 'Wien'" in remark.text for remark in report.remarks)
    assert "it is described alone" in report.html().decode()
