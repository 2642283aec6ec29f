"""A training job from its submission to a model that the next job names, with the test as scheduler and worker."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from PIL import Image
from sqlalchemy import select
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.errors import FailureKind, ModelError
from orchestrator import database, tables
from orchestrator.cli.text import describe
from orchestrator.collector import Collector
from orchestrator.model_catalog import TrainedModels
from orchestrator.settings import Settings
from orchestrator.training_source import packed
from tests.support.shards import execution_id, failure
from tests.support.workshop import JOB, LATER, STEPS, DeadlyStore, KilledError, Workshop
from workers.execute import Execution
from workers.keys import checkpoints_prefix
from workers.trained_models import fetch_model, read_model


@pytest.fixture
def workshop(sqlite_url: str, store_url: str, redis_url: str, tmp_path: Path) -> Iterator[Workshop]:
    settings = Settings(database_url=sqlite_url, store_url=store_url, redis_url=redis_url)
    made = Workshop(settings, tmp_path)
    with made.http:
        yield made


def image_job(model: str, **fields: Any) -> dict[str, Any]:
    source = {"grid": {"side": ["left", "right"]}}
    return {"kind": "image", "model": model, "prompt": "{{ side }}", "source": source, **fields}


def test_a_folder_becomes_a_model_that_the_next_job_names(workshop: Workshop, tmp_path: Path) -> None:
    job_id = workshop.train()
    job = workshop.job(job_id)
    training = job["training"]
    assert (training["step"], training["steps"], training["checkpoint"]) == (STEPS, STEPS, STEPS)
    assert training["images_per_second"] > 0
    shown = dict(describe_of(workshop, job_id))
    assert f"step {STEPS} of {STEPS}" in shown["training"]
    assert shown["model"] == f"halves@{job_id}"

    record = workshop.record(job_id)
    trained = record["trained"]
    assert (record["status"], record["model"]) == ("ok", f"halves@{job_id}")
    assert (trained["classes"], trained["images"], trained["finished"]) == (["left", "right"], 16, True)
    assert {file["name"] for file in trained["files"]} == {
        "model.safetensors",
        "config.json",
        "README.md",
        "samples.png",
    }
    model = read_model(workshop.store, "halves", job_id)
    assert model is not None
    folder = fetch_model(workshop.store, "halves", job_id, tmp_path / "other-cache")
    card = (folder / "README.md").read_text()
    assert "CC0-1.0" in card
    assert "the folder photos: 16 images" in card
    assert str(tmp_path) not in card

    # What there was to look at meanwhile.
    samples = workshop.http.get(f"/v1/jobs/{job_id}/training/samples")
    assert samples.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(samples.content)) as picture:
        assert picture.size == (16, 40)
    losses = workshop.http.get(f"/v1/jobs/{job_id}/training/losses").text.splitlines()
    assert [orjson.loads(line)["step"] for line in losses] == [2, 4, 6, 8, 10, 12]
    assert events_of(workshop, training["events"], tmp_path) == [2, 4, 6, 8, 10, 12]

    # The next job.
    listed = {entry["id"]: entry for entry in workshop.http.get("/v1/models").json()["data"]}
    assert (listed["halves"]["version"], listed["halves"]["classes"]) == (job_id, ["left", "right"])
    answer = workshop.http.post("/v1/jobs", json=image_job("halves", n=2))
    assert answer.status_code == 200, answer.text
    pictures = answer.json()["id"]
    workshop.plan()
    task = workshop.take(pictures)
    assert task.work.model == f"halves@{job_id}"
    run = workshop.start(task)
    workshop.finish(run, workshop.run(run))
    records = workshop.http.get(f"/v1/jobs/{pictures}/results").json()["data"]
    assert [len(found["images"]) for found in records] == [2, 2]
    assert {found["reproducible"] for found in records} == {"exact"}
    assert records[0]["images"][0]["width"] == 8


def test_pictures_with_captions_become_a_model_that_draws_what_the_next_job_says(
    workshop: Workshop, tmp_path: Path
) -> None:
    folder = tmp_path / "things"
    folder.mkdir()
    captions = []
    for number, colour in enumerate(("red", "blue") * 4):
        Image.new("RGB", (20, 20), colour).save(folder / f"{number}.png")
        captions.append({"file_name": f"{number}.png", "text": [f"a {colour} thing", f"thing in {colour}"]})
    (folder / "captions.jsonl").write_bytes(b"\n".join(map(orjson.dumps, captions)))
    with packed(folder) as archive:
        uri = workshop.http.put("/v1/inputs/things.tar", content=archive.read_bytes()).json()["uri"]
    options = {"latent": 4, "code_width": 8, "code_steps": 2, "widths": [32], "layers": 1}
    training = {"family": "text-diffusion", "options": options, "steps": 4, "batch_size": 4, "log_every": 2}
    job_id = workshop.train(model="things", training=training, data={"folder": uri, "width": 16, "height": 16})
    trained = workshop.record(job_id)["trained"]
    assert (trained["family"], trained["classes"], trained["images"]) == ("text-diffusion", [], 8)
    assert trained["source"] == "the folder things: 8 images with 16 captions"

    source = {"items": [{"text": "a red thing"}, {"text": "eine blaue Sache"}]}
    job = image_job("things", prompt="{{ text }}", source=source, image={"steps": 2})
    pictures = workshop.http.post("/v1/jobs", json=job).json()["id"]
    workshop.plan()
    run = workshop.start(workshop.take(pictures))
    workshop.finish(run, workshop.run(run))
    records = workshop.http.get(f"/v1/jobs/{pictures}/results").json()["data"]
    assert [found["status"] for found in records] == ["ok", "ok"]
    assert len({found["images"][0]["sha256"] for found in records}) == 2


def test_a_file_of_captions_that_is_wrong_fails_the_training_with_its_line(workshop: Workshop, tmp_path: Path) -> None:
    folder = tmp_path / "things"
    folder.mkdir()
    Image.new("RGB", (20, 20)).save(folder / "1.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "a thing"}\n{"file_name": "2.png"}\n')
    with packed(folder) as archive:
        uri = workshop.http.put("/v1/inputs/things.tar", content=archive.read_bytes()).json()["uri"]
    job_id = workshop.submit(training={"family": "text-diffusion"}, data={"folder": uri})
    workshop.plan()
    with pytest.raises(ModelError, match=r"^metadata\.jsonl, line 2: text: Field required"):
        workshop.run(workshop.start(workshop.take(job_id)))


def describe_of(workshop: Workshop, job_id: str) -> Iterator[tuple[str, str]]:
    return describe(workshop.services.jobs.get(job_id))


def events_of(workshop: Workshop, key: str, folder: Path) -> list[int]:
    (folder / "events").mkdir()
    (folder / "events" / key.rpartition("/")[2]).write_bytes(workshop.store.get(key))
    events = EventAccumulator(str(folder / "events"))
    events.Reload()
    return [scalar.step for scalar in events.Scalars("loss/loss")]


@pytest.mark.parametrize(
    ("key", "after", "resumed"),
    [
        ("000000008-{execution}/complete.json", False, 4),
        ("000000008-{execution}/complete.json", True, 8),
        ("models/halves", False, 12),
    ],
)
def test_a_training_that_was_killed_ends_with_the_same_weights(
    workshop: Workshop, key: str, after: bool, resumed: int
) -> None:
    job_id = workshop.submit()
    workshop.plan()
    task = workshop.take(job_id)
    execution = execution_id()
    workshop.tell(task, "started", execution)
    deadly = DeadlyStore(workshop.store, key.format(execution=execution), after=after)
    run = Execution(task, execution, deadly, cache_dir=workshop.cache)
    run.granted.set()
    with pytest.raises(KilledError):
        workshop.run(run)
    workshop.tell(task, "failed", execution, failure=failure(FailureKind.ENGINE, "actor_lost"))

    again = workshop.start(workshop.take(job_id))
    workshop.finish(again, workshop.run(again))
    record = workshop.record(job_id)
    assert record["training"].get("resumed_at", 0) == resumed
    assert workshop.weights(job_id) == workshop.weights(workshop.train(model="uninterrupted"))
    # The losses are those of one training, whoever made the steps.
    losses = workshop.http.get(f"/v1/jobs/{job_id}/training/losses").text.splitlines()
    assert [orjson.loads(line)["step"] for line in losses] == [2, 4, 6, 8, 10, 12]


def test_a_training_that_is_stopped_keeps_the_step_that_it_was_at(workshop: Workshop) -> None:
    steps = {"steps": 24, "checkpoint_every": 1000}
    job_id = workshop.submit(training={**JOB["training"], **steps})
    workshop.plan()
    task = workshop.take(job_id)
    run = workshop.start(task)
    workshop.stop(run, 3)
    stopped = run.progress().training
    assert stopped is not None
    assert stopped.checkpoint is not None
    assert 3 <= stopped.checkpoint < 24
    execution = stopped.history.split("/")[3] if stopped.history else ""
    workshop.tell(task, "handed_back", execution, training=stopped)
    again = workshop.start(workshop.take(job_id))
    workshop.finish(again, workshop.run(again))
    assert workshop.record(job_id)["training"]["resumed_at"] == stopped.checkpoint
    assert workshop.weights(job_id) == workshop.weights(
        workshop.train(model="uninterrupted", training={**JOB["training"], **steps})
    )
    assert list((workshop.cache / "training").iterdir()) == []


def test_a_stale_execution_changes_nothing(workshop: Workshop) -> None:
    job_id = workshop.submit()
    workshop.plan()
    task = workshop.take(job_id)
    stale = workshop.start(task)
    [name] = executions(workshop, job_id)
    workshop.tell(task, "failed", name, failure=failure(FailureKind.ENGINE, "actor_lost"))
    run = workshop.start(workshop.take(job_id))
    workshop.finish(run, workshop.run(run))
    before = objects(workshop, f"models/halves/{job_id}/")
    late = workshop.run(stale)
    workshop.finish(stale, late)
    after = objects(workshop, f"models/halves/{job_id}/")
    assert before.items() <= after.items()
    model = read_model(workshop.store, "halves", job_id)
    assert model is not None
    assert name not in model.files[0].key

    # An hour later what it left is gone, and so are the checkpoints. The model outlives its job.
    swept = Collector(
        workshop.services.engine, workshop.store, lease_seconds=60, retention_days=0, clock=lambda: time.time() + LATER
    )
    assert swept.step() > 0
    assert objects(workshop, f"models/halves/{job_id}/") == before
    assert objects(workshop, checkpoints_prefix(job_id)) == {}
    removed = Collector(
        workshop.services.engine, workshop.store, lease_seconds=60, retention_days=1, clock=lambda: time.time() + 1e6
    )
    removed.step()
    assert objects(workshop, f"jobs/{job_id}/") == {}
    assert TrainedModels(workshop.services.engine, workshop.store).find("halves").version == job_id


def executions(workshop: Workshop, job_id: str) -> list[str]:
    with database.reading(workshop.services.engine) as connection:
        return list(connection.scalars(select(tables.Execution.id).where(tables.Execution.job_id == job_id)))


def objects(workshop: Workshop, prefix: str) -> dict[str, bytes]:
    return {key: workshop.store.get(key) for key in workshop.store.list(prefix)}


def test_a_version_stays_whatever_is_trained_later(workshop: Workshop) -> None:
    first = workshop.train()
    pictures = workshop.http.post("/v1/jobs", json=image_job("halves")).json()["id"]
    workshop.plan()
    second = workshop.train(seed=4)
    assert workshop.take(pictures).work.model == f"halves@{first}"
    newest = workshop.http.post("/v1/jobs", json=image_job("halves")).json()["id"]
    old = workshop.http.post("/v1/jobs", json=image_job(f"halves@{first}")).json()["id"]
    workshop.plan()
    assert workshop.take(newest).work.model == f"halves@{second}"
    assert workshop.take(old).work.model == f"halves@{first}"
    assert workshop.error(**image_job("halves@01NONE")) == (
        400,
        "model",
        f"model: the model 'halves' has no version '01NONE'; its newest is halves@{second}",
    )
    assert "did you mean 'halves'" in workshop.error(**image_job("halvse"))[2]


def test_a_model_that_was_damaged_is_not_served(workshop: Workshop, tmp_path: Path) -> None:
    job_id = workshop.train()
    model = read_model(workshop.store, "halves", job_id)
    assert model is not None
    folder = fetch_model(workshop.store, "halves", job_id, tmp_path / "cache2")
    (folder / "model.safetensors").write_bytes(b"a disk that lost something")
    again = fetch_model(workshop.store, "halves", job_id, tmp_path / "cache2")
    assert (again / "model.safetensors").stat().st_size == next(
        file.bytes for file in model.files if file.name == "model.safetensors"
    )
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [job_id]
    workshop.store.put(model.files[0].key, b"something else")
    with pytest.raises(ModelError) as caught:
        fetch_model(workshop.store, "halves", job_id, tmp_path / "cache3")
    assert caught.value.code == "weights_damaged"


def test_shards_that_ask_for_a_model_at_once_fetch_it_once(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = workshop.train()
    model = read_model(workshop.store, "halves", job_id)
    assert model is not None
    read: Counter[str] = Counter()
    get = workshop.store.get
    monkeypatch.setattr(workshop.store, "get", lambda key: read.update([key]) or get(key))
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(fetch_model, workshop.store, "halves", job_id, tmp_path / "cache2") for _ in range(8)]
    [folder] = {future.result() for future in asked}
    assert {read[file.key] for file in model.files} == {1}
    assert {path.name for path in folder.iterdir()} == {file.name for file in model.files}


def test_time_is_counted_over_all_executions(workshop: Workshop) -> None:
    job_id = workshop.train(training={**JOB["training"], "steps": 1_000_000, "budget": "1s"})
    trained = workshop.record(job_id)["trained"]
    assert not trained["finished"]
    assert 1 <= trained["step"] < 1_000_000


@pytest.mark.parametrize(
    ("data", "param", "says"),
    [
        ({"folder": "/etc"}, "data.folder", "cannot read"),
        ({"folder": "nightmill://jobs/x.tar"}, "data.folder", "is not read"),
        ({"folder": "file:///etc"}, "data.folder", "is not read"),
    ],
)
def test_a_client_cannot_read_a_worker_s_disk(workshop: Workshop, data: dict[str, Any], param: str, says: str) -> None:
    status, named, message = workshop.error(**{**JOB, "data": data})
    assert (status, named) == (400, param)
    assert says in message


def test_images_that_are_not_there_fail_the_job_before_it_runs(workshop: Workshop) -> None:
    job_id = workshop.submit(data={"folder": "nightmill://inputs/01NONE/photos.tar"})
    workshop.plan()
    job = workshop.job(job_id)
    assert (job["status"], job["error"]["param"]) == ("failed", "data.folder")


def test_a_batch_of_more_images_than_there_are_is_the_job_s_error(workshop: Workshop) -> None:
    job_id = workshop.submit(training={"family": "vae", "batch_size": 64})
    workshop.plan()
    with pytest.raises(ModelError, match="16 images") as caught:
        workshop.run(workshop.start(workshop.take(job_id)))
    assert caught.value.kind is FailureKind.MODEL


def test_a_job_that_trains_nothing_has_no_samples(workshop: Workshop) -> None:
    job_id = workshop.submit()
    answer = workshop.http.get(f"/v1/jobs/{job_id}/training/samples")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_training")
