"""How the images of a shard are made: input read ahead, pictures encoded and stored while the next ones are made.

A few calls to the engine run side by side, each with as many items as fit a number of pixels, so that the engine never
drains between two of them and memory does not grow with the shard. An image is in the store before its item's record
names it, and nothing is stored before the execution owns its shard.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import partial

from msgspec import UNSET, UnsetType

from models.backend import ImageBackend
from models.images import Image, ImageRequest, ImageResult, Pixels
from models.spec import EchoOptions, ItemError
from workers.content_credentials import ContentCredentials
from workers.image_items import ImageAsk, ImageItems
from workers.item_files import THREADS, Ask, Write, first_error
from workers.keys import item_file_name
from workers.picture_files import CONTENT_TYPES, SUFFIXES, encode_picture
from workers.picture_sources import load_picture
from workers.pictures import PictureError
from workers.provenance import Provenance
from workers.records import StoredImage
from workers.screening import Screen
from workers.store import ObjectStore

CALLS = 3
"""Of them two keep the engine busy across the end of one, while the third reads its input or stores its images."""
CALL_PIXELS = 12_000_000
"""Of the pictures that a call starts from, and of those that it makes: 36 MB of each."""
CALL_ITEMS = 256
_UNKNOWN_SIDE = 512
OpenCredentials = Callable[[], ContentCredentials]
"""Raises CredentialsError."""


class ImageShard:
    """One execution's images.

    Args:
        items: The shard's.
        store: Where input images are read.
        folder: Where this execution leaves its images.
        write: Stores one.
        ask: Reads what one starts from.
        granted: Set once this execution owns the shard.
        screen: The classifier, for jobs that ask for it.
        credentials: Opens what files are signed with, where they are; asked from several threads.
        options: The echo model's.
    """

    def __init__(
        self,
        items: ImageItems,
        store: ObjectStore,
        *,
        folder: str,
        write: Write,
        ask: Ask,
        granted: asyncio.Event,
        screen: Screen | None,
        credentials: OpenCredentials | None,
        options: EchoOptions | None,
    ) -> None:
        self._items = items
        self._work = items.image
        self._store = store
        self._folder = folder
        self._write = write
        self._ask_store = ask
        self._granted = granted
        self._screen = screen
        self._credentials = credentials
        self._options = options
        self._waiting = deque(items.asks)
        self._reading = asyncio.Lock()
        self._threads = asyncio.Semaphore(THREADS)
        self._call_items = _items_a_call(items)

    async def run(self, backend: ImageBackend) -> None:
        """Make, check and store every image, and settle every item.

        Raises:
            StoreError: a store failed.
            ModelError: the engine failed, or the classifier is not there.
            CredentialsError: files are to be signed, and cannot be.
        """
        try:
            async with asyncio.TaskGroup() as calls:
                for _ in range(min(CALLS, len(self._waiting))):
                    calls.create_task(self._calls(backend))
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors

    async def _calls(self, backend: ImageBackend) -> None:
        while requests := await self._next_requests():
            async with asyncio.TaskGroup() as storing, aclosing(backend.generate(requests)) as groups:
                async for group in groups:
                    storing.create_task(self._take(group))

    async def _next_requests(self) -> list[ImageRequest]:
        """The next items with what they start from; those whose input is bad end here. Empty at the shard's end."""
        async with self._reading:
            requests: list[ImageRequest] = []
            pixels = 0
            while self._waiting and len(requests) < self._call_items and pixels < CALL_PIXELS:
                room = min(THREADS if self._has_input else CALL_ITEMS, self._call_items - len(requests))
                asks = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
                for request in await asyncio.gather(*(self._request(ask) for ask in asks)):
                    if request is not None:
                        requests.append(request)
                        pixels += _input_pixels(request)
            return requests

    @property
    def _has_input(self) -> bool:
        return self._work.input is not None or self._work.style_image is not None

    async def _request(self, ask: ImageAsk) -> ImageRequest | None:
        try:
            image = await self._load(self._work.input, ask.input)
            mask = await self._load(self._work.mask, ask.mask, mask=True)
            style = await self._load(self._work.style_image, ask.style_image)
            _check_cover(image, mask, self._work.mask)
        except PictureError as error:
            self._items.fail(ask.index, error.error)
            return None
        return ImageRequest(
            index=ask.index,
            seed=ask.seed,
            settings=self._items.settings,
            n=ask.n,
            options=self._options,
            prompt=ask.prompt,
            negative=ask.negative,
            image=image,
            mask=mask,
            style_image=style,
            batch=ask.batch,
            place=ask.place,
        )

    async def _load(self, field: str | None, value: object, *, mask: bool = False) -> Pixels | None:
        if field is None:
            return None
        async with self._threads:
            return await self._ask_store(
                lambda: load_picture(value, field, self._store, mask=mask), f"the {field} of an item is read"
            )

    async def _take(self, results: Sequence[ImageResult]) -> None:
        """Settle a group of results: look at all of its pictures at once, then store those that may be."""
        scores = await self._scores([image for result in results for image in result.images])
        async with asyncio.TaskGroup() as storing:
            for result in results:
                own, scores = scores[: len(result.images)], scores[len(result.images) :]
                if result.error is not None:
                    self._items.fail(result.index, result.error)
                elif blocked := self._objection(own):
                    self._items.fail(result.index, blocked)
                else:
                    storing.create_task(self._keep(result, own))

    async def _scores(self, images: Sequence[Image]) -> list[dict[str, float]]:
        if self._work.nsfw_threshold is None or not images:
            return [{} for _ in images]
        if self._screen is None:
            raise AssertionError("the job asks for a classifier, and this process was given none")
        return [dict(found) for found in await self._screen.scores([image.pixels for image in images])]

    def _objection(self, scores: Sequence[dict[str, float]]) -> ItemError | None:
        """Why an item's images may not be stored; if one of them may not, none is."""
        limit = self._work.nsfw_threshold
        for k, found in enumerate(scores):
            worst = max(found.values(), default=0.0)
            if limit is not None and worst >= limit:
                which = f"image {k}" if len(scores) > 1 else "the image"
                return ItemError(
                    "content_filtered",
                    f"{which} was given {worst:.2f} by the classifier, and from {limit:g} on nothing of it is kept",
                )
        return None

    async def _keep(self, result: ImageResult, scores: Sequence[dict[str, float]]) -> None:
        pictures = zip(result.images, scores, strict=True)
        stored = await asyncio.gather(
            *(self._keep_one(result.index, k, image, found) for k, (image, found) in enumerate(pictures))
        )
        self._items.settle(result.index, stored, result.images[0].settings)

    async def _keep_one(self, index: int, k: int, image: Image, scores: dict[str, float]) -> StoredImage:
        work = self._work
        encode = partial(self._encode, image.pixels, self._items.provenance(index, k, image.seed))
        name = item_file_name(index, k if self._items.several else None, SUFFIXES[work.format])
        key, content_type = f"{self._folder}{name}", CONTENT_TYPES[work.format]
        await self._granted.wait()
        async with self._threads:
            data, unsigned = await asyncio.to_thread(encode)
            await self._write(key, data, content_type)
        height, width = image.pixels.shape[:2]
        return StoredImage(
            key=key,
            width=width,
            height=height,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            content_type=content_type,
            seed=image.seed,
            batch=image.batch,
            place=image.place,
            unsigned_sha256=unsigned,
            safety=scores or UNSET,
        )

    def _encode(self, pixels: Pixels, provenance: Provenance | None) -> tuple[bytes, str | UnsetType]:
        """A picture's file, and the digest that it had before it was signed, if it is."""
        work = self._work
        data = encode_picture(pixels, work.format, quality=work.quality, provenance=provenance)
        if self._credentials is None or provenance is None:
            return data, UNSET
        signed = self._credentials().sign(data, CONTENT_TYPES[work.format], provenance)
        return signed, hashlib.sha256(data).hexdigest()


def _items_a_call(items: ImageItems) -> int:
    """Items whose pictures, as far as their size is known beforehand, have as many pixels as a call may."""
    settings = items.settings
    size = (settings.width or _UNKNOWN_SIDE) * (settings.height or _UNKNOWN_SIDE)
    if "upscale" in items.image.steps:
        size *= settings.scale**2
    asked = max((ask.n for ask in items.asks), default=1)
    return max(2, min(CALL_ITEMS, CALL_PIXELS // (size * asked)))


def _check_cover(image: Pixels | None, mask: Pixels | None, field: str | None) -> None:
    if image is not None and mask is not None and image.shape != mask.shape:
        raise PictureError(
            "invalid_image",
            f"{field}: the mask is {mask.shape[1]} by {mask.shape[0]} pixels, and its image "
            f"{image.shape[1]} by {image.shape[0]}",
        )


def _input_pixels(request: ImageRequest) -> int:
    pictures = (request.image, request.mask, request.style_image)
    return sum(picture.shape[0] * picture.shape[1] for picture in pictures if picture is not None)
