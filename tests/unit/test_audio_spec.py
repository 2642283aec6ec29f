"""Speech jobs as people write them: what goes together, what is said of what does not, and what travels to workers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from models.audio import AudioSettings
from models.audio_catalog import check_audio_model, engine_key, is_audio_key, needs_place, open_audio_backend
from models.errors import ModelError, UnknownModelError
from orchestrator.jobfile import load_job_file
from orchestrator.planning import plan_here
from orchestrator.spec import parse_job
from orchestrator.spec_error import SpecError
from orchestrator.speeds import shape_of
from orchestrator.static_checks import check_static
from workers.contracts import CountRange, ShardTask, decode, encode

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "kind": "audio",
    "model": "hibari-tts",
    "prompt": "The {{ name }}.",
    "source": {"items": [{"name": "tent"}]},
}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({"prompt": None}, "the job has no prompt"),
    "no model": ({"model": None}, "model is missing"),
    "an unknown model": ({"model": "hibari"}, "there is no speech model 'hibari'; did you mean 'hibari-tts'?"),
    "a text model": ({"model": "smollm2-135m"}, "writes text; for speech take hibari-tts"),
    "an image model": ({"model": "fashion-gan"}, "there is no speech model 'fashion-gan'"),
    "an unknown voice": ({"audio": {"voice": "heard"}}, "audio.voice: hibari-tts has no voice 'heard'; did you mean"),
    "an unknown language": ({"audio": {"language": "de"}}, "audio.language: hibari-tts speaks no 'de'"),
    "another English": ({"audio": {"language": "en-GB"}}, "it has heart (en-US)"),
    "too fast": ({"audio": {"speed": 3}}, "audio.speed: 3 is not allowed; it must be at most 2"),
    "too slow": ({"audio": {"speed": 0.1}}, "audio.speed: 0.1"),
    "a negative pause": ({"audio": {"pause": -1}}, "audio.pause: -1"),
    "a misspelt setting": ({"audio": {"sped": 1}}, "did you mean 'speed'"),
    "several results": ({"n": 2}, "n is for text and images; a voice speaks a text in one way"),
    "a text's fields": ({"sampling": {"temperature": 0}}, "sampling is for text"),
    "a text's schema": ({"schema": {"type": "object"}}, "schema is for text"),
    "a system message": ({"system": "x"}, "system is for text"),
    "an image's fields": ({"format": "png", "steps": ["upscale"]}, "steps is for images"),
    "an image's safety": ({"safety": {"deny": ["x"]}}, "safety is for images"),
    "a training's fields": ({"data": {"dataset": "fashion-mnist"}}, "data is for training"),
    "audio in a text": ({"kind": "text", "model": "echo", "audio": {"speed": 2}}, "audio is for speech, and the job"),
    "audio in an image": ({"kind": "image", "model": "echo", "audio": {"pause": 1}}, "set kind: audio"),
    "a speech model for a text": ({"kind": "text"}, "'hibari-tts' speaks; set kind: audio"),
    "a speech model for an image": ({"kind": "image"}, "'hibari-tts' speaks; set kind: audio"),
    "a template that cannot be": ({"prompt": "{{ name"}, "prompt"),
    "options": ({"options": {"delay_ms": 1}}, "options are for the model 'echo' alone"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_go_together_is_named(name: str) -> None:
    change, says = BAD[name]
    job = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(SpecError) as refused:
        check_static(parse_job(job), NOW)
    assert says in str(refused.value)


def test_the_line_of_a_setting_that_cannot_be_is_named(tmp_path: Any) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("kind: audio\nmodel: echo\nprompt: x\nsource: {count: 1}\naudio:\n  speed: 9\n")
    with pytest.raises(SpecError) as refused:
        load_job_file(path)
    assert (refused.value.param, refused.value.line) == ("audio.speed", 6)


def test_every_field_reaches_the_workers() -> None:
    audio = {"voice": "heart", "language": "en-US", "speed": 1.5, "pause": 0.0}
    job = parse_job({**GOOD, "audio": audio, "provenance": False, "seed": 5, "keep": ["name"]})
    check_static(job, NOW)
    assert parse_job(job.to_json()) == job
    work = job.work(None)
    assert work.audio is not None
    assert work.audio.parsed_settings() == job.audio
    assert (work.audio.prompt, work.audio.provenance, work.messages) == ("The {{ name }}.", False, ())
    task = ShardTask(job="j", shard=0, token=1, first=0, count=1, source=CountRange(start=0, count=1), work=work)
    assert decode(encode(task), ShardTask) == msgspec.structs.replace(task, version=5)
    assert "audio" not in msgspec.json.decode(encode(msgspec.structs.replace(task, work=_text())))["work"]


def _text() -> Any:
    return parse_job({"kind": "echo", "prompt": "x", "source": {"count": 1}}).work(None)


def test_a_plan_renders_what_is_spoken_and_a_missing_column_is_named() -> None:
    summary = plan_here(parse_job(GOOD))
    assert [message.content for sample in summary.samples for message in sample] == ["The tent."]
    with pytest.raises(SpecError, match="colour"):
        plan_here(parse_job({**GOOD, "prompt": "{{ colour }}"}))


def test_speeds_are_measured_apart_from_text_and_by_pace() -> None:
    one, fast = (shape_of(parse_job({**GOOD, "audio": {"speed": speed}})) for speed in (1, 2))
    assert len({one, fast, shape_of(parse_job({**GOOD, "kind": "text", "model": "echo"}))}) == 3


@pytest.mark.parametrize("language", [None, "en", "en-us", "en-US"])
def test_a_language_is_matched_by_its_tag(language: str | None) -> None:
    check_audio_model("hibari-tts", AudioSettings(language=language))
    check_audio_model("echo", AudioSettings(language=language, voice="anybody"))


def test_an_engine_is_known_by_its_key() -> None:
    key = engine_key("echo")
    assert is_audio_key(key)
    assert not is_audio_key("images:generate")
    assert (needs_place("echo"), needs_place("hibari-tts")) == (False, True)
    with pytest.raises(UnknownModelError):
        open_audio_backend("nobody")


def test_an_engine_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"hibari missing\): pip install 'nightmill\[worker\]'"):
        engine_key("hibari-tts")
