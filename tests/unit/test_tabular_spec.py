"""What a job file says of fitting a model of tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from models.training.settings import TabularArgnOptions, family_options
from orchestrator.spec import parse_job
from orchestrator.spec_error import SpecError
from orchestrator.speeds import shape_of
from orchestrator.static_checks import check_static
from workers.contracts import ByteRange, CountRange, ShardTask, decode, encode, lowest_version

JOB: dict[str, Any] = {
    "kind": "train",
    "model": "people",
    "data": {"file": "s3://bucket/people.csv", "columns": {"phone": "text", "id": "id"}, "license": "CC0-1.0"},
    "training": {"family": "tabular-argn", "options": {"size": "S"}, "budget": "5m"},
}


def test_a_job_becomes_work_and_comes_back_from_json() -> None:
    spec = parse_job(JOB)
    assert parse_job(spec.to_json()) == spec
    check_static(spec, datetime.now(UTC))
    where = ByteRange(uri="s3://bucket/people.csv", etag="1", format="csv", offset=5, length=9, columns=("id", "phone"))
    work = spec.work(None, rows=(where,))
    assert work.train is not None
    fit, settings = work.train.fit, work.train.parsed_settings()
    assert fit is not None
    assert (fit.rows, fit.columns) == ((where,), {"phone": "text", "id": "id"})
    assert (settings.family, settings.minutes, work.train.name) == ("tabular-argn", 5, "people.csv")
    assert "tabular-argn of people.csv" in shape_of(spec)
    task = ShardTask(job="j", shard=0, token=1, first=0, count=1, source=CountRange(start=0, count=1), work=work)
    assert lowest_version(task) == 8
    assert msgspec.structs.replace(decode(encode(task), ShardTask), version=1) == task


def test_options_have_defaults_and_privacy_is_one_of_them() -> None:
    options = family_options("tabular-argn", {"dp": {"max_epsilon": 3}})
    assert isinstance(options, TabularArgnOptions)
    assert (options.held_out, options.size, options.epochs) == (0.2, "M", 100)
    assert options.dp is not None
    assert (options.dp.max_epsilon, options.dp.delta) == (3, 1e-5)
    assert TabularArgnOptions().dp is None


@pytest.mark.parametrize(
    ("changed", "param", "says"),
    [
        ({"data": {"folder": "s3://bucket/x/"}}, "data.file", "learns from the rows of a table"),
        ({"data": {"dataset": "fashion-mnist"}}, "data.file", "learns from the rows of a table"),
        (
            {"data": {"file": "s3://b/x.csv", "prompt": "x", "completion": "y"}},
            "data.prompt",
            "learns from the rows as they are",
        ),
        ({"data": {"file": "s3://b/x.csv", "columns": {"a": "number"}}}, "data.columns.a", "'categorical'"),
        (
            {"data": {"file": "s3://b/x.csv", "columns": {"a": "id"}, "prompt": "x", "completion": "y"}},
            "data",
            "columns is for a table",
        ),
        ({"data": {"folder": "s3://b/x/", "columns": {"a": "id"}}}, "data", "columns is for rows"),
        ({"data": {"file": "s3://b/x.csv", "system": "x"}}, "data", "system is for a prompt"),
        ({"training": {"family": "tabular-argn", "base": "smollm2-135m"}}, "training.base", "for the family lora"),
        ({"training": {"family": "tabular-argn", "learning_rate": 0.1}}, "training.learning_rate", "own rule"),
        ({"training": {"family": "tabular-argn", "batch_size": 32}}, "training.batch_size", "own rule"),
        ({"training": {"family": "tabular-argn", "options": {"held_out": 0.9}}}, "training.options.held_out", "0.5"),
        (
            {"training": {"family": "tabular-argn", "options": {"dp": {"epsilon": 1}}}},
            "training.options.dp.epsilon",
            "not permitted",
        ),
        ({"training": {"family": "lora", "base": "smollm2-135m"}}, "data.columns", "for tables"),
        ({"training": {"family": "vae"}}, "data.columns", "for tables"),
    ],
)
def test_what_does_not_go_together_is_said(changed: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as caught:
        parse_job({**JOB, **changed})
    assert caught.value.param == param


def test_an_adapter_still_needs_its_templates() -> None:
    lora = {"family": "lora", "base": "smollm2-135m"}
    with pytest.raises(SpecError, match=r"data\.prompt and data\.completion are missing"):
        parse_job({**JOB, "data": {"file": "s3://b/x.csv"}, "training": lora})
