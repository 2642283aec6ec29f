"""What a job file says of adapters: of one to train, and of those to use."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from models.errors import UnknownModelError
from orchestrator.planning import training_rows
from orchestrator.source_files import Staging
from orchestrator.spec import parse_job
from orchestrator.spec_error import SpecError
from orchestrator.speeds import shape_of
from orchestrator.static_checks import adapter_versions, check_static
from workers.contracts import ByteRange, CountRange, ShardTask, decode, encode, lowest_version
from workers.sources import read_rows
from workers.store_folder import FolderStore
from workers.trained_models import TrainedModel

JOB: dict[str, Any] = {
    "kind": "train",
    "model": "house",
    "data": {
        "file": "s3://bucket/rows.csv",
        "system": "Be brief.",
        "prompt": "Say {{ name }}",
        "completion": "{{ text }}",
    },
    "training": {"family": "lora", "base": "smollm2-135m", "options": {"rank": 4}},
}
TEXT: dict[str, Any] = {"model": "smollm2-135m", "prompt": "x", "source": {"count": 1}}
IMAGE: dict[str, Any] = {"kind": "image", "model": "org/sd", "prompt": "x", "source": {"count": 1}}


def trained(name: str, **changed: Any) -> TrainedModel:
    fields: dict[str, Any] = {"base": "smollm2-135m", "rows": 3, **changed}
    fixed: dict[str, Any] = dict.fromkeys(("width", "height", "channels", "images", "step", "trained_at", "seconds"), 0)
    text: dict[str, Any] = dict.fromkeys(("family", "source", "license"), "")
    return TrainedModel(
        name=name, version="01V", classes=(), finished=True, losses={}, files=(), **fixed, **text, **fields
    )


def test_a_job_becomes_work_and_comes_back_from_json() -> None:
    spec = parse_job(JOB)
    assert parse_job(spec.to_json()) == spec
    check_static(spec, datetime.now(UTC))
    where = ByteRange(uri="s3://bucket/rows.csv", etag="1", format="csv", offset=5, length=9, columns=("name", "text"))
    work = spec.work(None, rows=(where,))
    assert work.train is not None
    tune, settings = work.train.tune, work.train.parsed_settings()
    assert tune is not None
    assert (tune.base, tune.rows) == ("smollm2-135m", (where,))
    assert [message.role for message in tune.messages] == ["system", "user", "assistant"]
    assert (settings.family, settings.steps, settings.batch_size, settings.average) == ("lora", 300, 8, 0.0)
    assert "lora of smollm2-135m, 300 steps" in shape_of(spec)
    task = ShardTask(job="j", shard=0, token=1, first=0, count=1, source=CountRange(start=0, count=1), work=work)
    assert lowest_version(task) == 7
    assert msgspec.structs.replace(decode(encode(task), ShardTask), version=1) == task


def test_work_that_names_an_adapter_is_not_for_those_that_know_none() -> None:
    def version(job: dict[str, Any], **adapters: str) -> int:
        work = parse_job(job).work(None, adapters=adapters)
        source = CountRange(start=0, count=1)
        return lowest_version(ShardTask(job="j", shard=0, token=1, first=0, count=1, source=source, work=work))

    assert version(TEXT) == 1
    assert version({**TEXT, "adapter": "house"}, house="house@01V") == 7
    assert version({**IMAGE, "image": {"loras": {"/mine": 1}}}) == 3
    assert version({**IMAGE, "image": {"loras": {"house": 1}}}, house="house@01V") == 7


def test_adapters_of_images_are_written_as_a_list_or_by_name() -> None:
    listed = parse_job({**IMAGE, "image": {"loras": [{"name": "house", "weight": 0.8}, {"name": "/mine"}]}})
    assert listed == parse_job({**IMAGE, "image": {"loras": {"house": 0.8, "/mine": 1.0}}})
    work = listed.work(None, adapters={"house": "house@01V"}).image
    assert work is not None
    assert (work.settings["loras"], work.adapters) == ({"house@01V": 0.8, "/mine": 1.0}, ("house@01V",))
    with pytest.raises(SpecError, match="twice"):
        parse_job({**IMAGE, "image": {"loras": [{"name": "house"}, {"name": "house"}]}})


def test_rows_are_planned_where_they_are(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("inputs/01A/rows.csv", b"name,text\nboot,a\n\nhat,b\n")
    spec = parse_job({**JOB, "data": {**JOB["data"], "file": "nightmill://inputs/01A/rows.csv"}})
    found = training_rows(spec, store, Staging(store, "staged"))
    rows = [row for source in found for row in read_rows(source, store)]
    assert rows == [{"name": "boot", "text": "a"}, {"name": "hat", "text": "b"}]
    store.put("inputs/01B/rows.csv", b"name,text\nboot,a\n\nhat\n")
    bad = parse_job({**JOB, "data": {**JOB["data"], "file": "nightmill://inputs/01B/rows.csv"}})
    with pytest.raises(SpecError, match="line 4"):
        training_rows(bad, store, Staging(store, "staged"))


@pytest.mark.parametrize(
    ("changed", "param", "says"),
    [
        ({"training": {"family": "lora"}}, "training.base", "missing"),
        ({"training": {"family": "lora", "base": "smollm3"}}, "training.base", "no model 'smollm3'"),
        ({"training": {"family": "lora", "base": "fashion-gan"}}, "training.base", "makes images"),
        (
            {"training": {"family": "lora", "base": "smollm2-135m", "options": {"rank": 99}}},
            "training.options.rank",
            "32",
        ),
        ({"training": {"family": "vae", "base": "smollm2-135m"}}, "training.base", "for the family lora"),
        ({"training": {"family": "vae"}}, "data.file", "for the family lora"),
        ({"data": {"folder": "s3://bucket/x/"}}, "training.base", "writes text"),
        ({"data": {"dataset": "fashion-mnist"}}, "data.dataset", "not for an adapter"),
        ({"data": {"file": "s3://b/x.csv", "prompt": "x"}}, "data", "completion is missing"),
        ({"data": {"file": "s3://b/x.csv", "prompt": "{{ x", "completion": "y"}}, "data.prompt", "line 1"),
        (
            {"data": {"file": "s3://b/x.csv", "prompt": "x", "completion": "y", "width": 8, "height": 8}},
            "data",
            "width",
        ),
        ({"data": {"folder": "s3://b/", "system": "x"}}, "data", "system is for rows"),
        ({"adapter": "house"}, "adapter", "for jobs with rows"),
    ],
)
def test_what_does_not_go_together_is_said(changed: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as caught:
        check_static(parse_job({**JOB, **changed}), datetime.now(UTC))
    assert caught.value.param == param


def test_an_adapter_is_pinned_and_must_be_of_the_jobs_model() -> None:
    spec = parse_job({**TEXT, "adapter": "house"})
    assert adapter_versions(spec, trained) == {"house": "house@01V"}
    assert adapter_versions(parse_job({**TEXT, "adapter": "./mine"}), trained) == {}
    for changed, says in (({"base": "org/other"}, "trained for 'org/other'"), ({"rows": 0}, "an adapter for images")):
        with pytest.raises(SpecError, match=says) as caught:
            adapter_versions(spec, lambda name, changed=changed: trained(name, **changed))
        assert caught.value.param == "adapter"

    def unknown(name: str) -> TrainedModel:
        raise UnknownModelError(f"there is no adapter {name!r}")

    with pytest.raises(SpecError, match=r"image\.loras: there is no adapter 'house'"):
        check_static(parse_job({**IMAGE, "image": {"loras": {"house": 1}}}), datetime.now(UTC), find_adapter=unknown)
    with pytest.raises(SpecError, match="can be no adapter's name"):
        check_static(parse_job({**TEXT, "adapter": "../house"} | {"adapter": "My House"}), datetime.now(UTC))
