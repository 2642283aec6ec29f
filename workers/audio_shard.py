"""How the sounds of a shard are made: a few calls to the engine side by side, each sound stored as it is ready.

A call has as many items as fit a number of characters, so that the engine never drains between two of them and memory
does not grow with the shard. A sound is in the store before its item's record names it, and nothing is stored before
the execution owns its shard.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from contextlib import aclosing

from models.audio import AudioRequest, AudioResult, Sound
from models.backend import AudioBackend
from workers.audio_items import AudioItems
from workers.item_files import THREADS, Write, first_error
from workers.keys import item_file_name
from workers.records import StoredAudio
from workers.sound_files import CONTENT_TYPE, SUFFIX, encode_sound

CALLS = 2
"""While the last sentences of one are spoken, the first of the next are."""
CALL_CHARACTERS = 20_000
"""Some twenty minutes of speech: 60 MB."""
CALL_ITEMS = 128


class AudioShard:
    """One execution's sounds.

    Args:
        items: The shard's.
        folder: Where this execution leaves its sounds.
        write: Stores one.
        granted: Set once this execution owns the shard.
    """

    def __init__(self, items: AudioItems, *, folder: str, write: Write, granted: asyncio.Event) -> None:
        self._items = items
        self._folder = folder
        self._write = write
        self._granted = granted
        self._waiting = deque(items.requests)
        self._threads = asyncio.Semaphore(THREADS)

    async def run(self, backend: AudioBackend) -> None:
        """Make and store every sound, and settle every item.

        Raises:
            StoreError: the store failed.
            ModelError: the engine failed.
        """
        try:
            async with asyncio.TaskGroup() as calls:
                for _ in range(min(CALLS, len(self._waiting))):
                    calls.create_task(self._calls(backend))
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors

    async def _calls(self, backend: AudioBackend) -> None:
        while requests := self._next_requests():
            async with asyncio.TaskGroup() as storing, aclosing(backend.generate(requests)) as groups:
                async for group in groups:
                    for result in group:
                        self._take(result, storing)

    def _next_requests(self) -> list[AudioRequest]:
        requests: list[AudioRequest] = []
        characters = 0
        while self._waiting and len(requests) < CALL_ITEMS and characters < CALL_CHARACTERS:
            requests.append(self._waiting.popleft())
            characters += len(requests[-1].text)
        return requests

    def _take(self, result: AudioResult, storing: asyncio.TaskGroup) -> None:
        if result.sound is not None:
            storing.create_task(self._keep(result.index, result.sound))
        elif result.error is not None:
            self._items.fail(result.index, result.error)
        else:
            raise AssertionError(f"item {result.index} was answered with neither a sound nor an error")

    async def _keep(self, index: int, sound: Sound) -> None:
        key = f"{self._folder}{item_file_name(index, None, SUFFIX)}"
        provenance = self._items.provenance(index, sound.seed)
        await self._granted.wait()
        async with self._threads:
            data = await asyncio.to_thread(encode_sound, sound.samples, sound.sample_rate, provenance)
            await self._write(key, data, CONTENT_TYPE)
        stored = StoredAudio(
            key=key,
            seconds=round(sound.seconds, 3),
            sample_rate=sound.sample_rate,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            content_type=CONTENT_TYPE,
            seed=sound.seed,
        )
        self._items.settle(index, stored)
