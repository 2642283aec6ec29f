"""Adapters as jobs: trained on real rows, named by the next job, several of them on one base."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from models.errors import FailureKind, ModelError
from orchestrator.settings import Settings
from tests.support.pipelines import save_pipeline
from tests.support.shards import execution_id, failure
from tests.support.text_models import save_chat_model
from tests.support.workshop import DeadlyStore, KilledError, Workshop
from workers.contracts import Part
from workers.engines import engine_of, open_engine
from workers.execute import Execution
from workers.trained_models import fetch_model

ROWS = [
    {"name": name, "colour": colour} for name in ("boot", "coat", "hat", "sock") for colour in ("red", "blue", "tan")
]
TRAINING: dict[str, Any] = {
    "family": "lora",
    "options": {"rank": 4, "dropout": 0.1, "held_out": 0.2},
    "steps": 8,
    "batch_size": 4,
    "learning_rate": 0.05,
    "log_every": 2,
    "checkpoint_every": 4,
}


@pytest.fixture
def workshop(sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[Workshop]:
    store_url = f"file://{tmp_path}/store"
    made = Workshop(Settings(database_url=sqlite_url, store_url=store_url, redis_url=redis_url), tmp_path)
    with made.http:
        yield made


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_chat_model(tmp_path_factory.mktemp("base")))


def upload(workshop: Workshop, rows: list[dict[str, Any]] = ROWS) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return str(workshop.http.put("/v1/inputs/rows.csv", content=text.getvalue().encode()).json()["uri"])


def text_training(workshop: Workshop, base: str, completion: str, **fields: Any) -> dict[str, Any]:
    data = {"file": upload(workshop), "prompt": "What is a {{ name }}?", "completion": completion, "license": "CC0-1.0"}
    return {
        "kind": "train",
        "model": "house",
        "data": data,
        "training": {**TRAINING, "base": base},
        "seed": 3,
        **fields,
    }


def asking(base: str, adapter: str | None, **fields: Any) -> dict[str, Any]:
    job = {
        "kind": "text",
        "engine": "transformers",
        "model": base,
        "source": {"items": ROWS[:3]},
        "prompt": "What is a {{ name }}?",
        "sampling": {"temperature": 0, "max_tokens": 12, "ignore_eos": True},
    }
    return {**job, **({} if adapter is None else {"adapter": adapter}), **fields}


def test_rows_become_an_adapter_that_text_jobs_name(workshop: Workshop, base: str) -> None:
    first = workshop.train_job(text_training(workshop, base, "A {{ colour }} thing!"))
    record = workshop.record(first)
    trained = record["trained"]
    assert (trained["rows"], trained["images"], trained["base"], trained["finished"]) == (12, 0, base, True)
    assert trained["metrics"]["held_out_loss"] < trained["metrics"]["held_out_loss_before"]
    folder = fetch_model(workshop.store, "house", first, workshop.cache)
    config = orjson.loads((folder / "adapter_config.json").read_bytes())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    card = (folder / "README.md").read_text()
    assert "12 rows" in card
    assert "CC0-1.0" in card
    assert trained["base_revision"] in card

    listed = {entry["id"]: entry for entry in workshop.http.get("/v1/models").json()["data"]}["house"]
    assert (listed["version"], listed["kind"], listed["base"]) == (first, "text", base)

    # Two adapters and none, at the same time, on one loaded base.
    second = workshop.train_job(text_training(workshop, base, "Zzz {{ name }} zzz", model="sleepy"))
    # One of them is named by its folder, too, which is as good.
    jobs = [asking(base, adapter) for adapter in ("house", f"sleepy@{second}", None, str(folder))]
    answers = answered_at_once(workshop, jobs)
    texts = [[record["output"] for record in records] for records in answers]
    assert len({tuple(outputs) for outputs in texts[:3]}) == 3
    assert texts[3] == texts[0]
    one, two, none, by_folder = (records[0] for records in answers)
    assert list(one["adapters"]) == [f"house@{first}"]
    assert list(two["adapters"]) == [f"sleepy@{second}"]
    assert one["adapters"][f"house@{first}"] != two["adapters"][f"sleepy@{second}"]
    assert by_folder["adapters"] == {str(folder): one["adapters"][f"house@{first}"]}
    assert "adapters" not in none
    assert one["model_revision"] == two["model_revision"] == none["model_revision"] == trained["base_revision"]


def answered_at_once(workshop: Workshop, jobs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Records of jobs whose shards one engine runs side by side."""
    ids = [workshop.post(job) for job in jobs]
    workshop.plan()
    runs = [workshop.start(workshop.take(job_id)) for job_id in ids]
    works = [run.task.work for run in runs]
    assert len({(work.model, engine_of(work)) for work in works}) == 1

    async def all_of_them() -> list[Part]:
        backend = open_engine(works[0].model, engine_of(works[0]), workshop.cache, workshop.store)
        info = await backend.load()
        try:
            return await asyncio.gather(*(run.run(backend, info) for run in runs))
        finally:
            await backend.close()

    for run, part in zip(runs, asyncio.run(all_of_them()), strict=True):
        workshop.finish(run, part)
    found = []
    for job_id in ids:
        assert workshop.job(job_id)["status"] == "completed"
        found.append(workshop.http.get(f"/v1/jobs/{job_id}/results").json()["data"])
    return found


def test_an_adapter_whose_training_was_killed_is_the_same(workshop: Workshop, base: str) -> None:
    job_id = workshop.post(text_training(workshop, base, "A {{ colour }} thing!"))
    workshop.plan()
    task = workshop.take(job_id)
    execution = execution_id()
    workshop.tell(task, "started", execution)
    deadly = DeadlyStore(workshop.store, f"000000004-{execution}/complete.json", after=True)
    run = Execution(task, execution, deadly, cache_dir=workshop.cache)
    run.granted.set()
    with pytest.raises(KilledError):
        workshop.run(run)
    workshop.tell(task, "failed", execution, failure=failure(FailureKind.ENGINE, "actor_lost"))
    again = workshop.start(workshop.take(job_id))
    workshop.finish(again, workshop.run(again))
    assert workshop.record(job_id)["training"]["resumed_at"] == 4
    through = workshop.train_job(text_training(workshop, base, "A {{ colour }} thing!", model="through"))
    assert adapter_digest(workshop, job_id) == adapter_digest(workshop, through)


def adapter_digest(workshop: Workshop, job_id: str) -> str:
    files = workshop.record(job_id)["trained"]["files"]
    [digest] = [file["sha256"] for file in files if file["name"] == "adapter_model.safetensors"]
    return str(digest)


@pytest.mark.parametrize(
    ("completion", "rows", "says"),
    [
        ("{{ colour }}", [*ROWS, {"name": "cap", "colour": ""}], "row 13: the completion is empty"),
        ("{{ colour }}", [*ROWS, {"name": "cap", "colour": "x" * 300}], "row 13: .* the model's context holds 256"),
    ],
)
def test_a_row_that_cannot_be_learned_from_is_named(
    workshop: Workshop, base: str, completion: str, rows: list[dict[str, Any]], says: str
) -> None:
    job = text_training(workshop, base, completion)
    job_id = workshop.post({**job, "data": {**job["data"], "file": upload(workshop, rows)}})
    workshop.plan()
    with pytest.raises(ModelError, match=says) as caught:
        workshop.run(workshop.start(workshop.take(job_id)))
    assert (caught.value.kind, caught.value.code) == (FailureKind.MODEL, "training_data_unreadable")


def test_a_field_that_no_row_has_fails_the_job_before_it_runs(workshop: Workshop, base: str) -> None:
    job_id = workshop.post(text_training(workshop, base, "{{ color }}"))
    workshop.plan()
    error = workshop.job(job_id)["error"]
    assert error["param"] == "data.completion"
    assert "did you mean 'colour'" in error["message"]


def test_an_adapter_of_another_model_is_refused(workshop: Workshop, base: str, tmp_path: Path) -> None:
    other = str(save_chat_model(tmp_path / "other", seed=1))
    workshop.train_job(text_training(workshop, base, "A {{ colour }} thing!"))
    asked = workshop.post(asking(other, "house"))
    workshop.plan()
    with pytest.raises(ModelError, match="was trained for") as caught:
        workshop.run(workshop.start(workshop.take(asked)))
    assert (caught.value.kind, caught.value.code) == (FailureKind.MODEL, "adapter_unfit")
    assert workshop.error(**asking("smollm2-135m", "houes")) == (
        400,
        "adapter",
        "adapter: there is no adapter 'houes'; did you mean 'house'?",
    )


IMAGE_OPTIONS: dict[str, Any] = {"rank": 4, "held_out": 0.2}
SIDE = {"width": 32, "height": 32}


def image_training(workshop: Workshop, base: str, **fields: Any) -> dict[str, Any]:
    training = {**TRAINING, "options": IMAGE_OPTIONS, "steps": 4, "checkpoint_every": 2, "base": base}
    data = {"folder": workshop.archive, **SIDE, "license": "CC0-1.0"}
    return {"kind": "train", "model": "halves", "data": data, "training": training, "seed": 3, **fields}


def painting(base: str, loras: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kind": "image",
        "model": base,
        "prompt": "{{ side }}",
        "source": {"items": [{"side": "left"}]},
        "image": {"steps": 2, "guidance": 1, **SIDE, "loras": loras},
    }


def test_images_become_an_adapter_that_image_jobs_name(workshop: Workshop, tmp_path: Path) -> None:
    base = str(save_pipeline("sd", tmp_path / "sd"))
    first = workshop.train_job(image_training(workshop, base))
    trained = workshop.record(first)["trained"]
    assert (trained["images"], trained["rows"], trained["base"], trained["width"]) == (16, 0, base, 32)
    assert trained["classes"] == ["left", "right"]
    assert {"held_out_loss", "held_out_loss_before"} == set(trained["metrics"])
    second = workshop.train_job(image_training(workshop, base, model="other", seed=4))
    jobs = [
        painting(base, loras)
        for loras in (
            [],
            [{"name": "halves", "weight": 0.8}],
            [{"name": f"other@{second}"}],
            [{"name": "halves", "weight": 0.8}, {"name": f"other@{second}", "weight": 0.5}],
        )
    ]
    records = [found for [found] in answered_at_once(workshop, jobs)]
    assert len({record["images"][0]["sha256"] for record in records}) == 4
    assert "adapters" not in records[0]
    assert list(records[1]["adapters"]) == [f"halves@{first}"]
    assert records[1]["settings"]["loras"] == {f"halves@{first}": 0.8}
    assert set(records[3]["adapters"]) == {f"halves@{first}", f"other@{second}"}
    # A replay is of the versions that the picture was made with, whatever was trained since.
    workshop.train_job(image_training(workshop, base, seed=5))
    made = job_of(workshop, records[1])
    again = workshop.http.post(f"/v1/jobs/{made}/replay?index=0&image=0").json()["id"]
    workshop.plan()
    image = workshop.take(again).work.image
    assert image is not None
    assert image.settings["loras"] == {f"halves@{first}": 0.8}
    assert "adapter of" in workshop.error(**{**painting("halves", []), "image": {}})[2]


def job_of(workshop: Workshop, record: dict[str, Any]) -> str:
    """The job that a record's picture is of."""
    return str(record["images"][0]["key"].split("/")[1])


# What diffusers does with tensors on numpy's side.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_an_adapter_of_each_family_is_the_same_after_a_kill(family: str, workshop: Workshop, tmp_path: Path) -> None:
    base = str(save_pipeline(family, tmp_path / family))
    job_id = workshop.post(image_training(workshop, base))
    workshop.plan()
    task = workshop.take(job_id)
    execution = execution_id()
    workshop.tell(task, "started", execution)
    deadly = DeadlyStore(workshop.store, f"000000002-{execution}/complete.json", after=True)
    run = Execution(task, execution, deadly, cache_dir=workshop.cache)
    run.granted.set()
    with pytest.raises(KilledError):
        workshop.run(run)
    workshop.tell(task, "failed", execution, failure=failure(FailureKind.ENGINE, "actor_lost"))
    again = workshop.start(workshop.take(job_id))
    workshop.finish(again, workshop.run(again))
    through = workshop.train_job(image_training(workshop, base, model="through"))
    assert adapter_digest(workshop, job_id) == adapter_digest(workshop, through)
    plain, tuned = answered_at_once(workshop, [painting(base, []), painting(base, [{"name": "halves"}])])
    assert plain[0]["images"][0]["sha256"] != tuned[0]["images"][0]["sha256"]
