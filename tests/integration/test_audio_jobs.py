"""A speech job from its submission to a folder of sounds, over HTTP, with the test as scheduler and worker."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from models.backends.echo_audio import EchoAudio
from models.backends.hibari import HibariBackend
from orchestrator import removals
from orchestrator.cli.following import output_texts
from orchestrator.cli.saving import save_job
from orchestrator.cli.text import describe
from orchestrator.client import ApiError
from orchestrator.collector import SETTLE_SECONDS, Collector
from orchestrator.settings import Settings
from tests.support.clocks import ManualClock
from tests.support.sounds import loudness, read_wav, share_between
from tests.support.studio import Studio

JOB: dict[str, Any] = {
    "name": "tents",
    "kind": "audio",
    "model": "echo",
    "prompt": "{% if index != 3 %}The {{ colour }} tent <{{ index }}>{% endif %}",
    "source": {"count": 5, "grid": {"colour": ["red", "blue"]}},
}
LEASE = 60.0


@pytest.fixture
def studio(sqlite_url: str, store_url: str, redis_url: str) -> Iterator[Studio]:
    made = Studio(Settings(database_url=sqlite_url, store_url=store_url, redis_url=redis_url), JOB, EchoAudio)
    with made.http:
        yield made


def sounds(studio: Studio, job_id: str) -> set[str]:
    return set(studio.services.store.list(f"{removals.job_prefix(job_id)}audio/"))


def test_a_job_becomes_a_folder_of_sounds(studio: Studio, tmp_path: Path) -> None:
    job_id = studio.submit()
    studio.work()
    job = studio.client.job(job_id)
    assert (job.status, job.counts.ok, job.counts.failed, job.sounds, job.images) == ("completed", 8, 2, 8, None)
    assert dict(describe(job))["spoken"].startswith("8")

    out = tmp_path / "out"
    page = save_job(studio.client, job, out, "csv")
    records = [orjson.loads(line) for line in (out / "records.jsonl").read_bytes().splitlines()]
    assert [record["index"] for record in records] == list(range(10))
    spoken = {f"{index}.wav" for index in range(10) if index not in (6, 7)}
    assert {path.name for path in (out / "audio").iterdir()} == spoken
    assert {path.name for path in out.iterdir()} == {"records.jsonl", "results.csv", "audio", "audio.html"}
    assert page == out / "audio.html"
    assert "The red tent &lt;2&gt;" in page.read_text()
    assert output_texts(records[4]) == ["4.wav, 0.4 s: The red tent <2>"]
    row = list(csv.DictReader((out / "results.csv").read_text().splitlines()))[4]
    assert row["audio"].endswith("/4.wav")
    assert (row["prompt"], row["input.colour"]) == ("The red tent <2>", "red")

    # What is there already is not fetched again, but for what was damaged.
    asked: list[str] = []
    fetch = studio.client.audio
    studio.client.audio = lambda job, name: (asked.append(name), fetch(job, name))[1]  # type: ignore[method-assign]
    (out / "audio" / "3.wav").write_bytes(b"half")
    save_job(studio.client, job, out, "jsonl")
    assert asked == ["3.wav"]


def test_only_a_sound_that_a_record_names_is_served(studio: Studio) -> None:
    job_id = studio.submit()
    studio.work()
    answer = studio.http.get(f"/v1/jobs/{job_id}/audio/4.wav")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
    assert len(read_wav(answer.content)[0]) > 0
    [record] = studio.client.results(job_id, after=3, limit=1).data
    folder = record["audio"][0]["key"].rpartition("/")[0]
    studio.services.store.put(f"{folder}/6.wav", b"a stray of a failed item")
    for name in ("6.wav", "4-0.wav", "99.wav", "4.mp3", "..%2f..%2fmanifest.json", "x", "04.wav"):
        answer = studio.http.get(f"/v1/jobs/{job_id}/audio/{name}")
        assert answer.status_code == 404, name
        assert answer.json()["error"]["code"] in {"audio_not_found", None}
    assert studio.http.get(f"/v1/jobs/{job_id}/images/4.wav").json()["error"]["code"] == "image_not_found"
    with pytest.raises(ApiError, match="only images"):
        studio.client.replay(job_id, 4, 0)


def test_sounds_of_an_execution_that_died_are_swept_and_the_others_stay(studio: Studio) -> None:
    job_id = studio.submit()
    studio.work(lost=True)
    assert studio.client.job(job_id).status == "completed"
    named = {sound["key"] for record in studio.client.results(job_id).data for sound in record.get("audio", ())}
    assert len(named) == 8
    assert len(sounds(studio, job_id)) == 16
    # The second execution gave the very bytes of the first.
    by_name: dict[str, set[bytes]] = {}
    for key in sounds(studio, job_id):
        by_name.setdefault(key.rpartition("/")[2], set()).add(studio.services.store.get(key))
    assert {len(found) for found in by_name.values()} == {1}
    clock = ManualClock()
    clock.advance(time.time() + 200 + SETTLE_SECONDS + LEASE - clock())
    Collector(studio.services.engine, studio.services.store, lease_seconds=LEASE, retention_days=0, clock=clock).step()
    assert sounds(studio, job_id) == named


def test_a_retry_of_failed_items_keeps_the_sounds_of_the_others(studio: Studio) -> None:
    job_id = studio.submit()
    studio.work()
    before = studio.client.results(job_id).data
    studio.client.act(job_id, "retry")
    studio.work()
    after = studio.client.results(job_id).data
    assert [record for record in after if record["status"] == "ok"] == [
        record for record in before if record["status"] == "ok"
    ]
    assert after[6]["attempts"] == 2


def test_the_model_is_listed_with_its_kind_and_a_bad_voice_is_refused(studio: Studio) -> None:
    assert "hibari-tts" in {entry.id for entry in studio.client.models()}
    body = {**JOB, "model": "hibari-tts", "audio": {"voice": "nobody"}}
    answer = studio.http.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "audio.voice")
    assert answer.json()["error"]["code"] == "unknown_voice"


def test_a_real_voice_speaks_a_job(studio: Studio) -> None:
    pytest.importorskip("hibari")
    texts = ["Hello.", "The storm jacket has taped seams. It weighs four hundred grams.", "", "Привет"]
    source = {"items": [{"text": text} for text in texts]}
    job_id = studio.submit(model="hibari-tts", prompt="{{ text }}", source=source, audio={"voice": "heart"})
    studio.open_backend = HibariBackend
    studio.work()
    records = studio.client.results(job_id).data
    assert [record["status"] for record in records] == ["ok", "ok", "failed", "failed"]
    assert [record["error"]["code"] for record in records[2:]] == ["unspeakable", "unsupported_text"]
    short, long = (studio.client.audio(job_id, f"{index}.wav") for index in (0, 1))
    for data, record in ((short, records[0]), (long, records[1])):
        samples, rate = read_wav(data)
        assert (rate, record["model"], record["reproducible"]) == (24_000, "hibari-tts", "exact")
        assert len(samples) / rate == pytest.approx(record["audio"][0]["seconds"], abs=0.001)
        assert share_between(samples, rate, 80, 4000) > 0.9
        assert loudness(samples) > 300
    assert len(long) > 3 * len(short)
