"""What the command line does with linked tables before anything runs: both are planned, checked and sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.cli.output import BAD_INPUT, OK
from orchestrator.cli.previewing import some_rows
from orchestrator.cli.progress import Lines
from orchestrator.cli.running import Submission
from orchestrator.jobfile import load_job_file
from orchestrator.spec import parse_job

PARENT = "01J" + "0" * 23
FIT = """
kind: train
model: orders
data:
  file: orders.csv
  foreign_key: customer
  order_by: day
  parent: {file: people/customers.csv, key: id}
training: {family: tabular-argn}
"""
SAMPLE = f"kind: tabular\nmodel: orders\ntable: {{parent: {PARENT}}}\n"


@pytest.fixture
def nightmill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("NIGHTMILL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fit.yaml").write_text(FIT)
    (tmp_path / "sample.yaml").write_text(SAMPLE)
    rows = "".join(f"{number % 13},2024-01-{1 + number % 28:02d},{number * 7 % 50}.5\n" for number in range(100))
    (tmp_path / "orders.csv").write_text(f"customer,day,amount\n{rows}")
    (tmp_path / "people").mkdir()
    people = "".join(f"{number},{'gold' if number % 2 else 'basic'}\n" for number in range(15))
    (tmp_path / "people/customers.csv").write_text(f"id,tier\n{people}")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, list(arguments))


def test_a_plan_shows_the_columns_of_both_tables(nightmill: Callable[..., Any]) -> None:
    shown = nightmill("plan", "fit.yaml")
    assert shown.exit_code == OK, shown.output
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert "linked rows of one customer are a sequence, by day" in lines
    assert "parent people/customers.csv, a row for each id" in lines
    assert "columns customer id the job names it as the key" in lines
    assert "parent's id id the job names it as the key" in lines
    assert "tier categorical 2 different texts" in lines
    found = json.loads(nightmill("plan", "fit.yaml", "--json").stdout)
    assert {each["name"]: each["kind"] for each in found["kinds"]}["customer"] == "id"
    assert [(each["name"], each["kind"]) for each in found["parent_kinds"]] == [("id", "id"), ("tier", "categorical")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("data.parent.file=people/customer.csv", "people/customer.csv: there is no such file; did you mean"),
        ("data.parent.key=tier", "'customer' holds int64, and 'tier' of the parent string; give both texts or both"),
        ("data.parent.columns={teer: text}", "there is no column 'teer'"),
        ("data.foreign_key=amount", "data.foreign_key: column 'amount' holds double; keys are texts or whole numbers"),
        ("data.order_by=moment", "data.order_by: there is no column 'moment'"),
    ],
)
def test_what_is_wrong_with_the_tables_is_said_before_they_are_sent(
    nightmill: Callable[..., Any], change: str, says: str
) -> None:
    shown = nightmill("plan", "fit.yaml", "--set", change)
    assert shown.exit_code == BAD_INPUT
    assert says in " ".join(shown.stderr.split())


def test_a_row_of_the_parent_that_cannot_be_read_is_found(nightmill: Callable[..., Any], tmp_path: Path) -> None:
    with (tmp_path / "people/customers.csv").open("a") as file:
        file.write("15,gold,much\n")
    shown = nightmill("plan", "fit.yaml")
    assert shown.exit_code == BAD_INPUT
    assert "people/customers.csv, line 17" in shown.stderr


def test_a_plan_says_what_a_linked_table_is_made_of(nightmill: Callable[..., Any]) -> None:
    shown = nightmill("plan", "sample.yaml")
    assert shown.exit_code == OK, shown.output
    assert f"a block for each of job {PARENT}, whose rows are the subjects" in shown.stdout
    assert "as many rows as its subjects have" in shown.stdout
    assert "prompt" not in shown.stdout
    few = nightmill("plan", "sample.yaml", "--set", "table={subjects: 250, block: 100}")
    assert "items    3" in few.stdout
    assert "as many rows as 250 subjects have, in blocks of 100 subjects" in few.stdout
    bad = nightmill("plan", "sample.yaml", "--set", "table.parent=yesterday")
    assert bad.exit_code == BAD_INPUT
    assert "'yesterday' is no job's id; give that of a completed job of kind tabular" in bad.stderr


def test_a_look_at_a_linked_table_is_one_at_its_first_subjects() -> None:
    linked = some_rows(parse_job(yaml.safe_load(SAMPLE)), 7).to_json()
    assert linked["table"] == {"parent": PARENT, "subjects": 7}
    alone = some_rows(parse_job({**yaml.safe_load(SAMPLE), "table": {"subjects": 5000}}), 7).to_json()
    assert alone["table"] == {"subjects": 7}


def test_both_files_are_sent(nightmill: Callable[..., Any], tmp_path: Path) -> None:
    sent: list[Path] = []
    submitted: list[dict[str, Any]] = []

    def upload(path: Path) -> SimpleNamespace:
        sent.append(path)
        return SimpleNamespace(uri=f"nightmill://inputs/{len(sent)}/{path.name}")

    def submit(job: dict[str, Any], key: str) -> SimpleNamespace:
        submitted.append(job)
        return SimpleNamespace(id="01X")

    client: Any = SimpleNamespace(upload=upload, submit=submit)
    spec = load_job_file(tmp_path / "fit.yaml")
    assert Submission(spec).send(client, Lines(lambda _: None)) == "01X"
    assert sent == [tmp_path / "orders.csv", tmp_path / "people/customers.csv"]
    [job] = submitted
    assert job["data"]["file"] == "nightmill://inputs/1/orders.csv"
    assert job["data"]["parent"]["file"] == "nightmill://inputs/2/customers.csv"
