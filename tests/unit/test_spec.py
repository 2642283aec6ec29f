"""Job specs: parsing, defaults, files, overrides, deadlines."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from models.spec import Message
from orchestrator.deadlines import resolve_deadline
from orchestrator.jobfile import is_local, load_job_file
from orchestrator.spec import JobSpec, parse_job
from orchestrator.spec_error import SpecError, choices, nearest
from orchestrator.static_checks import check_static, template_param
from workers.contracts import CountRange, ShardTask, decode, encode

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
FULL: dict[str, Any] = {
    "name": "autumn",
    "kind": "text",
    "model": "echo",
    "engine": "echo",
    "source": {"file": "s3://b/p.csv", "grid": {"tone": ["warm", "bold"]}, "custom_id": "sku", "delimiter": ";"},
    "messages": [{"role": "user", "content": "Hi {{ name }}"}, {"role": "assistant", "content": "Hm"}],
    "system": "Be brief",
    "sampling": {"temperature": 0.5, "stop": ["\n"]},
    "n": 2,
    "schema": {"type": "object", "properties": {"a": {"type": "string"}}},
    "seed": 7,
    "priority": "urgent",
    "deadline": "12h",
    "metadata": {"team": "web"},
    "keep": ["name"],
    "max_tokens_field": "limit",
}


def job(**changes: Any) -> JobSpec:
    return parse_job({"model": "echo", "prompt": "Hi {{ index }}", "source": {"count": 2}, **changes})


@pytest.mark.parametrize("data", [FULL, {"kind": "echo", "prompt": "x", "source": {"count": 1}}])
def test_a_job_comes_back_from_its_json(data: dict[str, Any]) -> None:
    spec = parse_job(data)
    assert parse_job(json.loads(json.dumps(spec.to_json()))) == spec


def test_what_is_left_out_has_a_default() -> None:
    spec = job()
    assert (spec.name, spec.kind, spec.engine, spec.n, spec.seed, spec.priority) == (
        "untitled", "text", "auto", 1, 0, "normal",
    )  # fmt: skip
    assert parse_job({"kind": "echo", "prompt": "x", "source": {"count": 1}}).model == "echo"
    assert spec.kept == ()
    assert job(source={"grid": {"a": [1], "b": [2]}}).kept == ("a", "b")


def test_the_work_of_a_job_travels_to_its_workers() -> None:
    spec = parse_job(FULL)
    work = spec.work("sku")
    assert work.messages[0] == Message("system", "Be brief")
    assert work.grid == {"tone": ("warm", "bold")}
    assert (work.custom_id, work.max_tokens_field, work.keep, work.n) == ("sku", "limit", ("name",), 2)
    assert work.parsed_sampling() == spec.sampling
    task = ShardTask(job="j", shard=0, token=1, first=0, count=1, source=CountRange(start=0, count=1), work=work)
    assert decode(encode(task), ShardTask) == task


def test_a_good_job_passes_the_static_checks() -> None:
    check_static(parse_job(FULL), NOW)
    check_static(job(options={"fail_rate": 0.1}), NOW, allow_faults=True)
    assert job(options={"fail_rate": 0.1}).work(None).parsed_options() is not None


def test_templates_know_where_they_come_from() -> None:
    spec = parse_job(FULL)
    assert [template_param(spec, part) for part in range(3)] == ["system", "messages[0].content", "messages[1].content"]
    assert template_param(job(), 0) == "prompt"


def test_a_job_is_an_object() -> None:
    for data in ([], "x", 5, None, True):
        with pytest.raises(SpecError, match="a job is an object of fields"):
            parse_job(data)


def test_several_mistakes_are_said_at_once_the_misspelt_key_first() -> None:
    with pytest.raises(SpecError) as caught:
        parse_job({"modle": "echo", "n": 0, "seed": -1, "priority": "high", "source": {"count": 0}})
    assert caught.value.param == "modle"
    assert str(caught.value).count(";") == 2 + 3
    assert str(caught.value).endswith("(and 2 more)")


def test_a_file_takes_its_folder_and_its_name(tmp_path: Path) -> None:
    path = tmp_path / "autumn.yaml"
    path.write_text("model: echo\nprompt: x\nsource: {file: data/p.csv}\n")
    spec = load_job_file(path)
    assert spec.source.file == str(tmp_path / "data/p.csv")
    assert spec.name == "autumn"
    path.write_text("name: n\nmodel: echo\nprompt: x\nsource: {file: 's3://b/p.csv'}\n")
    assert load_job_file(path).source.file == "s3://b/p.csv"
    path.write_text("model: echo\nprompt: x\nsource: {file: /data/p.csv}\n")
    assert load_job_file(path).source.file == "/data/p.csv"


def test_overrides_are_yaml_and_reach_into_the_job(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("model: x\nprompt: x\nsource: {count: 1}\n")
    overrides = ["model=echo", "sampling.max_tokens=64", "source.grid.tone=[warm, bold]", "prompt=a=b"]
    spec = load_job_file(path, overrides)
    assert (spec.model, spec.sampling.max_tokens, spec.prompt) == ("echo", 64, "a=b")
    assert spec.source.grid == {"tone": ["warm", "bold"]}


def test_yaml_means_what_it_shows(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "model: echo\nprompt: x\ndeadline: 2032-01-01T00:00:00Z\nsampling: {temperature: 1e-1}\n"
        "source: {grid: {v: [no, on, 12:30, 010, 1.5, true, null, 0o7, 2031-05-01]}}\n"
    )
    spec = load_job_file(path)
    assert spec.source.grid == {"v": ["no", "on", "12:30", 10, 1.5, True, None, "0o7", "2031-05-01"]}
    assert spec.deadline == "2032-01-01T00:00:00Z"
    assert spec.sampling.temperature == 0.1


def test_aliases_and_merges_work(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("model: echo\nprompt: &p x\nsystem: *p\nsource: {<<: {count: 3}}\n")
    spec = load_job_file(path)
    assert (spec.system, spec.source.count) == ("x", 3)


def test_local_files_are_told_from_uris() -> None:
    assert is_local("products.csv")
    assert not is_local("s3://b/p.csv")
    assert not is_local("nightmill://inputs/1/p.csv")


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("1d 2h30m5s", timedelta(days=1, hours=2, minutes=30, seconds=5)),
        ("2031-05-01T13:00:00Z", timedelta(hours=1)),
        ("2031-05-01 16:00+02:00", timedelta(hours=2)),
    ],
)
def test_deadlines_are_spans_or_moments(text: str, length: timedelta) -> None:
    assert resolve_deadline(text, NOW) == NOW + length
    assert resolve_deadline(text, NOW.astimezone(timezone(timedelta(hours=5)))).tzinfo is UTC


@pytest.mark.parametrize("text", ["", "5", "h", "-5h", "12 hours", "9999-99-99", "0001-01-01T00:00:00+14:00", "1h1d"])
def test_other_deadlines_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="deadline"):
        resolve_deadline(text, NOW)


def test_errors_say_their_place_and_take_one_only_once() -> None:
    error = SpecError("is wrong", param="x").at(file="job.yaml", line=3)
    assert str(error) == "job.yaml, line 3: is wrong"
    assert str(error.at(file="other.yaml", line=9)) == "job.yaml, line 3: is wrong"
    assert str(SpecError("is wrong")) == "is wrong"


def test_names_are_guessed() -> None:
    assert nearest("Price", ["name", "price"]) == "price"
    assert nearest("zzz", ["name", "price"]) is None
    assert choices("zzz", ["name", "price"]) == "there is name, price"
    assert choices("zzz", []) == "there are none"
    assert choices("zzz", map(str, range(20))).endswith("11, …")
