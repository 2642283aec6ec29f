"""What the operator forbids: read from a file, and never laxer than it or the job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.spec import Message, ModelInfo
from orchestrator.image_spec import Safety
from orchestrator.safety_policy import NO_POLICY, PolicyError, SafetyPolicy, load_policy, restrict
from workers.contracts import CountRange, ImageWork, ShardTask, TrainWork, Work, decode, encode
from workers.image_items import ImageItems
from workers.screening import DenyList
from workers.text_items import TextItems

INFO = ModelInfo(model="m", revision="r", engine="e", context_length=9, reproducible="exact", shards_in_flight=1)
THRESHOLDS = st.none() | st.floats(0, 1)
PHRASES = st.lists(st.sampled_from(["red", "blue shoe", "x-ray"]), max_size=3).map(tuple)
RULES = st.builds(Safety, threshold=THRESHOLDS, deny=PHRASES)


def image_work(*, threshold: float | None = None, deny: tuple[str, ...] = ()) -> Work:
    image = ImageWork(prompt="{{ index }} {{ what }}", nsfw_threshold=threshold, deny=deny)
    return Work(model="m", engine="auto", messages=(), sampling={}, seed=1, image=image)


def task(work: Work, count: int = 1) -> ShardTask:
    source = CountRange(start=0, count=count)
    return ShardTask(job="j", shard=0, token=1, first=0, count=count, source=source, work=work)


def denied(work: Work, text: str) -> bool:
    """What the worker will do with a prompt of a job."""
    assert work.image is not None
    return any(DenyList(phrases).find(text) is not None for phrases in (work.deny, work.image.deny))


@given(own=RULES, rules=RULES, score=st.floats(0, 1), text=st.sampled_from(["a RED hat", "blue  shoe", "X-ray", "tea"]))
def test_what_either_forbids_is_forbidden_and_nothing_else(own: Safety, rules: Safety, score: float, text: str) -> None:
    made = restrict(image_work(threshold=own.threshold, deny=own.deny), rules)
    assert made.image is not None
    limits = [limit for limit in (own.threshold, rules.threshold) if limit is not None]
    blocked = made.image.nsfw_threshold is not None and score >= made.image.nsfw_threshold
    assert blocked == any(score >= limit for limit in limits)
    assert denied(made, text) == any(DenyList(one.deny).find(text) is not None for one in (own, rules))
    assert restrict(made, rules) == made


def test_rules_of_a_tenant_stand_in_place_of_the_defaults_that_they_name() -> None:
    policy = SafetyPolicy.model_validate(
        {
            "default": {"threshold": 0.9, "deny": ["weapon"]},
            "tenants": {"acme": {"threshold": 0.7}, "clinic": {"threshold": None, "deny": []}},
        }
    )
    assert policy.rules("nobody") == Safety(threshold=0.9, deny=("weapon",))
    assert policy.rules("acme") == Safety(threshold=0.7, deny=("weapon",))
    assert policy.rules("clinic") == Safety()
    assert NO_POLICY.rules("acme") == Safety()


def test_a_policy_is_read_from_yaml_or_json(tmp_path: Path) -> None:
    written = {"default": {"deny": ["weapon"]}, "tenants": {"acme": {"threshold": 0.7}}}
    (tmp_path / "safety.json").write_bytes(orjson.dumps(written))
    (tmp_path / "safety.yaml").write_text("default: {deny: [weapon]}\ntenants:\n  acme: {threshold: 0.7}\n")
    assert load_policy(tmp_path / "safety.json") == load_policy(tmp_path / "safety.yaml")
    assert load_policy(tmp_path / "safety.yaml") == SafetyPolicy.model_validate(written)
    assert load_policy(None) == NO_POLICY


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("default:\n  treshold: 0.5\n", "line 2: default.treshold: default has no field of this name; did you mean"),
        ("tenants:\n  acme:\n    treshold: 0.5\n", "line 3: tenants.acme.treshold: tenants.acme has no field"),
        (
            "tenants:\n  acme: {threshold: 7}\n",
            "line 2: tenants.acme.threshold: 7 is not allowed; it must be",
        ),
        ("defaults: {}\n", "line 1: defaults: a safety policy has no field of this name; did you mean 'default'?"),
        ("default: {deny: weapon}\n", "line 1: default.deny must be a list, not the text 'weapon'"),
        ("default: {deny: [a, 7]}\n", "line 1: default.deny[1] must be text, not the number 7"),
        ("default: {}\ndefault: {}\n", "line 2: default is given twice"),
        ("default: {\n", "is not valid YAML"),
        ("- default\n", "a safety policy is an object with default and tenants, not a list"),
        ("", "a safety policy is an object with default and tenants, not nothing"),
    ],
)
def test_a_bad_policy_says_where_and_what(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "safety.yaml"
    file.write_text(text)
    with pytest.raises(PolicyError) as caught:
        load_policy(file)
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(file))


def test_a_policy_that_is_not_there_is_not_none(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="there is no such safety policy"):
        load_policy(tmp_path / "nowhere.yaml")


def test_only_a_process_that_knows_of_it_reads_a_shard_with_a_denied_phrase() -> None:
    plain, told = task(image_work()), task(restrict(image_work(), Safety(deny=("weapon",))))
    assert b'"version":3' in encode(plain).encode()
    assert b'"version":5' in encode(told).encode()
    assert decode(encode(told), ShardTask).work == told.work


def test_a_training_job_has_nothing_to_forbid() -> None:
    train = TrainWork(settings={})
    work = Work(model="m", engine="auto", messages=(), sampling={}, seed=1, train=train)
    assert restrict(work, Safety(threshold=0.1, deny=("weapon",))) == work


def test_whose_phrase_it_was_is_told_and_no_other() -> None:
    work = restrict(image_work(deny=("green",)), Safety(deny=("secret word", "blue")))
    rows: list[dict[str, Any]] = [{"what": what} for what in ("red hat", "Blue hat", "green hat")]
    items = ImageItems(task(work, 3), INFO, [{"index": k, **row} for k, row in enumerate(rows)], {})
    assert [ask.index for ask in items.asks] == [0]
    _, theirs, own = (line and orjson.loads(line)["error"] for line in items._lines)
    assert theirs == {"code": "prompt_denied", "message": "the prompt holds 'Blue', which this service does not allow"}
    assert own["message"] == "the prompt holds 'green', which the job's deny-list names"
    assert "secret" not in f"{theirs}{own}"


def test_it_holds_for_every_message_of_a_text_job() -> None:
    messages = (Message("system", "You like {{ what }}."), Message("user", "{{ index }}"))
    plain = Work(model="m", engine="auto", messages=messages, sampling={}, seed=1)
    work = restrict(plain, Safety(threshold=0.5, deny=("weapons",)))
    rows = [{"index": 0, "what": "tea"}, {"index": 1, "what": "WEAPONS"}]
    items = TextItems(task(work, 2), INFO, rows, {})
    assert [request.index for request in items.requests] == [0]
    assert items.counts.failed == 1


def test_of_two_new_things_in_a_shard_the_newer_says_which_version_it_is() -> None:
    work = msgspec.structs.replace(restrict(image_work(), Safety(deny=("weapon",))), upstream=("captions",))
    assert b'"version":6' in encode(task(work)).encode()
