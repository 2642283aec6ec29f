"""Image jobs as people write them: what goes together, what is said of what does not, and what travels to workers."""

from __future__ import annotations

import base64
import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from models import image_catalog
from models.errors import ModelError, UnknownModelError
from models.image_catalog import check_image_model, engine_key, open_image_backend, steps_of
from orchestrator import image_spec
from orchestrator.jobfile import load_job_file
from orchestrator.local_images import sent_along
from orchestrator.planning import default_shard_size, plan_here
from orchestrator.spec import parse_job
from orchestrator.spec_error import SpecError
from orchestrator.speeds import shape_of
from orchestrator.static_checks import check_static
from workers.contracts import CountRange, ImageWork, ShardTask, Work, decode, encode
from workers.screening import DenyList

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "kind": "image",
    "model": "echo",
    "prompt": "a {{ name }}",
    "source": {"items": [{"name": "x"}]},
}
EDIT = {"steps": ["edit"], "input": "photo"}

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({"prompt": None}, "has no prompt; the step generate"),
    "an unknown step": ({"steps": ["enhance"]}, "steps[0]: 'enhance' is not known"),
    "no step": ({"steps": []}, "steps is empty"),
    "a step twice": ({"steps": ["generate", "upscale", "upscale"]}, "steps has upscale twice"),
    "a late generate": ({"steps": ["upscale", "generate"]}, "steps: generate can only come first"),
    "two beginnings": ({"steps": ["generate", "edit"], "input": "photo"}, "edit can only come first"),
    "an edit of nothing": ({"steps": ["edit"]}, "input is missing"),
    "an upscaling of nothing": ({"steps": ["upscale"], "prompt": None}, "input is missing"),
    "an input that is not used": ({"input": "photo"}, "input is given, and the first step is generate"),
    "no mask": ({**EDIT, "steps": ["inpaint"]}, "mask is missing"),
    "a mask that is not used": ({**EDIT, "mask": "m"}, "mask is for the step inpaint"),
    "no style": ({"steps": ["generate", "style"]}, "image.style"),
    "two styles": ({"steps": ["generate", "style"], "image": {"style": "x"}, "style_image": "s"}, "one of image.style"),
    "a style image that is not used": ({"style_image": "s"}, "style_image is for the step style"),
    "a style that is not used": ({"image": {"style": "x"}}, "image.style is for the step style"),
    "a scale that is not used": ({"image": {"scale": 2}}, "image.scale is for the step upscale"),
    "a strength that is not used": ({"image": {"strength": 0.5}}, "image.strength is for edit and inpaint"),
    "a size of an upscaling": (
        {"steps": ["upscale"], "input": "photo", "prompt": None, "image": {"width": 64, "height": 64}},
        "image.width is for generate, edit and inpaint",
    ),
    "a prompt for an upscaling": ({"steps": ["upscale"], "input": "photo"}, "prompt is for generate"),
    "a negative prompt alone": ({**EDIT, "prompt": None, "negative_prompt": "x"}, "negative_prompt goes with"),
    "one side": ({"image": {"width": 64}}, "image: gives one of width and height"),
    "a huge side": ({"image": {"width": 20_000, "height": 64}}, "image.width: 20000 is not allowed"),
    "a misspelt setting": ({"image": {"guidence": 3}}, "did you mean 'guidance'"),
    "an unknown format": ({"format": "gif"}, "format: 'gif' is not known"),
    "a quality of PNG": ({"quality": 50}, "quality is for jpeg and webp"),
    "a bad quality": ({"format": "jpeg", "quality": 0}, "quality: 0"),
    "a JPEG without a background": (
        {"steps": ["generate", "remove_background"], "format": "jpeg"},
        "format is jpeg, which cannot be transparent",
    ),
    "a bad threshold": ({"safety": {"threshold": 2}}, "safety.threshold: 2"),
    "an empty phrase": ({"safety": {"deny": [""]}}, "safety.deny[0] is empty"),
    "a text's fields": ({"sampling": {"temperature": 0}}, "sampling is for text"),
    "a text's schema": ({"schema": {"type": "object"}}, "schema is for text"),
    "a text's engine": ({"engine": "vllm"}, "engine is for text"),
    "messages": ({"prompt": None, "messages": [{"role": "user", "content": "x"}]}, "messages is for text"),
    "an image's fields in a text": ({"kind": "text", "steps": ["upscale"]}, "steps is for images"),
    "a format of a text": ({"kind": "text", "format": "webp"}, "format is for images"),
    "an unknown model": ({"model": "Fashon-gan"}, "did you mean 'fashion-gan'"),
    "a text model": ({"model": "smollm2-135m"}, "writes text"),
    "an image model for a text": ({"kind": "text", "model": "fashion-gan"}, "makes images; set kind: image"),
    "a folder that is not there": ({"model": "/no/such/folder"}, "does not exist"),
    "a template that cannot be": ({"negative_prompt": "{{ name"}, "negative_prompt"),
    "a replay by hand": ({"replay": {"job": "J", "index": 0, "image": 0, "seed": 1, "batch": 1}}, "nightmill replay"),
    "no model": ({"model": None}, "model is missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_go_together_is_named(name: str) -> None:
    change, says = BAD[name]
    job = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(SpecError) as refused:
        check_static(parse_job(job), NOW)
    assert says in str(refused.value)


def test_the_line_of_a_field_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("kind: image\nmodel: echo\nprompt: x\nsource: {count: 1}\nimage:\n  style: mosaic\n")
    with pytest.raises(SpecError) as refused:
        load_job_file(path)
    assert (refused.value.param, refused.value.line) == ("image.style", 6)


def test_an_input_that_is_no_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("name,picture\na,b.png\n")
    job = {**GOOD, **EDIT, "source": {"file": str(tmp_path / "rows.csv")}}
    with pytest.raises(SpecError, match=r"input names 'photo', and there is no column of this name"):
        plan_here(parse_job(job))


def test_every_field_reaches_the_workers() -> None:
    job = parse_job(
        {
            **GOOD,
            "negative_prompt": "no {{ name }}",
            "steps": ["inpaint", "upscale", "style"],
            "input": "photo",
            "mask": "where",
            "style_image": "like",
            "image": {"width": 64, "height": 32, "scale": 2, "strength": 0.4, "loras": {"a": 0.5}},
            "format": "webp",
            "quality": 70,
            "provenance": False,
            "safety": {"threshold": 0.7, "deny": ["x y"]},
            "n": 3,
            "seed": 5,
        }
    )
    check_static(job, NOW)
    assert parse_job(job.to_json()) == job
    work = job.work(None)
    assert work.image is not None
    assert work.image.parsed_settings() == job.image
    expected = {"steps": ("inpaint", "upscale", "style"), "prompt": "a {{ name }}", "negative": "no {{ name }}"}
    expected |= {"input": "photo", "mask": "where", "style_image": "like", "format": "webp", "quality": 70}
    expected |= {"provenance": False, "nsfw_threshold": 0.7, "deny": ("x y",)}
    assert {name: getattr(work.image, name) for name in expected} == expected
    task = ShardTask(job="j", shard=0, token=1, first=0, count=1, source=CountRange(start=0, count=1), work=work)
    assert decode(encode(task), ShardTask) == msgspec.structs.replace(task, version=3)


def test_a_worker_of_the_version_before_never_half_reads_an_image_job() -> None:
    work = Work(model="echo", engine="auto", messages=(), sampling={}, seed=0, image=ImageWork(prompt="x"))
    task = ShardTask(job="j", shard=0, token=1, first=0, count=1, source=CountRange(start=0, count=1), work=work)
    assert msgspec.json.decode(encode(task))["version"] == 3
    text = msgspec.structs.replace(task, work=msgspec.structs.replace(work, image=None))
    assert "image" not in msgspec.json.decode(encode(text))["work"]


def test_a_job_of_step_engines_alone_needs_no_model() -> None:
    job = parse_job(
        {"kind": "image", "steps": ["upscale"], "input": "photo", "source": {"items": [{"photo": "s3://b/k"}]}}
    )
    check_static(job, NOW)
    assert (job.model, job.templates, shape_of(job)) == ("upscale", (), "1 images, upscale")
    assert plan_here(job).items == 1


def test_shards_of_images_are_counted_in_images() -> None:
    assert [default_shard_size(parse_job({**GOOD, "n": n})) for n in (1, 4, 64)] == [32, 8, 1]


def test_a_known_pipeline_folder_or_hub_id_can_be_asked_for(tmp_path: Path) -> None:
    check_image_model("org/some-pipeline", ["generate"])
    with pytest.raises(UnknownModelError, match=r"no model_index\.json"):
        check_image_model(str(tmp_path), ["generate"])
    (tmp_path / "model_index.json").write_text("{}")
    check_image_model(str(tmp_path), ["generate"])


def test_steps_are_known_by_their_key() -> None:
    assert steps_of(engine_key("echo", ["generate"])) == ("generate",)
    assert steps_of("vllm") is None
    assert not image_catalog.needs_place("echo", ["generate"])
    assert image_catalog.needs_place("echo", ["generate", "upscale"])


def test_an_engine_that_is_not_there_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    absent = dataclasses.replace(image_catalog.IMAGE_ENGINES["echo"], needs=("no_such_package",), install="pip x")
    monkeypatch.setitem(image_catalog.IMAGE_ENGINES, "echo", absent)
    with pytest.raises(ModelError, match=r"not installed here \(no_such_package missing\): pip x") as refused:
        engine_key("echo", ["generate"])
    assert refused.value.code == "engine_not_installed"
    gone = dataclasses.replace(absent, needs=(), backend="models.backends.nowhere:Nothing")
    monkeypatch.setitem(image_catalog.IMAGE_ENGINES, "echo", gone)
    with pytest.raises(ModelError, match="not in this installation"):
        open_image_backend("echo", ["generate"], cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A Nude figure", "Nude"),
        ("denuded hills", None),
        ("Guns  n'\nroses", "Guns  n'\nroses"),
        ("a C++ book", "C++"),
        ("a C book", None),
        ("élan", None),
        ("the ÉLA", "ÉLA"),
    ],
)
def test_denied_phrases_are_whole_words_of_any_case(text: str, found: str | None) -> None:
    assert DenyList(["nude", "guns n' roses", "c++", "éla"]).find(text) == found


def test_an_empty_deny_list_denies_nothing() -> None:
    assert DenyList([]).find("anything") is None
    assert DenyList([" "]).find("any thing") is None


def test_local_images_travel_inside_the_rows(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"pixels of a")
    (tmp_path / "rows.csv").write_text("name,photo\nx,photos/a.png\ny,s3://bucket/b.png\n")
    job = parse_job({**GOOD, **EDIT, "source": {"file": str(tmp_path / "rows.csv")}})
    with sent_along(job) as sent:
        assert sent.source.file is not None
        rows = [orjson.loads(line) for line in Path(sent.source.file).read_bytes().splitlines()]
        assert plan_here(sent).rows == 2
    assert base64.b64decode(rows[0]["photo"]) == b"pixels of a"
    assert rows[1] == {"name": "y", "photo": "s3://bucket/b.png"}


def test_local_images_of_items_are_found_beside_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"pixels of a")
    path = tmp_path / "job.yaml"
    path.write_bytes(orjson.dumps({**GOOD, **EDIT, "source": {"items": [{"name": "x", "photo": "a.png"}]}}))
    with sent_along(load_job_file(path)) as sent:
        assert sent.source.file is not None
        [row] = [orjson.loads(line) for line in Path(sent.source.file).read_bytes().splitlines()]
    assert base64.b64decode(row["photo"]) == b"pixels of a"


def test_a_local_image_that_is_not_there_is_named_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("name,photo\nx,nowhere.png\n")
    job = parse_job({**GOOD, **EDIT, "source": {"file": str(tmp_path / "rows.csv")}})
    with pytest.raises(SpecError, match=r"row 1: photo is .*nowhere\.png, which cannot be read"), sent_along(job):
        pass


def test_a_local_image_too_large_for_its_row_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.local_images.MAX_FILE", 10)
    (tmp_path / "a.png").write_bytes(b"pixels of a")
    (tmp_path / "rows.csv").write_text("name,photo\nx,a.png\n")
    job = parse_job({**GOOD, **EDIT, "source": {"file": str(tmp_path / "rows.csv")}})
    with pytest.raises(SpecError, match="put large ones into S3"), sent_along(job):
        pass


@pytest.mark.parametrize(
    "value", ["s3://b/a.png", "nightmill://inputs/1/a.png", "data:image/png;base64,AAAA", "iVBORw0KGgo=", "", 5, None]
)
def test_what_is_no_path_stays_as_it_is(value: object) -> None:
    assert image_spec.path_in(value) is None


def test_a_job_that_sends_nothing_along_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("name,photo\nx,s3://b/a.png\n")
    job = parse_job({**GOOD, **EDIT, "source": {"file": str(tmp_path / "rows.csv")}})
    with sent_along(job) as sent:
        assert sent is job
