"""Rules in job files: what goes together, and what becomes of them on the way to a worker."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from models.spec import Usage
from orchestrator.planning import plan_here
from orchestrator.spec import parse_job
from orchestrator.spec_error import SpecError
from orchestrator.static_checks import check_static
from workers.acceptance.figures import CheckFigures, RuleFigures, both
from workers.contracts import CountRange, Counts, Part, ShardReport, ShardTask, decode, encode, lowest_version

TEXT: dict[str, Any] = {"kind": "text", "model": "echo", "prompt": "{{ name }}", "source": {"items": [{"name": "x"}]}}
RULES: list[dict[str, Any]] = [
    {"words": [1, None]},
    {"required": ["{{ name }}"], "name": "named"},
    {"pii": "redact", "kinds": ["email"], "regions": ["DE"]},
    {"schema": {"type": "object", "properties": {"a": {"type": "string"}}}, "name": "shape"},
    {"judge": {"prompt": "{{ output }}", "min": 3}},
]


def test_rules_become_work_and_come_back_from_json() -> None:
    spec = parse_job({**TEXT, "accept": {"rules": RULES, "repairs": 2, "draws": 0}})
    assert parse_job(spec.to_json()) == spec
    check_static(spec, datetime.now(UTC))
    work = spec.work(None)
    task = ShardTask(job="j", shard=0, token=1, first=0, count=1, source=CountRange(start=0, count=1), work=work)
    assert lowest_version(task) == 8
    arrived = decode(encode(task), ShardTask)
    assert arrived.work.parsed_accept() == spec.accept
    assert parse_job(TEXT).work(None).accept is None


def test_a_report_says_what_rules_came_to_to_those_who_know_of_it() -> None:
    figures = CheckFigures(again=2, rules={"words": RuleFigures(rejected=2, mended=1)})
    part = Part(key="k", bytes=1, sha256="0", counts=Counts(1, 0), usage=Usage(1, 1), checks=figures)
    report = ShardReport(job="j", shard=0, token=1, execution="e", worker="w", sequence=1, event="finished", part=part)
    assert lowest_version(report) == 8
    read = decode(encode(report), ShardReport).part
    assert read == part


def test_figures_are_added_up_by_rule() -> None:
    first = CheckFigures(again=2, repaired=1, rules={"words": RuleFigures(2, 1)})
    second = CheckFigures(again=1, rules={"words": RuleFigures(1, 0, 1), "pii": RuleFigures(found=3)})
    expected = CheckFigures(3, 1, {"words": RuleFigures(3, 1, 1), "pii": RuleFigures(found=3)})
    assert both(first, second) == expected
    assert both(None, first) == both(first, None) == first
    assert both(None, None) is None


def test_what_is_drawn_without_chance_is_not_drawn_again() -> None:
    job = {**TEXT, "sampling": {"temperature": 0}, "accept": {"rules": RULES}}
    accept = parse_job(job).work(None).parsed_accept()
    assert accept is not None
    assert (accept.repairs, accept.draws) == (1, 0)


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "images": ({"kind": "image", "prompt": "x", "accept": {"rules": RULES}}, "accept", "of kind image"),
    "several results": ({"n": 3, "accept": {"rules": RULES}}, "accept", "one result an item, and n is 3"),
    "draws without chance": (
        {"sampling": {"temperature": 0}, "accept": {"rules": RULES, "draws": 2}},
        "accept.draws",
        "set draws: 0, or a temperature",
    ),
    "no rules": ({"accept": {"rules": []}}, "accept", "has neither rules nor duplicates"),
    "a misspelt rule": ({"accept": {"rules": [{"word": [1, 2]}]}}, "accept.rules[0].word", "did you mean 'words'?"),
    "too many repairs": ({"accept": {"rules": RULES, "repairs": 9}}, "accept.repairs", "at most 5"),
    "a kind of no rule": (
        {"accept": {"rules": [{"pii": "note", "kinds": ["face"]}]}},
        "accept.rules[0].kinds[0]",
        "'face' is not known",
    ),
    "an expression": ({"accept": {"rules": [{"expression": "a b"}]}}, "accept.rules[0]", "expected token"),
    "a whole object": (
        {"schema": RULES[3]["schema"], "accept": {"rules": [{"words": [1, 2]}]}},
        "accept.rules[0]",
        "name a field of it",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_with_its_place(name: str) -> None:
    fields, param, message = BAD[name]
    with pytest.raises(SpecError, match=message) as refused:
        check_static(parse_job({**TEXT, **fields}), datetime.now(UTC))
    assert refused.value.param == param


@pytest.mark.parametrize("rule", [{"numbers": ["prise"]}, {"required": ["{{ prise }}"]}, {"expression": "prise > 1"}])
def test_a_column_that_is_not_there_is_told_before_anything_runs(tmp_path: Path, rule: dict[str, Any]) -> None:
    (tmp_path / "rows.csv").write_text("name,price\na,1\n")
    job = {**TEXT, "source": {"file": str(tmp_path / "rows.csv")}, "accept": {"rules": [rule]}}
    with pytest.raises(SpecError, match=r"accept.rules\[0\] names the field 'prise'.* did you mean 'price'\?"):
        plan_here(parse_job(job))
