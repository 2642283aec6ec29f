"""An image job from its submission to a folder of pictures, over HTTP, with the test as scheduler and worker."""

from __future__ import annotations

import csv
import hashlib
import io
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from PIL import Image

from models.backends import echo_images
from models.backends.cutout_network import NETWORK as CUTOUT_NETWORK
from models.backends.echo_images import EchoImages
from models.image_catalog import open_image_backend
from models.images import Pixels, StepName
from orchestrator import removals
from orchestrator.cli.pictures import save_images
from orchestrator.cli.replaying import compare, same_unsigned
from orchestrator.cli.text import describe
from orchestrator.client import ApiError
from orchestrator.collector import Collector
from orchestrator.safety_policy import SafetyPolicy
from orchestrator.settings import Settings
from orchestrator.spec import parse_job
from tests.support.certificates import Authority
from tests.support.clocks import ManualClock
from tests.support.networks import needs
from tests.support.studio import Studio
from workers.content_credentials import ContentCredentials
from workers.screening import Screen

JOB: dict[str, Any] = {
    "name": "shoes",
    "kind": "image",
    "model": "echo",
    "prompt": "{{ colour }} shoe <{{ index }}>",
    "source": {"count": 5, "grid": {"colour": ["red", "blue"]}},
    "n": 2,
    "safety": {"deny": ["blue shoe <3>"]},
}


@pytest.fixture
def studio(sqlite_url: str, store_url: str, redis_url: str) -> Iterator[Studio]:
    made = Studio(Settings(database_url=sqlite_url, store_url=store_url, redis_url=redis_url), JOB, EchoImages)
    with made.http:
        yield made


def test_a_job_becomes_a_folder_of_pictures(studio: Studio, tmp_path: Path) -> None:
    job_id = studio.submit()
    studio.work()
    job = studio.client.job(job_id)
    assert (job.status, job.counts.ok, job.counts.failed, job.images) == ("completed", 9, 1, 18)
    assert dict(describe(job))["images"].startswith("18")

    out = tmp_path / "out"
    page = save_images(studio.client, job, out)
    records = [orjson.loads(line) for line in (out / "records.jsonl").read_bytes().splitlines()]
    assert [record["index"] for record in records] == list(range(10))
    made = {f"{index}-{k}.png" for index in range(10) if index != 7 for k in range(2)}
    assert {path.name for path in (out / "images").iterdir()} == made
    assert records[7]["error"]["code"] == "prompt_denied"
    assert page == out / "gallery.html"
    assert (out / "contact-001.png").is_file()
    text = page.read_text()
    assert "red shoe &lt;4&gt;" in text
    assert "prompt_denied" in text

    # What is there already is not fetched again, but for what was damaged.
    asked: list[str] = []
    fetch = studio.client.image
    studio.client.image = lambda job, name: (asked.append(name), fetch(job, name))[1]  # type: ignore[method-assign]
    (out / "images" / "3-1.png").write_bytes(b"half")
    save_images(studio.client, job, out)
    assert asked == ["3-1.png"]


def test_only_an_image_that_a_record_names_is_served(studio: Studio) -> None:
    job_id = studio.submit()
    studio.work()
    answer = studio.http.get(f"/v1/jobs/{job_id}/images/4-1.png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
    [record] = studio.client.results(job_id, after=3, limit=1).data
    folder = record["images"][1]["key"].rpartition("/")[0]
    studio.services.store.put(f"{folder}/7-0.png", b"a stray of a denied item")
    studio.services.store.put(f"{folder}/4-5.png", b"a stray of another kind")
    names = ["7-0.png", "4-5.png", "4.png", "99-0.png", "4-1.jpg", "..%2f..%2fmanifest.json", "x", "04-1.png"]
    for name in names:
        status, code = studio.error("GET", f"/v1/jobs/{job_id}/images/{name}")
        assert (status, code) in {(404, "image_not_found"), (404, None)}, name
    assert studio.error("GET", "/v1/jobs/nobody/images/0-0.png") == (404, "job_not_found")


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_an_image_made_again_has_the_same_bytes(studio: Studio, form: str) -> None:
    job_id = studio.submit(format=form)
    studio.work()
    again = studio.client.replay(job_id, 5, 1)
    studio.work()
    assert studio.client.job(again.id).status == "completed"
    [record] = studio.client.results(again.id).data
    suffix = {"png": "png", "jpeg": "jpg", "webp": "webp"}[form]
    before, after = (
        studio.client.image(job, name) for job, name in ((job_id, f"5-1.{suffix}"), (again.id, f"0.{suffix}"))
    )
    assert str(compare(before, after)) == "the same: same pixels, same bytes"
    [original] = studio.client.results(job_id, after=4, limit=1).data
    assert record["images"][0]["batch"] == original["images"][1]["batch"] > 1
    assert record["prompt"] == original["prompt"] == "blue shoe <2>"


@pytest.mark.parametrize("store_url", ["file"], indirect=True)
@pytest.mark.parametrize(("count", "last"), [(1, "style"), (19, "style"), (5, "remove_background")])
def test_what_several_steps_have_made_is_made_again_to_the_byte(
    studio: Studio, tmp_path: Path, count: int, last: StepName
) -> None:
    steps: tuple[StepName, ...] = ("generate", "upscale", "style")
    if last == "remove_background":  # which takes a second or two for a picture
        needs(CUTOUT_NETWORK)
        steps = (*steps, last)
    studio.open_backend = lambda: open_image_backend("fashion-gan", steps, cache_dir=tmp_path)
    job_id = studio.submit(
        model="fashion-gan",
        prompt="{{ what }}",
        source={"count": count, "grid": {"what": ["coat"]}},
        steps=steps,
        image={"scale": 2, "style": "copper"},
        n=1,
        safety={},
    )
    studio.work()
    records = studio.client.results(job_id).data
    made = [record for record in records if record["status"] == "ok"]
    assert made, records[0]
    assert made[0]["steps"] == list(steps)
    chosen = {"width": 28, "height": 28, "scale": 2, "style": "copper", "style_strength": 1.0}
    assert all(record["settings"] == chosen for record in made)
    # How many are made together depends on which were ready: each batch is there whole, and at most one is of one.
    batches = Counter(record["images"][0]["batch"] for record in made)
    assert sum(batches.values()) == count or last == "remove_background"  # which finds no product in some pictures
    assert all(size <= min(count, 16) and (number % size == 0 or len(made) < count) for size, number in batches.items())
    assert max(batches) > 1 or count == 1
    # Of the first batch and of the last, each alone now.
    for record in {record["index"]: record for record in (made[0], made[-1])}.values():
        again = studio.client.replay(job_id, record["index"], 0)
        studio.work()
        before = studio.client.image(job_id, f"{record['index']}.png")
        assert compare(before, studio.client.image(again.id, "0.png")).same_bytes, record
    assert len({record["images"][0]["sha256"] for record in made}) == len(made)


def test_a_replay_keeps_to_what_was_chosen(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that chooses otherwise by now is told what it chose then."""
    job_id = studio.submit()
    studio.work()
    monkeypatch.setattr(echo_images, "SIDE", 32)
    again = studio.client.replay(job_id, 5, 1)
    studio.work()
    [record] = studio.client.results(again.id).data
    assert record["settings"] == {"width": 64, "height": 64}
    before, after = studio.client.image(job_id, "5-1.png"), studio.client.image(again.id, "0.png")
    assert compare(before, after).same_bytes


class Brightness:
    """A classifier that objects to what is bright."""

    def scores(self, images: Sequence[Pixels]) -> Sequence[Mapping[str, float]]:
        return [{"nsfw": float(image.mean()) / 255} for image in images]


def test_tenants_get_what_their_rules_let_through(studio: Studio) -> None:
    """Two tenants' jobs alike, side by side: what one may have, the other may not; and both keep their own rules."""
    studio.screen = Screen(Brightness)
    studio.policy = SafetyPolicy.model_validate({"tenants": {"strict": {"threshold": 0.01, "deny": ["blue shoe <1>"]}}})
    spec = parse_job({**JOB, "n": 1})
    ids = {tenant: studio.services.jobs.create(spec, tenant=tenant).id for tenant in ("strict", "free")}
    studio.work()
    codes = {
        tenant: [record.get("error", {}).get("code") for record in studio.client.results(job).data]
        for tenant, job in ids.items()
    }
    assert codes["free"] == [*[None] * 7, "prompt_denied", None, None]
    blocked: list[str] = ["content_filtered"] * 10
    blocked[3] = blocked[7] = "prompt_denied"
    assert codes["strict"] == blocked
    [hit] = studio.client.results(ids["strict"], after=2, limit=1).data
    assert hit["error"]["message"] == "the prompt holds 'blue shoe <1>', which this service does not allow"
    images = list(studio.services.store.list(f"{removals.job_prefix(ids['strict'])}images/"))
    assert not images


def test_an_old_jobs_replay_and_retry_follow_the_rules_of_now(studio: Studio) -> None:
    spec = parse_job(JOB)
    job_id = studio.services.jobs.create(spec, tenant="acme").id
    studio.work()
    # The rules are another tenant's than that of whoever asks: the job's tenant is what counts.
    studio.policy = SafetyPolicy.model_validate({"tenants": {"acme": {"deny": ["red", "blue shoe"]}}})
    again = studio.client.replay(job_id, 0, 0)
    studio.client.act(job_id, "retry")
    studio.work()
    [record] = studio.client.results(again.id).data
    assert record["error"]["code"] == "prompt_denied"
    after = studio.client.results(job_id).data
    assert [record["status"] for record in after].count("ok") == 9  # what had run is kept
    assert "which this service" not in str(after[0])


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("store_url", ["file"], indirect=True)
def test_a_signed_image_made_again_is_the_same_but_for_its_signature(studio: Studio, form: str, tmp_path: Path) -> None:
    credentials = ContentCredentials(Authority.found(tmp_path).issue())
    studio.credentials = lambda: credentials
    job_id = studio.submit(format=form)
    studio.work()
    [record] = studio.client.results(job_id, after=4, limit=1).data
    image = record["images"][1]
    suffix = {"png": "png", "jpeg": "jpg", "webp": "webp"}[form]
    before = studio.client.image(job_id, f"5-1.{suffix}")
    assert hashlib.sha256(before).hexdigest() == image["sha256"] != image["unsigned_sha256"]
    again = studio.client.replay(job_id, 5, 1)
    studio.work()
    [made] = studio.client.results(again.id).data
    after = studio.client.image(again.id, f"0.{suffix}")
    assert made["images"][0]["unsigned_sha256"] == image["unsigned_sha256"]
    result = compare(before, after, signed=same_unsigned(image, made["images"][0]))
    assert str(result) == "the same: same pixels, same bytes but for the signature"
    assert (result.same_bytes, result.same_pixels) == (False, True)
    # And made again where nothing is signed.
    studio.credentials = None
    plain = studio.client.replay(job_id, 5, 1)
    studio.work()
    [bare] = studio.client.results(plain.id).data
    assert bare["images"][0]["sha256"] == image["unsigned_sha256"]
    assert same_unsigned(image, bare["images"][0])


def test_a_job_without_provenance_is_not_signed(studio: Studio, tmp_path: Path) -> None:
    credentials = ContentCredentials(Authority.found(tmp_path).issue())
    studio.credentials = lambda: credentials
    job_id = studio.submit(provenance=False)
    studio.work()
    assert "unsigned_sha256" not in studio.client.results(job_id).data[0]["images"][0]


def test_what_cannot_be_replayed_is_said(studio: Studio) -> None:
    job_id = studio.submit()
    with pytest.raises(ApiError, match="has no record of an item 0"):
        studio.client.replay(job_id, 0, 0)
    studio.work()
    for index, image, says in (
        (7, 0, "item 7 has no image: it is failed"),
        (10, 0, "no record"),
        (0, 2, "has 2 images"),
    ):
        with pytest.raises(ApiError, match=says):
            studio.client.replay(job_id, index, image)
    text = studio.client.submit({"kind": "echo", "prompt": "x", "source": {"count": 1}}, key="text").id
    with pytest.raises(ApiError, match="only images"):
        studio.client.replay(text, 0, 0)


def test_a_distance_is_told_in_values() -> None:
    def png(pixels: Any) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    pixels = np.zeros((10, 10, 3), np.uint8)
    other = pixels.copy()
    other[0, 0, 0] = 30
    assert (
        str(compare(png(pixels), png(other))) == "not the same: values differ by 30 of 255 at most, 0.1000 on average"
    )
    assert "10 by 10, 3 channels and 5 by 10" in str(compare(png(pixels), png(pixels[:, :5].copy())))
    same = io.BytesIO()
    Image.fromarray(pixels).save(same, "PNG", compress_level=0)
    assert str(compare(png(pixels), same.getvalue())) == "the same pixels, in other bytes"


def test_a_table_of_images_names_their_keys(studio: Studio) -> None:
    job_id = studio.submit()
    studio.work()
    rows = list(csv.DictReader(io.StringIO(b"".join(studio.client.content(job_id, "csv")).decode())))
    assert rows[0]["images"].split(" ")[1].endswith("/0-1.png")
    assert (rows[0]["prompt"], rows[0]["input.colour"]) == ("red shoe <0>", "red")
    assert rows[7]["error_code"] == "prompt_denied"


def test_a_retry_of_failed_items_keeps_the_images_of_the_others(studio: Studio) -> None:
    job_id = studio.submit()
    studio.work()
    before = studio.client.results(job_id).data
    studio.client.act(job_id, "retry")
    studio.work()
    after = studio.client.results(job_id).data
    assert [record for record in after if record["status"] == "ok"] == [
        record for record in before if record["status"] == "ok"
    ]
    assert after[7]["attempts"] == 2


def test_a_removed_job_takes_its_images_with_it(studio: Studio, clock: ManualClock) -> None:
    job_id = studio.submit()
    studio.work()
    store = studio.services.store
    assert list(store.list(f"{removals.job_prefix(job_id)}images/"))
    clock.advance(time.time() + 10 * 86_400 - clock())
    Collector(studio.services.engine, store, lease_seconds=60, retention_days=1, clock=clock).step()
    assert not list(store.list(removals.job_prefix(job_id)))
    with pytest.raises(ApiError):
        studio.client.image(job_id, "0-0.png")


def test_the_models_are_listed(studio: Studio) -> None:
    assert {"fashion-gan", "echo", "smollm2-135m"} <= {entry.id for entry in studio.client.models()}


def test_bad_fields_are_refused_over_http(studio: Studio) -> None:
    answer: httpx.Response = studio.http.post("/v1/jobs", json={**JOB, "format": "gif"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "format")
