"""A shard of images from its rows to its part: what is stored, what is named, what an interrupted one keeps."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image as Pillow

from models.backends.echo_images import EchoImages, paint
from models.errors import FailureKind, ModelError
from models.images import ImageRequest, ImageResult, ImageSettings, Pixels
from models.spec import output_seed
from tests.support.turns import turns, turns_until
from workers import image_shard
from workers.content_credentials import ContentCredentials, CredentialsError
from workers.contracts import ByteRange, CountRange, ImageWork, Replay, Row, ShardTask, SourceRange, Work
from workers.execute import Execution
from workers.records import item_seed
from workers.screening import Screen
from workers.store import ObjectStore, StoreError, open_store
from workers.store_folder import FolderStore


def task(
    count: int = 6,
    *,
    source: SourceRange | None = None,
    n: int = 1,
    options: dict[str, Any] | None = None,
    **image: Any,
) -> ShardTask:
    work = Work(
        model="echo",
        engine="auto",
        messages=(),
        sampling={},
        seed=7,
        n=n,
        options=options,
        image=ImageWork(prompt="{{ index }}", **image),
    )
    return ShardTask(
        job="j", shard=3, token=2, first=0, count=count, source=source or CountRange(start=0, count=count), work=work
    )


def rows(store: ObjectStore, *found: Row) -> ByteRange:
    data = b"".join(orjson.dumps({"index": index, **row}) + b"\n" for index, row in enumerate(found))
    store.put("rows.jsonl", data)
    return ByteRange(uri="rows.jsonl", etag=None, format="jsonl", offset=0, length=len(data))


def png(pixels: Pixels) -> str:
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


async def run(
    store: ObjectStore, shard: ShardTask, *, screen: Screen | None = None, execution: str = "E"
) -> list[dict[str, Any]]:
    backend = EchoImages()
    execution_ = Execution(shard, execution, store, screen=screen)
    execution_.granted.set()
    part = await execution_.run(backend, await backend.load())
    return [orjson.loads(line) for line in store.get(part.key).splitlines()]


def opened(store: ObjectStore, image: dict[str, Any]) -> Pillow.Image:
    return Pillow.open(io.BytesIO(store.get(image["key"])))


@pytest.mark.parametrize("n", [1, 3])
async def test_every_item_has_its_images_in_the_store_and_a_record_that_names_them(store_url: str, n: int) -> None:
    store = open_store(store_url)
    records = await run(store, task(n=n))
    assert [record["index"] for record in records] == list(range(6))
    for record in records:
        index = record["index"]
        seed = item_seed(7, index)
        assert (record["status"], record["prompt"], record["seed"]) == ("ok", str(index), seed)
        assert (record["reproducible"], record["steps"]) == ("exact", ["generate"])
        assert record["settings"] == {"width": 64, "height": 64}  # the engine's own choice
        names = [f"{index}.png"] if n == 1 else [f"{index}-{k}.png" for k in range(n)]
        assert [image["key"] for image in record["images"]] == [f"jobs/j/images/000003-0002-E/{name}" for name in names]
        for k, image in enumerate(record["images"]):
            data = store.get(image["key"])
            assert (image["bytes"], image["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
            assert (image["content_type"], image["seed"], image["batch"]) == ("image/png", output_seed(seed, k), 6)
            request = ImageRequest(index=index, seed=seed, settings=ImageSettings(), n=n, prompt=str(index))
            assert (np.asarray(opened(store, image)) == paint(request, output_seed(seed, k))).all()
            assert (image["width"], image["height"]) == (64, 64)


async def test_a_window_bounds_what_is_under_way_and_changes_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    whole = await run(store, task(40))
    monkeypatch.setattr(image_shard, "CALL_ITEMS", 3)
    sizes: list[int] = []

    class Counting(EchoImages):
        async def generate(self, requests: Sequence[ImageRequest]) -> AsyncGenerator[Sequence[ImageResult], None]:
            sizes.append(len(requests))
            async for results in super().generate(requests):
                yield results

    execution = Execution(task(40), "F", store)
    execution.granted.set()
    backend = Counting()
    part = await execution.run(backend, await backend.load())
    assert max(sizes) == 3
    small = [orjson.loads(line) for line in store.get(part.key).splitlines()]
    assert [record["images"][0]["sha256"] for record in small] == [record["images"][0]["sha256"] for record in whole]


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
async def test_a_file_says_how_it_was_made_unless_the_job_wants_none(tmp_path: Path, form: Any) -> None:
    store = FolderStore(tmp_path)
    [record] = await run(store, task(1, format=form))
    said = opened(store, record["images"][0]).info["xmp"].decode()
    digest = hashlib.sha256(b"0").hexdigest()
    for expected in (digest, "echo-images-1", str(record["seed"]), 'nightmill:job="j"', 'nightmill:item="0"'):
        assert expected in said
    [bare] = await run(store, task(1, format=form, provenance=False), execution="F")
    assert "xmp" not in opened(store, bare["images"][0]).info
    assert opened(store, bare["images"][0]).format == form.upper()


async def test_input_is_read_and_what_is_wrong_with_it_costs_one_item(store_url: str) -> None:
    store = open_store(store_url)
    grey = np.full((16, 24, 3), 100, np.uint8)
    store.put("inputs/01/a.png", base64.b64decode(png(grey)))
    store.put("secret/a.png", base64.b64decode(png(grey)))
    source = rows(
        store,
        {"photo": png(grey)},
        {"photo": "data:image/png;base64," + png(grey)},
        {"photo": "nightmill://inputs/01/a.png"},
        {"photo": "nightmill://secret/a.png"},
        {"photo": "nightmill://inputs/../secret/a.png"},
        {"photo": "/etc/hostname.png"},
        {"photo": "file:///etc/hostname"},
        {"photo": "nightmill://inputs/01/b.png"},
        {"photo": ""},
        {},
        {"photo": base64.b64encode(b"no image").decode()},
        {"photo": "-"},
    )
    shard = task(12, source=source, steps=("edit",), input="photo", settings={"strength": 0.5})
    records = await run(store, shard)
    assert [record["status"] for record in records] == ["ok"] * 3 + ["failed"] * 9
    assert len({record["images"][0]["width"] for record in records[:3]}) == 1
    assert [record["error"]["code"] for record in records[3:]] == [
        *("image_missing", "image_missing", "invalid_image", "invalid_image"),
        *("image_missing", "image_missing", "image_missing", "invalid_image", "invalid_image"),
    ]
    assert all(record["error"]["message"].startswith("photo") for record in records[3:])


async def test_a_mask_must_cover_its_image(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    photo, small = np.full((16, 24, 3), 9, np.uint8), np.zeros((16, 16, 3), np.uint8)
    mask = np.zeros((16, 24, 3), np.uint8)
    mask[:, :8] = 255
    source = rows(store, {"photo": png(photo), "mask": png(mask)}, {"photo": png(photo), "mask": png(small)})
    good, bad = await run(store, task(2, source=source, steps=("inpaint",), input="photo", mask="mask"))
    made = np.asarray(opened(store, good["images"][0]))
    assert (made[:, 8:] == 9).all()
    assert not (made[:, :8] == 9).all()
    assert bad["error"]["code"] == "invalid_image"


async def test_input_of_the_next_items_is_read_while_the_first_are_made_and_no_more_than_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    photo = png(np.full((16, 24, 3), 100, np.uint8))
    source = rows(store, *({"photo": photo} for _ in range(40)))
    monkeypatch.setattr(image_shard, "CALL_ITEMS", 2)
    loaded: list[int] = []
    load = image_shard.load_picture

    def counted(*given: Any, **more: Any) -> Pixels:
        loaded.append(1)
        return load(*given, **more)

    monkeypatch.setattr(image_shard, "load_picture", counted)
    open_gate = asyncio.Event()

    class Gated(EchoImages):
        async def generate(self, requests: Sequence[ImageRequest]) -> AsyncGenerator[Sequence[ImageResult], None]:
            await open_gate.wait()
            async for results in super().generate(requests):
                yield results

    backend = Gated()
    execution = Execution(task(40, source=source, steps=("edit",), input="photo"), "E", store)
    execution.granted.set()
    running = asyncio.create_task(execution.run(backend, await backend.load()))
    most = image_shard.CALLS * image_shard.CALL_ITEMS
    await turns_until(lambda: len(loaded) == most)  # beyond the two that the first call has
    await turns(200)
    assert len(loaded) == most
    open_gate.set()
    assert (await running).counts.ok == 40


class Scores:
    """A classifier that objects to pictures of one colour."""

    def __init__(self) -> None:
        self.seen = 0

    def scores(self, images: Sequence[Pixels]) -> Sequence[Mapping[str, float]]:
        self.seen += len(images)
        return [{"nsfw": 1.0 if (image == image[0, 0]).all() else 0.25} for image in images]


class OneColour(EchoImages):
    """Paints the items of some indexes in one colour, all or only one of their images."""

    async def generate(self, requests: Sequence[ImageRequest]) -> AsyncGenerator[Sequence[ImageResult], None]:
        async for results in super().generate(requests):
            for result in results:
                if result.index == 1:
                    result.images[-1].pixels[:] = 7
            yield results


async def test_what_the_classifier_objects_to_is_never_stored(tmp_path: Path) -> None:
    store, scores = FolderStore(tmp_path), Scores()
    execution = Execution(task(3, n=2, nsfw_threshold=0.8), "E", store, screen=Screen(lambda: scores))
    execution.granted.set()
    backend = OneColour()
    part = await execution.run(backend, await backend.load())
    records = [orjson.loads(line) for line in store.get(part.key).splitlines()]
    assert [record["status"] for record in records] == ["ok", "failed", "ok"]
    assert records[1]["error"]["code"] == "content_filtered"
    assert records[0]["images"][0]["safety"] == {"nsfw": 0.25}
    assert scores.seen == 6
    assert not [key for key in store.list("jobs/j/images/") if "/1" in key]


async def test_a_job_that_wants_a_classifier_fails_where_there_is_none(tmp_path: Path) -> None:
    def missing() -> Scores:
        raise ModelError(FailureKind.MODEL, "engine_not_installed", "there is none")

    with pytest.raises(ModelError, match="there is none"):
        await run(FolderStore(tmp_path), task(nsfw_threshold=0.5), screen=Screen(missing))
    assert not list(FolderStore(tmp_path).list("jobs/"))


async def test_nothing_is_stored_unsigned_where_it_should_be_signed(tmp_path: Path) -> None:
    def expired() -> ContentCredentials:
        raise CredentialsError("it has expired")

    execution = Execution(task(), "E", FolderStore(tmp_path), credentials=expired)
    execution.granted.set()
    backend = EchoImages()
    with pytest.raises(CredentialsError, match="it has expired"):
        await execution.run(backend, await backend.load())
    assert not list(FolderStore(tmp_path).list("jobs/"))


async def test_denied_words_are_not_painted(tmp_path: Path) -> None:
    records = await run(FolderStore(tmp_path), task(30, deny=("7", "1 1")))
    assert [record["index"] for record in records if record["status"] == "failed"] == [7]
    assert records[7]["error"]["code"] == "prompt_denied"


async def test_nothing_is_stored_before_the_execution_owns_its_shard(tmp_path: Path) -> None:
    store, backend = FolderStore(tmp_path), EchoImages()
    execution = Execution(task(), "E", store)
    running = asyncio.create_task(execution.run(backend, await backend.load()))
    await turns(50)
    assert not list(store.list("jobs/"))
    execution.granted.set()
    await running
    assert len(list(store.list("jobs/j/images/"))) == 6


class Held(FolderStore):
    """A store in which the image of item 4 is never written."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.waits, self.over = threading.Event(), threading.Event()

    def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> None:
        if key.endswith("/4.png"):
            self.waits.set()
            self.over.wait(30)
            return
        super().put(key, data, content_type=content_type)


async def test_an_interrupted_execution_keeps_the_items_whose_images_are_stored(tmp_path: Path) -> None:
    store, backend = Held(tmp_path), EchoImages()
    info = await backend.load()
    execution = Execution(task(), "E", store)
    execution.granted.set()
    running = asyncio.create_task(execution.run(backend, info))
    await asyncio.to_thread(store.waits.wait, 30)
    await turns_until(lambda: execution.progress().counts.ok == 5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    store.over.set()
    part = await execution.salvage()
    assert part is not None
    kept = [orjson.loads(line) for line in store.get(part.key).splitlines()]
    assert [record["index"] for record in kept] == [0, 1, 2, 3, 5]

    # The next one carries them over, with the images that they name, and makes the rest in a folder of its own.
    plain = FolderStore(tmp_path)
    shard = task()
    fields = {name: getattr(shard, name) for name in shard.__struct_fields__}
    records = await run(plain, ShardTask(**{**fields, "token": 4, "carry_from": part.key}), execution="G")
    assert [record for record in records if record["index"] != 4] == kept
    assert records[4]["images"][0]["key"] == "jobs/j/images/000003-0004-G/4.png"
    assert all(plain.head(record["images"][0]["key"]) for record in records)


async def test_a_store_that_fails_for_good_fails_the_shard_with_its_own_error(tmp_path: Path) -> None:
    class Away(FolderStore):
        def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> None:
            raise StoreError("it is away")

    times = iter(range(0, 100_000, 10))
    backend = EchoImages()
    execution = Execution(task(), "E", Away(tmp_path), clock=lambda: float(next(times)), sleep=lambda _: turns())
    execution.granted.set()
    with pytest.raises(StoreError, match="it is away"):
        await execution.run(backend, await backend.load())


async def test_a_failing_item_of_the_engine_fails_alone(tmp_path: Path) -> None:
    records = await run(FolderStore(tmp_path), task(options={"fail_on": [2]}))
    assert [record["status"] for record in records] == ["ok", "ok", "failed", "ok", "ok", "ok"]
    assert records[2]["error"]["code"] == "echo_failure"


async def test_a_replay_gives_the_very_bytes(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    image = (await run(store, task(n=3)))[4]["images"][2]
    again = task(1, source=rows(store, {"index": 4}), replay=_replay(image))
    [record] = await run(store, again, execution="R")
    [made] = record["images"]
    assert (made["sha256"], made["batch"], made["seed"]) == (image["sha256"], image["batch"], image["seed"])


def _replay(image: dict[str, Any]) -> Replay:
    return Replay(job="j", index=4, image=2, seed=image["seed"], batch=image["batch"])
