"""What a job file says of training, and what is said of one that does not fit together."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from models.errors import UnknownModelError
from models.training_run import split_version
from orchestrator.jobfile import load_job_file
from orchestrator.spec import parse_job
from orchestrator.spec_error import SpecError
from orchestrator.speeds import shape_of
from orchestrator.static_checks import check_static, may_be_trained
from orchestrator.training_source import check_data_uri
from workers.contracts import (
    CountRange,
    ShardReport,
    ShardTask,
    TrainingProgress,
    decode,
    encode,
    lowest_version,
)

JOB: dict[str, Any] = {
    "kind": "train",
    "model": "my-shoes",
    "data": {"folder": "s3://bucket/shoes/", "width": 16, "height": 12, "colour": False, "augment": {"crop": True}},
    "training": {"family": "vae", "steps": 70, "budget": "1h 30m", "options": {"width": 16}},
    "seed": 4,
}


def test_a_job_becomes_work_and_comes_back_from_json() -> None:
    spec = parse_job(JOB)
    assert parse_job(spec.to_json()) == spec
    work = spec.work(None).train
    assert work is not None
    settings = work.parsed_settings()
    assert (work.uri, work.name, work.width, work.height, work.grey) == ("s3://bucket/shoes/", "shoes", 16, 12, True)
    assert (settings.family, settings.steps, settings.minutes, settings.seed) == ("vae", 70, 90, 4)
    assert (settings.augmentation.crop, settings.options) == (True, {"width": 16})
    assert "vae of 16x12, 70 steps" in shape_of(spec)
    check_static(spec, datetime.now(UTC))


def test_a_dataset_brings_its_size() -> None:
    work = parse_job({**JOB, "data": {"dataset": "fashion-mnist"}}).work(None).train
    assert work is not None
    assert (work.uri, work.dataset, work.width, work.height, work.grey) == (None, "fashion-mnist", 28, 28, True)


def test_a_family_that_learns_captions_needs_a_folder_and_takes_larger_images() -> None:
    training = {"family": "text-diffusion"}
    work = parse_job({**JOB, "training": training, "data": {"folder": "s3://bucket/things/"}}).work(None).train
    assert work is not None
    assert (work.width, work.height, work.grey) == (64, 64, False)
    with pytest.raises(SpecError, match=r"learns from captions, which the dataset fashion-mnist has none of"):
        check_static(parse_job({**JOB, "training": training, "data": {"dataset": "fashion-mnist"}}), datetime.now(UTC))


def test_samples_come_with_losses() -> None:
    training = {"family": "gan", "log_every": 30, "sample_every": 100}
    work = parse_job({**JOB, "training": training}).work(None).train
    assert work is not None
    assert work.parsed_settings().sample_every == 90


@pytest.mark.parametrize(
    ("changed", "param", "says"),
    [
        ({"model": "My Shoes"}, "model", "small letters"),
        ({"model": "../shoes"}, "model", "small letters"),
        ({"model": "fashion-gan"}, "model", "brings along"),
        ({"model": "echo"}, "model", "brings along"),
        ({"model": ""}, "model", "empty"),
        ({"data": None}, "data", "missing"),
        ({"training": None}, "training", "missing"),
        ({"data": {}}, "data", "one of folder and dataset"),
        ({"data": {"folder": "s3://b/", "dataset": "fashion-mnist"}}, "data", "one of folder and dataset"),
        ({"data": {"folder": "s3://b/", "width": 32}}, "data", "both or neither"),
        ({"data": {"folder": "s3://b/", "width": 30, "height": 32}}, "data.width", "multiple"),
        ({"data": {"dataset": "fashion-mnist", "colour": True}}, "data", "has its own"),
        ({"data": {"dataset": "cats"}}, "data.dataset", "fashion-mnist"),
        ({"training": {"family": "unet"}}, "training.family", "'vae'"),
        ({"training": {"family": "vae", "options": {"depth": 3}}}, "training.options.depth", "depth"),
        ({"training": {"family": "vae", "budget": "soon"}}, "training.budget", "no span of time"),
        ({"training": {"family": "vae", "budget": "0m"}}, "training.budget", "no span of time"),
        ({"training": {"family": "vae", "step": 3}}, "training.step", "steps"),
        ({"prompt": "a shoe"}, "prompt", "for text"),
        ({"n": 2}, "n", "jobs with rows"),
        ({"source": {"count": 2}}, "source", "has data"),
        ({"image": {"steps": 4}}, "image", "for images"),
        ({"seed": 1 << 40}, "seed", "too high"),
        ({"kind": "text", "prompt": "x", "source": {"count": 1}}, "data", "kind: train"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as caught:
        parse_job({**JOB, **changed})
    assert caught.value.param == param


def test_a_folder_is_relative_to_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "kind: train\nmodel: m\ndata: {folder: photos}\ntraining:\n  family: vae\n  stepz: 3\n"
    )
    with pytest.raises(SpecError, match="stepz") as caught:
        load_job_file(tmp_path / "job.yaml")
    assert caught.value.line == 6
    spec = load_job_file(tmp_path / "job.yaml", ["training={family: vae}"])
    assert spec.input_file == str(tmp_path / "photos")


@pytest.mark.parametrize(
    "folder",
    [
        "/etc",
        "photos",
        "~/photos",
        "file:///etc",
        "http://a/b.tar",
        "nightmill://jobs/x/y.tar",
        "nightmill://inputs/a/b",
    ],
)
def test_a_client_cannot_name_a_folder_of_the_worker(folder: str) -> None:
    spec = parse_job({**JOB, "data": {"folder": folder}})
    with pytest.raises(SpecError) as caught:
        check_data_uri(spec)
    assert caught.value.param == "data.folder"


@pytest.mark.parametrize("folder", ["s3://bucket", "s3://bucket/x.tar", "nightmill://inputs/01A/photos.tar"])
def test_what_a_worker_can_reach_is_let_through(folder: str) -> None:
    check_data_uri(parse_job({**JOB, "data": {"folder": folder}}))


def test_only_names_that_a_model_may_have_are_looked_for() -> None:
    def job(model: str, **fields: Any) -> bool:
        spec = {"kind": "image", "model": model, "prompt": "x", "source": {"count": 1}, **fields}
        return may_be_trained(parse_job(spec))

    assert job("my-shoes")
    assert job("my-shoes@01ABC")
    assert not any(job(name) for name in ("fashion-gan", "echo", "./folder", "org/name", "My Shoes", "a@b@c", "m@.."))
    assert not job("upscale", steps=["upscale"], input="photo", prompt=None)


def test_a_trained_model_is_looked_for_where_somebody_can() -> None:
    spec = parse_job({"kind": "image", "model": "my-shoes", "prompt": "x", "source": {"count": 1}})
    check_static(spec, datetime.now(UTC))
    asked: list[str] = []

    def find(name: str) -> None:
        asked.append(name)
        raise UnknownModelError("there is none")

    with pytest.raises(SpecError, match="there is none") as caught:
        check_static(spec, datetime.now(UTC), find_trained=find)
    assert (caught.value.param, caught.value.code, asked) == ("model", "unknown_model", ["my-shoes"])


def test_names_and_versions() -> None:
    assert split_version("shoes@01A") == ("shoes", "01A")
    assert [split_version(name) for name in ("shoes", "shoes@", "@01A", "../x@01A", "x@../y", "a/b@1")] == [None] * 6


def test_only_what_is_new_needs_the_new_version() -> None:
    task = ShardTask(
        job="j", shard=0, token=1, first=0, count=1, source=CountRange(start=0, count=1), work=parse_job(JOB).work(None)
    )
    assert lowest_version(task) == 4
    assert decode(encode(task), ShardTask).work == task.work
    report = ShardReport(job="j", shard=0, token=1, execution="E", worker="w", sequence=1, event="progress")
    assert lowest_version(report) == 1
    told = ShardReport(
        job="j", shard=0, token=1, execution="E", worker="w", sequence=1, event="progress",
        training=TrainingProgress(step=1, steps=2),
    )  # fmt: skip
    assert lowest_version(told) == 4
    assert decode(encode(told), ShardReport).training == told.training
