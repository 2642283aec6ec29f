"""A text job with rules from its submission to its figures, over HTTP, with the test as scheduler and worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from models.backends.transformers import TransformersBackend
from orchestrator.cli.text import describe
from orchestrator.client import ApiError
from orchestrator.settings import Settings
from orchestrator.spec import parse_job
from tests.support.parrot import SEED, Parrot
from tests.support.studio import Studio
from tests.support.text_models import save_chat_model
from workers.contracts import CountRange, ShardTask
from workers.execute import Execution
from workers.store_folder import FolderStore

RULES = [
    {"required": ["please"]},
    {"expression": "index % 2 == 0 or index|string in output"},
    {"banned": ["four"], "name": "no-four"},
]
JOB: dict[str, Any] = {
    "name": "manners",
    "kind": "echo",
    "prompt": "Item {{ index }}{% if index == 4 %} four{% endif %}",
    "source": {"count": 6},
    "seed": SEED,
    "accept": {"rules": RULES, "repairs": 1, "draws": 1},
}


@pytest.fixture
def studio(sqlite_url: str, store_url: str, redis_url: str) -> Iterator[Studio]:
    made = Studio(Settings(database_url=sqlite_url, store_url=store_url, redis_url=redis_url), JOB, Parrot)
    with made.http:
        yield made


def records(studio: Studio, job_id: str) -> list[dict[str, Any]]:
    answer = studio.http.get(f"/v1/jobs/{job_id}/results/content?format=jsonl")
    return [orjson.loads(line) for line in answer.content.splitlines()]


def test_a_job_says_what_its_rules_came_to(studio: Studio) -> None:
    job_id = studio.submit()
    studio.work()
    job = studio.client.job(job_id)
    assert (job.status, job.counts.ok, job.counts.failed) == ("completed", 5, 1)
    made = records(studio, job_id)
    assert [record["checks"]["tries"] for record in made] == [2, 3, 2, 3, 3, 3]
    assert made[1]["output"] == "Item 1 please"
    assert made[4]["error"]["code"] == "rejected"
    assert "no-four: it holds 'four', which is banned" in made[4]["error"]["message"]
    assert job.checks is not None
    rules = job.checks.rules
    assert job.checks.again == 10
    assert (rules["required"].rejected, rules["required"].mended, rules["required"].failed) == (6, 5, 1)
    assert (rules["expression"].rejected, rules["expression"].mended) == (3, 3)
    assert (rules["no-four"].rejected, rules["no-four"].failed) == (3, 1)
    lines = [text for name, text in describe(job) if name == "rules"]
    assert lines[0] == "10 answers beyond the first · 2 items repaired"
    assert "no-four: 3 answers rejected · 1 failed" in lines
    shown = studio.http.get(f"/v1/jobs/{job_id}").json()["checks"]
    assert shown["rules"]["no-four"] == {"rejected": 3, "failed": 1}


def test_a_shard_whose_report_is_lost_has_the_same_figures(studio: Studio) -> None:
    first = studio.submit()
    studio.work()
    again = studio.submit()
    studio.work(lost=True)
    assert studio.client.job(again).checks == studio.client.job(first).checks
    assert records(studio, again) == records(studio, first)


def test_a_job_without_rules_says_nothing_of_them(studio: Studio) -> None:
    job_id = studio.submit(accept={"rules": [{"words": [1, 9]}]})
    studio.work()
    job = studio.client.job(job_id)
    assert (job.counts.ok, job.checks) == (6, None)
    assert "rules" not in dict(describe(job))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"accept": {"rules": [{"regex": "("}]}}, r"accept.rules\[0\]: '\(' is not a regular expression"),
        ({"accept": {"rules": [{"words": [9, 2]}]}}, r"accept.rules\[0\]: words: the least is 9, above the most, 2"),
        ({"accept": {"rules": [{"bans": ["x"]}]}}, r"accept.rules\[0\].bans: .* no field of this name; did you mean"),
        ({"accept": {"rules": [{"words": [1, 2]}]}, "n": 2}, "accept is for one result an item, and n is 2"),
        ({"accept": {"rules": [{"words": [1, 2]}], "draws": 1}, "sampling": {"temperature": 0}}, "drawn anew is the"),
        ({"accept": {"rules": [{"words": [1, 2], "field": "a"}]}}, "field is 'a', and the output is a text"),
    ],
)
def test_a_rule_that_cannot_be_checked_is_refused_at_once(studio: Studio, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiError, match=said):
        studio.submit(**fields)


def test_a_field_that_no_row_has_ends_the_job_before_it_runs(studio: Studio) -> None:
    rows = [{"name": "a"}, {"name": "b"}]
    fields = {"source": {"items": rows}, "prompt": "{{ name }}"}
    job_id = studio.submit(**fields, accept={"rules": [{"expression": "nmae in output"}]})
    studio.work()
    job = studio.client.job(job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert "accept.rules[0] names the field 'nmae'" in job.error.message
    assert "did you mean 'name'?" in job.error.message


async def test_a_language_model_is_asked_again_and_judges_beside_the_rest(tmp_path: Path) -> None:
    backend = TransformersBackend(str(save_chat_model(tmp_path / "model", context=512)), cache_dir=tmp_path)
    info = await backend.load()
    rules = [{"expression": "index % 2 == 0"}, {"judge": {"prompt": "{{ output }}", "min": 1}}]
    work = parse_job(
        {
            "model": str(tmp_path / "model"),
            "prompt": "Item {{ index }}",
            "source": {"count": 4},
            "sampling": {"max_tokens": 4},
            "accept": {"rules": rules, "repairs": 1, "draws": 1},
        }
    ).work(None)
    source = CountRange(start=0, count=4)
    task = ShardTask(job="j", shard=0, token=1, first=0, count=4, source=source, work=work)
    store = FolderStore(tmp_path / "store")
    execution = Execution(task, "E", store)
    execution.granted.set()
    try:
        part = await execution.run(backend, info)
    finally:
        await backend.close()
    made = [orjson.loads(line) for line in store.get(part.key).splitlines()]
    assert [record["status"] for record in made] == ["ok", "failed", "ok", "failed"]
    assert all(1 <= made[index]["checks"]["scores"]["judge"] <= 5 for index in (0, 2))
    assert [made[index]["checks"]["tries"] for index in (1, 3)] == [3, 3]
