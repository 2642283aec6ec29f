"""Which models can be asked for, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import catalog
from models.backends.echo import EchoBackend
from models.backends.transformers import TransformersBackend
from models.backends.vllm import VllmBackend
from models.errors import FailureKind, ModelError, UnknownModelError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


def _only(monkeypatch: pytest.MonkeyPatch, *present: str) -> None:
    monkeypatch.setattr(catalog.importlib.util, "find_spec", lambda name: object() if name in present else None)


@pytest.mark.parametrize("engine", ["auto", "vllm", "transformers"])
@pytest.mark.parametrize("name", ["smollm2-135m", "HuggingFaceTB/SmolLM2-360M-Instruct"])
def test_a_known_name_and_a_hub_id_can_be_asked_for(name: str, engine: str) -> None:
    assert catalog.check_model(name, engine) is None


def test_a_folder_with_config_and_safetensors_can_be_asked_for(folder: Path) -> None:
    assert catalog.check_model(str(folder)) is None


@pytest.mark.parametrize(
    "name", ["smollm", "", "org/name/more", "../../etc/passwd/", "org/..", "a b/c", "org/na--me", "smollm2-135m ", "/"]
)
def test_any_other_name_is_unknown(name: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        catalog.check_model(name)
    assert caught.value.kind is FailureKind.MODEL


@pytest.mark.parametrize(
    ("name", "right"), [("smollm2-135", "smollm2-135m"), ("SmolLM2", "smollm2-135m"), ("ecko", "echo")]
)
def test_the_nearest_right_name_is_said(name: str, right: str) -> None:
    with pytest.raises(UnknownModelError, match=f"did you mean '{right}'"):
        catalog.check_model(name)


def test_a_name_like_no_other_is_answered_with_what_there_is() -> None:
    with pytest.raises(UnknownModelError, match="one of echo, smollm2-135m, a local folder"):
        catalog.check_model("gpt")


def test_an_unknown_engine_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match="did you mean 'vllm'") as caught:
        catalog.check_model("smollm2-135m", "vlm")
    assert caught.value.code == "unknown_engine"


@pytest.mark.parametrize(("name", "engine"), [("echo", "vllm"), ("smollm2-135m", "echo")])
def test_an_engine_that_does_not_run_the_model_is_refused(name: str, engine: str) -> None:
    with pytest.raises(UnknownModelError, match="does not run on the engine") as caught:
        catalog.check_model(name, engine)
    assert caught.value.code == "wrong_engine"


@pytest.mark.parametrize(
    ("missing", "message"), [("config.json", "has no config.json"), ("model.safetensors", r"has no \*.safetensors")]
)
def test_an_incomplete_folder_is_refused(folder: Path, missing: str, message: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(UnknownModelError, match=message):
        catalog.check_model(str(folder))


def test_pickled_weights_are_named_as_such(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnknownModelError, match=r"\.bin files are not loaded"):
        catalog.check_model(str(folder))


def test_a_folder_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnknownModelError, match="does not exist on this machine"):
        catalog.check_model("/no/such/folder")


def test_auto_takes_vllm_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, "vllm", "transformers", "torch")
    assert catalog.choose_engine("smollm2-135m") == "vllm"


def test_auto_takes_transformers_where_vllm_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, "transformers", "torch")
    assert catalog.choose_engine("smollm2-135m") == "transformers"
    assert catalog.installed_engines() == ("transformers", "echo")


@pytest.mark.parametrize("engine", ["auto", "vllm", "transformers"])
def test_an_engine_that_is_not_installed_is_answered_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    _only(monkeypatch)
    with pytest.raises(ModelError, match=r"is not installed here \(.*missing\): pip install 'nightmill\[") as caught:
        catalog.choose_engine("smollm2-135m", engine)
    assert (caught.value.kind, caught.value.code) == (FailureKind.MODEL, "engine_not_installed")


def test_a_model_can_be_asked_for_where_no_engine_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch)
    assert catalog.check_model("smollm2-135m", "vllm") is None


@pytest.mark.parametrize(
    ("name", "engine", "kind"),
    [
        ("echo", "auto", EchoBackend),
        ("smollm2-135m", "vllm", VllmBackend),
        ("smollm2-135m", "transformers", TransformersBackend),
    ],
)
def test_a_backend_is_opened_for_each_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, engine: str, kind: type
) -> None:
    _only(monkeypatch, "vllm", "transformers", "torch")
    assert isinstance(catalog.open_backend(name, engine=engine, cache_dir=tmp_path), kind)


def test_only_echo_needs_no_place() -> None:
    assert [catalog.needs_place(entry.name) for entry in catalog.list_models()] == [True, False]
