"""The text engines with a real model: what is asked of a back-end, asked of each.

An engine runs in a process of its own, which has the environment that a worker gives it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from models import smollm2, weights
from models.catalog import ENGINES, Engine, missing_packages
from models.errors import FailureKind, ModelError
from models.spec import output_seed
from tests.support.model_host import ModelHost
from tests.support.text_models import save_text_adapter

pytestmark = pytest.mark.model

CONTEXT = 8192
STORY = "Write a long story about a lighthouse keeper."
PRODUCT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "colour": {"enum": ["red", "green"]},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["name", "colour", "stars"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=["vllm", "transformers"])
def engine(request: pytest.FixtureRequest) -> Engine:
    engine: Engine = request.param
    missing = missing_packages(engine)
    if missing:
        told = f"the engine {engine} needs {', '.join(missing)}"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    return engine


@pytest.fixture(scope="module")
def host(engine: Engine, cache_dir: Path) -> Iterator[ModelHost]:
    with ModelHost(ENGINES[engine].backend, cache_dir) as host:
        yield host


def text_of(host: ModelHost, **request: Any) -> str:
    (result,) = host.ask(request)
    assert result.error is None
    return result.outputs[0].text


def test_what_it_says_of_itself(host: ModelHost, engine: Engine, cache_dir: Path) -> None:
    assert (host.info.model, host.info.engine, host.info.reproducible) == ("smollm2-135m", engine, "seeded")
    assert host.info.context_length == CONTEXT
    assert host.info.revision == weights.revision(smollm2.prepare(cache_dir))
    assert host.info.load_seconds > 0


def test_a_greedy_answer_ends_by_itself(host: ModelHost) -> None:
    (result,) = host.ask({"text": "What is the capital of France?", "max_tokens": 100})
    assert result.outputs[0].finish_reason == "stop"
    assert "Paris" in result.outputs[0].text
    assert "<|im_end|>" not in result.outputs[0].text
    assert 1 < result.usage.completion_tokens < 100
    assert result.usage.prompt_tokens > 10


def test_a_seed_gives_its_text_and_another_seed_another(host: ModelHost) -> None:
    asked = {"text": STORY, "temperature": 1.0}
    first = text_of(host, **asked, seed=11)
    assert text_of(host, **asked, seed=11) == first
    assert text_of(host, **asked, seed=12) != first


def test_each_of_n_outputs_has_its_seed_and_its_text(host: ModelHost) -> None:
    (result,) = host.ask({"text": STORY, "temperature": 1.0, "seed": 11, "n": 3, "ignore_eos": True})
    assert [output.seed for output in result.outputs] == [output_seed(11, k) for k in range(3)]
    assert len({output.text for output in result.outputs}) == 3
    (alone,) = host.ask({"text": STORY, "ignore_eos": True})
    assert result.usage.prompt_tokens == alone.usage.prompt_tokens
    assert result.usage.completion_tokens == 3 * 16


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_schema_is_followed(host: ModelHost, temperature: float) -> None:
    asked = {"text": "Invent a product.", "schema": PRODUCT, "temperature": temperature, "max_tokens": 200}
    results = host.ask(*({**asked, "seed": seed} for seed in range(4)))
    for result in results:
        assert result.error is None
        assert result.outputs[0].finish_reason == "stop"
        jsonschema.validate(orjson.loads(result.outputs[0].text), PRODUCT)


def test_a_schema_that_cannot_be_followed_costs_its_item(host: ModelHost) -> None:
    bad = {"type": "object", "properties": {"name": {"type": "no such type"}}}
    refused, good = host.ask({"text": "Hi", "schema": bad}, {"text": "Hi"})
    assert refused.error is not None
    assert refused.error.code == "invalid_request"
    assert good.error is None


def test_an_item_that_does_not_fit_fails_alone(host: ModelHost) -> None:
    before, long, after = host.ask({"text": "Hi"}, {"text": "word " * CONTEXT}, {"text": "Hello"})
    assert long.error is not None
    assert long.error.code == "context_length_exceeded"
    assert not long.outputs
    assert before.outputs
    assert after.outputs


def test_an_items_own_limit_comes_before_the_jobs(host: ModelHost) -> None:
    story = {"text": STORY, "max_tokens": 20}
    lower, higher, none = host.ask({**story, "limit": 5}, {**story, "limit": 25}, story)
    found = [(result.usage.completion_tokens, result.outputs[0].finish_reason) for result in (lower, higher, none)]
    assert found == [(5, "length"), (25, "length"), (20, "length")]


def test_an_end_that_is_ignored_is_passed(host: ModelHost) -> None:
    asked = {"text": "What is the capital of France?", "max_tokens": 40}
    own, fixed, forced = host.ask(asked, {**asked, "ignore_eos": True}, {**asked, "min_tokens": 25})
    assert own.usage.completion_tokens < 25
    assert (fixed.usage.completion_tokens, fixed.outputs[0].finish_reason) == (40, "length")
    assert 25 <= forced.usage.completion_tokens <= 40


def test_a_stop_string_ends_the_text_before_it(host: ModelHost) -> None:
    asked = {"text": "Count from one to ten in words.", "max_tokens": 30}
    whole = text_of(host, **asked)
    stop = whole[len(whole) // 2 :][:4]
    (result,) = host.ask({**asked, "stop": [stop, "no such text"]})
    assert result.outputs[0].text == whole[: whole.index(stop)]
    assert result.outputs[0].finish_reason == "stop"


def test_settings_of_neighbours_do_not_mix(host: ModelHost) -> None:
    asked = {"text": STORY, "ignore_eos": True}
    mixed = host.ask(
        asked,
        {**asked, "temperature": 1.5, "seed": 1},
        {**asked, "temperature": 2.0, "seed": 2, "top_p": 0.95, "top_k": 50, "min_p": 0.01},
        {**asked, "repetition_penalty": 1.3},
        {**asked, "temperature": 1.0, "seed": 3, "top_k": 1},
    )
    texts = [result.outputs[0].text for result in mixed]
    greedy = text_of(host, **asked)
    assert texts[0][:30] == greedy[:30]
    assert texts[4][:30] == greedy[:30]  # the likeliest token alone is what greedy takes
    assert len(set(texts[:4])) == 4


def test_a_call_that_is_left_early_is_aborted(host: ModelHost) -> None:
    endless = {"text": STORY, "max_tokens": CONTEXT - 100, "ignore_eos": True}
    (left,) = host.ask_at_once([{"text": "Hi", "limit": 2}, *[endless] * 3], leave_after=1)
    assert [result.index for result in left] == [0]
    assert text_of(host, text="What is the capital of France?")


def test_calls_at_once_each_get_their_own(host: ModelHost) -> None:
    calls = [[{"text": f"Say {word}.", "limit": limit, "ignore_eos": True} for limit in range(3, 20)] for word in "abc"]
    found = host.ask_at_once(*calls)
    assert [[result.usage.completion_tokens for result in call] for call in found] == [list(range(3, 20))] * 3


def test_long_seeded_prompts_are_read_at_once(host: ModelHost, engine: Engine) -> None:
    long = {"text": "word " * 2100, "temperature": 1.0, "limit": 3}
    # Once, vLLM read a prompt in pieces where several filled its step, which killed it where one had a seed.
    results = host.ask(*({**long, "seed": seed} for seed in range(4 if engine == "vllm" else 2)))
    assert all(result.error is None and result.usage.prompt_tokens > 2000 for result in results)


@pytest.fixture(scope="module")
def adapters(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    home = tmp_path_factory.mktemp("adapters")
    return [str(save_text_adapter(smollm2.prepare(cache_dir), home / f"{seed}", seed=seed)) for seed in (1, 2)]


def test_adapters_of_one_batch_do_not_mix(host: ModelHost, adapters: list[str]) -> None:
    asked = {"text": STORY, "ignore_eos": True}
    (alone,) = host.ask({**asked, "adapter": adapters[0]})
    one, two, none, again = host.ask(
        {**asked, "adapter": adapters[0]}, {**asked, "adapter": adapters[1]}, asked, {**asked, "adapter": adapters[0]}
    )
    texts = [result.outputs[0].text for result in (one, two, none)]
    assert len(set(texts)) == 3
    assert one.outputs == again.outputs
    # Sums differ with the batch, and then so may a late token.
    assert alone.outputs[0].text[:6] == texts[0][:6]
    assert text_of(host, **asked)[:20] == texts[2][:20]


@pytest.fixture
def lighter() -> str:
    """The back-end that is ready soonest, for what happens before an engine has a part in it."""
    return ENGINES["transformers"].backend


def test_a_local_folder_is_a_model(lighter: str, cache_dir: Path, tmp_path: Path) -> None:
    folder = smollm2.prepare(cache_dir)
    with ModelHost(lighter, tmp_path, model=str(folder)) as host:
        assert host.info.model == str(folder)
        assert text_of(host, text="What is the capital of France?")
    assert not list(tmp_path.iterdir())


def test_a_hub_that_cannot_be_reached_is_said(lighter: str, tmp_path: Path) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    with pytest.raises(ModelError, match="local folder") as caught:
        ModelHost(lighter, tmp_path, model="nobody/no-such-model", environment=nowhere)
    assert (caught.value.kind, caught.value.code) == (FailureKind.MODEL, "hub_model_unavailable")
    assert "'nobody/no-such-model'" in caught.value.message


def test_a_model_that_no_engine_knows_is_said(engine: Engine, cache_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(smollm2.prepare(cache_dir), tmp_path, dirs_exist_ok=True)
    config = orjson.loads((tmp_path / "config.json").read_bytes())
    (tmp_path / "config.json").write_bytes(
        orjson.dumps({**config, "model_type": "none", "architectures": ["NoneForCausalLM"]})
    )
    with pytest.raises(ModelError) as caught, ModelHost(ENGINES[engine].backend, tmp_path, model=str(tmp_path)):
        pass
    assert (caught.value.kind, caught.value.code) == (FailureKind.MODEL, "model_load_failed")


def test_broken_weights_are_said(lighter: str, cache_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(smollm2.prepare(cache_dir), tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError) as caught, ModelHost(lighter, tmp_path, model=str(tmp_path)):
        pass
    assert (caught.value.kind, caught.value.code) == (FailureKind.MODEL, "weights_damaged")
