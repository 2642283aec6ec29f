"""The whole of Nightmill through its command line, as a person uses it."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import c2pa
import orjson
import pytest
from PIL import Image

from tests.support.certificates import Authority
from tests.support.commands import COMMAND_SECONDS, ROOT, Nightmill
from tests.support.eventually import eventually
from tests.support.running import is_running
from tests.support.sounds import read_wav, share_between

ROWS = 150
TONES = ("warm", "bold")


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """A job over a CSV file with what CSV files have: quotes, commas, line ends in cells, other alphabets."""
    with (tmp_path / "products.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "name"])
        writer.writerows([f"sku-{row:03d}", _name(row)] for row in range(ROWS))
    job = tmp_path / "job.yaml"
    job.write_text(
        "name: catalogue\nkind: echo\n"
        "source: {file: products.csv, custom_id: sku, grid: {tone: [warm, bold]}}\n"
        'prompt: "{{ tone }}: {{ name }}"\n'
    )
    return job


def _name(row: int) -> str:
    return f'Tent "no. {row}", für zwei\nテント'


def _pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def _slow(folder: Path, **fields: object) -> Path:
    """A job whose every shard takes a minute."""
    job = folder / "slow.yaml"
    spec = {"kind": "echo", "prompt": "{{ index }}", "source": {"count": 64}, "options": {"delay_ms": 60_000}}
    job.write_text(json.dumps({**spec, **fields}))
    return job


def test_a_csv_job_runs_from_the_file_to_the_results(anywhere: Nightmill, catalogue: Path, tmp_path: Path) -> None:
    said = anywhere.run("run", catalogue, "--out", tmp_path / "out")
    assert "300 of 300 · 300 ok · 0 failed" in said
    anywhere.none_is_left()

    lines = (tmp_path / "out" / "results.jsonl").read_bytes().splitlines()
    records = [orjson.loads(line) for line in lines]
    assert [record["index"] for record in records] == list(range(2 * ROWS))
    assert [record["output"].strip() for record in records] == [
        f"{tone}: {_name(row)}" for row in range(ROWS) for tone in TONES
    ]
    assert [record["custom_id"] for record in records[:3]] == ["sku-000/0", "sku-000/1", "sku-001/0"]
    assert records[1]["input"] == {"tone": "bold"}

    # Reading works without a running stack, by any name that a person has for the job.
    [job] = anywhere.json("jobs")
    assert (job["status"], job["counts"]["ok"], job["metadata"]) == ("completed", 2 * ROWS, {})
    assert anywhere.json("show", job["id"][:12])["id"] == job["id"]
    assert anywhere.run("results", "last").encode().splitlines() == lines
    anywhere.run("results", "last", "--out", tmp_path / "table", "--format", "csv")
    with (tmp_path / "table" / "results.csv").open(newline="") as file:
        assert [row["input.tone"] for row in csv.DictReader(file)] == list(TONES) * ROWS
    assert anywhere.json("errors", "last") == []
    anywhere.none_is_left()


def test_an_image_job_runs_from_the_file_to_a_gallery(nightmill: Nightmill, tmp_path: Path) -> None:
    job = tmp_path / "images.yaml"
    spec = {
        "kind": "image",
        "model": "echo",
        "prompt": "shoe {{ index }}",
        "n": 2,
        "source": {"count": 40},
        "image": {"width": 32, "height": 24},
        "options": {"fail_on": [7]},
    }
    job.write_text(json.dumps(spec))
    nightmill.run("up", "--detach", "--port", "0")
    said = nightmill.run("run", job, "--out", tmp_path / "out")
    assert "39 ok · 1 failed" in said
    assert "images   78" in said
    out = tmp_path / "out"
    records = [orjson.loads(line) for line in (out / "records.jsonl").read_bytes().splitlines()]
    assert [record["index"] for record in records] == list(range(40))
    assert len(list((out / "images").iterdir())) == 78
    assert {path.name for path in out.iterdir()} == {"records.jsonl", "images", "contact-001.png", "gallery.html"}
    assert "same pixels, same bytes" in nightmill.run("replay", "last", "33", "--image", "1")
    assert "has no image" in nightmill.run("replay", "last", "7", code=2)

    # A local picture goes along with the rows, and is what an edit starts from.
    edit = {
        "kind": "image",
        "model": "echo",
        "prompt": "as before",
        "steps": ["edit"],
        "input": "photo",
        "image": {"strength": 0.001},
        "source": {"items": [{"photo": "out/images/3-0.png"}, {"photo": "out/gallery.html"}]},
    }
    job.write_text(json.dumps(edit))
    assert "1 ok · 1 failed" in nightmill.run("run", job, "--out", tmp_path / "edited")
    assert _pixels(tmp_path / "out/images/3-0.png") == _pixels(tmp_path / "edited/images/0.png")
    nightmill.run("down")
    nightmill.none_is_left()


def test_a_service_has_its_own_rules_and_signs(nightmill: Nightmill, tmp_path: Path) -> None:
    """What the operator forbids and signs with, from the environment to the files, through every process."""
    files = Authority.found(tmp_path).issue()
    rules = tmp_path / "safety.yaml"
    rules.write_text("default: {deny: [shoe 2]}\n")
    nightmill.settings = {
        "NIGHTMILL_SAFETY_FILE": str(rules),
        "NIGHTMILL_C2PA_CERTIFICATE": files.certificate,
        "NIGHTMILL_C2PA_KEY": files.key,
    }
    job = tmp_path / "images.yaml"
    job.write_text("kind: image\nmodel: echo\nprompt: shoe {{ index }}\nsource: {count: 4}\n")
    nightmill.run("up", "--detach", "--port", "0")
    assert "3 ok · 1 failed" in nightmill.run("run", job, "--out", tmp_path / "out")
    [failed] = nightmill.json("errors", "last")
    assert failed["error"]["message"] == "the prompt holds 'shoe 2', which this service does not allow"
    for path in (tmp_path / "out" / "images").iterdir():
        with c2pa.Reader("image/png", io.BytesIO(path.read_bytes())) as reader:
            assert reader.get_validation_state() == "Valid"  # by whom, nobody here knows
    assert "same bytes but for the signature" in nightmill.run("replay", "last", "3")
    nightmill.run("down")
    nightmill.none_is_left()

    rules.write_text("default: {deny: weapon}\n")
    said = nightmill.run("up", "--port", "0", code=3)
    assert "safety.yaml, line 1: default.deny must be a list" in said
    nightmill.none_is_left()


def test_a_speech_job_runs_from_the_file_to_a_page_of_players(nightmill: Nightmill, tmp_path: Path) -> None:
    job = tmp_path / "speech.yaml"
    texts = ["The tent is light.", "", "It stands in a storm. It dries within an hour, and it packs small."]
    spec = {
        "kind": "audio",
        "model": "hibari-tts",
        "prompt": "{{ text }}",
        "source": {"items": [{"text": text} for text in texts]},
    }
    job.write_text(json.dumps(spec))
    nightmill.run("up", "--detach", "--port", "0")
    said = nightmill.run("run", job, "--out", tmp_path / "out")
    assert "2 ok · 1 failed" in said
    assert "spoken   2" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"records.jsonl", "audio", "audio.html"}
    short, long = (read_wav((tmp_path / f"out/audio/{index}.wav").read_bytes()) for index in (0, 2))
    for samples, rate in (short, long):
        assert share_between(samples, rate, 80, 4000) > 0.9
    assert len(long[0]) > 2 * len(short[0])
    assert "The tent is light." in nightmill.run("preview", job, "--n", "1", "--out", tmp_path / "seen")
    assert (tmp_path / "seen" / "audio" / "0.wav").read_bytes() != b""
    nightmill.run("down")
    nightmill.none_is_left()


def test_up_status_and_down(nightmill: Nightmill, catalogue: Path, tmp_path: Path) -> None:
    nightmill.run("up", "--detach", "--port", "0")
    shown = nightmill.json("status")
    roles = {process["role"] for process in shown["processes"]}
    assert {"launcher", "redis", "ray", "ray:raylet", "api", "scheduler", "control", "worker"} <= roles
    assert {process["state"] for process in shown["processes"]} == {"running"}
    assert shown["url"].startswith("http://127.0.0.1:")
    pids = {process["pid"] for process in shown["processes"]}
    assert pids <= set(nightmill.processes())

    refused = nightmill.run("up", "--port", "0", code=2)
    assert f"started by process {shown['pid']}" in refused
    assert "Traceback" not in refused

    # A job against a stack that runs leaves it running; several can be submitted, watched, steered.
    job = nightmill.run("submit", catalogue).strip()
    assert nightmill.json("watch", job)["status"] == "completed"
    assert nightmill.json("run", catalogue)["status"] == "completed"
    [item, *_] = nightmill.json("preview", catalogue, "--n", "2")
    assert (item["output"].strip(), item["messages"][0]["role"]) == (f"warm: {_name(0)}", "user")
    slow = nightmill.run("run", _slow(tmp_path), "--no-watch").strip()
    eventually(lambda: nightmill.json("show", slow)["status"] == "in_progress")
    assert nightmill.json("pause", slow)["status"] == "paused"
    assert nightmill.json("resume", slow)["status"] == "in_progress"
    nightmill.run("cancel", slow)
    nightmill.run("watch", slow, code=1)
    assert nightmill.json("show", slow)["counts"]["cancelled"] == 64
    assert [entry["status"] for entry in nightmill.json("jobs", "--status", "cancelled")] == ["cancelled"]

    nightmill.run("down")
    assert not any(is_running(pid) for pid in pids)
    nightmill.none_is_left()
    nightmill.run("down")
    nightmill.run("status", code=3)


def test_a_stack_does_not_outlive_a_killed_launcher_and_comes_up_again(nightmill: Nightmill, catalogue: Path) -> None:
    nightmill.run("up", "--detach", "--port", "0")
    shown = nightmill.json("status")
    os.kill(shown["pid"], signal.SIGKILL)
    nightmill.none_is_left()
    assert not any(is_running(process["pid"]) for process in shown["processes"])
    nightmill.run("status", code=3)
    nightmill.run("run", catalogue)


def test_a_process_that_dies_is_replaced_and_the_job_completes(nightmill: Nightmill, tmp_path: Path) -> None:
    nightmill.run("up", "--detach", "--port", "0")
    job = _slow(tmp_path, source={"count": 40}, options={"delay_ms": 1500})
    submitted = nightmill.run("submit", job).strip()
    for role in ("worker", "scheduler", "control", "api", "redis"):
        [pid] = [process["pid"] for process in nightmill.json("status")["processes"] if process["role"] == role]
        os.kill(pid, signal.SIGKILL)

        def replaced(role: str = role, pid: int = pid) -> bool:
            now = {process["role"]: process for process in nightmill.json("status")["processes"]}
            return now[role]["pid"] not in {pid, None} and now[role]["state"] == "running"

        eventually(replaced)
    assert nightmill.json("watch", submitted)["counts"] == {"ok": 40, "failed": 0, "cancelled": 0, "expired": 0}
    nightmill.run("down")
    nightmill.none_is_left()


@pytest.mark.parametrize("moment", ["starting", "queued", "generating"])
def test_ctrl_c_leaves_no_process_and_the_next_run_works(
    nightmill: Nightmill, catalogue: Path, tmp_path: Path, moment: str
) -> None:
    running = nightmill.start("run", _slow(tmp_path))
    assert running.stderr is not None
    for line in running.stderr:
        if line.strip() == moment:
            break
    running.send_signal(signal.SIGINT)
    _, rest = running.communicate(timeout=COMMAND_SECONDS)
    assert running.returncode == 130, rest
    assert "Traceback" not in rest
    nightmill.none_is_left()
    if moment != "starting":
        assert [job["status"] for job in nightmill.json("jobs")] == ["cancelled"]
    assert nightmill.json("run", catalogue)["counts"]["ok"] == 2 * ROWS
    nightmill.none_is_left()


def test_ctrl_c_against_a_running_stack_leaves_the_job_going(nightmill: Nightmill, tmp_path: Path) -> None:
    nightmill.run("up", "--detach", "--port", "0")
    running = nightmill.start("run", _slow(tmp_path))
    assert running.stderr is not None
    for line in running.stderr:
        if line.strip() == "generating":
            break
    running.send_signal(signal.SIGINT)
    _, rest = running.communicate(timeout=COMMAND_SECONDS)
    [job] = nightmill.json("jobs")
    assert (running.returncode, job["status"]) == (130, "in_progress")
    assert f"nightmill watch {job['id']}" in rest
    nightmill.run("down")


def test_a_training_killed_with_9_ends_with_the_same_weights_and_is_used(tmp_path: Path) -> None:
    nightmill = Nightmill(tmp_path / "data", {"NIGHTMILL_PREWARM": "0"})
    store = tmp_path / "data" / "store"
    for number in range(24):
        folder = tmp_path / "photos" / ("dark" if number % 2 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 16), 10 * number if number % 2 else 255 - number).save(folder / f"{number}.png")
    job = tmp_path / "train.yaml"
    spec = {
        "kind": "train",
        "model": "shades",
        "data": {"folder": "photos", "width": 8, "height": 8, "colour": False},
        "training": {
            "family": "vae",
            "options": {"latent": 2, "width": 8},
            "steps": 400,
            "batch_size": 8,
            "log_every": 20,
            "sample_every": 40,
            "checkpoint_every": 40,
        },
    }
    job.write_text(json.dumps(spec))
    nightmill.run("up", "--detach", "--port", "0")
    try:
        submitted = nightmill.run("submit", job).strip()
        kept = store / "jobs" / submitted / "checkpoints"
        eventually(lambda: any(kept.glob("*/complete.json")), what="a checkpoint")
        actors = [pid for pid, command in nightmill.processes().items() if command.startswith("ray::ModelActor")]
        assert actors
        for pid in actors:
            os.kill(pid, signal.SIGKILL)
        ended = nightmill.json("watch", submitted)
        assert (ended["status"], ended["failures"] + ended["losses"]) == ("completed", 1)
        assert ended["training"]["resumed_at"] >= 40
        said = nightmill.run("run", job, "--set", "model=uninterrupted", "--out", tmp_path / "out")
        assert "400 of 400" in said
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.jsonl", "samples.png", "losses.jsonl"}
        [killed] = nightmill.json("results", submitted)
        [whole] = nightmill.json("results", "last")
        assert _weights(killed) == _weights(whole)

        # And the next job names it.
        images = {
            "kind": "image",
            "model": "shades",
            "prompt": "{{ shade }}",
            "source": {"grid": {"shade": ["dark", "light"]}},
        }
        job.write_text(json.dumps(images))
        assert "2 ok" in nightmill.run("run", job, "--out", tmp_path / "pictures")
        assert {record["model"] for record in nightmill.json("results", "last")} == {f"shades@{submitted}"}
        assert {entry["name"] for entry in nightmill.json("models")} >= {"shades", "uninterrupted"}
        job.write_text(json.dumps({**images, "model": "shadez"}))
        assert "did you mean 'shades'" in nightmill.run("run", job, code=2)
    finally:
        nightmill.run("down")
    nightmill.none_is_left()


def _weights(record: dict[str, Any]) -> str:
    [digest] = [file["sha256"] for file in record["trained"]["files"] if file["name"] == "model.safetensors"]
    return str(digest)


def test_a_bad_source_ends_with_2_and_names_the_line(nightmill: Nightmill, catalogue: Path) -> None:
    with (catalogue.parent / "products.csv").open("a") as file:
        file.write("sku-x,Lamp,one too many\n")
    assert "products.csv, line" in nightmill.run("run", catalogue, code=2)
    nightmill.none_is_left()


def test_failed_items_are_shown_and_tried_again(nightmill: Nightmill, tmp_path: Path) -> None:
    nightmill.run("up", "--detach", "--port", "0")
    job = _slow(tmp_path, source={"count": 4}, options={"fail_on": [2]})
    said = nightmill.run("run", job, "--fail-on-errors", code=1)
    assert "3 ok · 1 failed" in said
    [failed] = nightmill.json("errors", "last")
    assert (failed["index"], failed["status"]) == (2, "failed")
    assert "2" in nightmill.run("errors", "last")
    nightmill.run("retry", "last")
    assert nightmill.json("watch", "last")["status"] == "completed"
    assert [record["attempts"] for record in nightmill.json("results", "last")] == [1, 1, 2, 1]
    nightmill.run("down")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"NIGHTMILL_REDIS_URL": "redis://:hush@127.0.0.1:1/0"}, "Redis at redis://:***@127.0.0.1:1/0"),
        ({"NIGHTMILL_DATABASE_URL": "postgresql://u:hush@127.0.0.1:1/n"}, "127.0.0.1:1/n"),
        ({"NIGHTMILL_STORE_URL": "file:///proc/nightmill"}, "file:///proc/nightmill"),
        ({"NIGHTMILL_RAY_ADDRESS": "127.0.0.1:1"}, "Ray at 127.0.0.1:1"),
        ({"NIGHTMILL_API_URL": "http://127.0.0.1:1"}, "http://127.0.0.1:1"),
    ],
)
def test_what_cannot_be_reached_is_named_without_its_password(
    tmp_path: Path, catalogue: Path, setting: dict[str, str], message: str
) -> None:
    nightmill = Nightmill(tmp_path / "data", setting)
    said = nightmill.run("run", catalogue, code=3)
    assert message in said
    assert "hush" not in said
    assert "Traceback" not in said
    nightmill.none_is_left()
    assert "problem" in nightmill.run("doctor", code=1)


@pytest.mark.model
def test_a_real_model_writes_copy(nightmill: Nightmill, tmp_path: Path) -> None:
    job = ROOT / "examples" / "product-copy.yaml"
    with (ROOT / "examples" / "products.csv").open() as source:
        (tmp_path / "few.csv").write_text("".join(line for _, line in zip(range(5), source, strict=False)))
    few = f"source={{file: {tmp_path / 'few.csv'}, custom_id: sku, grid: {{tone: [warm, bold]}}}}"
    ended = nightmill.json("run", job, "--set", few, "--out", tmp_path / "out")
    assert (ended["status"], ended["counts"]["ok"]) == ("completed", 8)
    assert ended["usage"]["completion_tokens"] > 40
    records = [orjson.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_bytes().splitlines()]
    assert all(record["output"].strip() for record in records)
    nightmill.none_is_left()
