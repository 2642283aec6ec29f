"""A TCP proxy that can be broken on purpose: cut, stalled, reset, or made to lose the answer to a request.

It runs on an event loop in a thread of its own, so that synchronous code can use it.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Self

from tests.support.services import free_port

CHUNK = 1 << 16


class TcpProxy:
    """Stands between clients and one server on loopback: use it with `with`, and connect to `port`.

    Args:
        target: port of the server.
    """

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{target}", daemon=True)
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._cut = False
        self._marker = b""
        self._answers_to_lose = 0

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._begin, "127.0.0.1", self.port), self._loop
        ).result()
        return self

    def __exit__(self, *_: object) -> None:
        """End every connection, and the thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def reset(self) -> None:
        """End every connection; new ones are taken."""
        self._call(self._reset)

    def cut(self) -> None:
        """End every connection and every new one, until `restore`."""
        self._cut = True
        self.reset()

    def stall(self) -> None:
        """Let nothing through, in either direction and without a word, until `restore`."""
        self._call(self._flowing.clear)

    def restore(self) -> None:
        """Be a proxy like any other again."""
        self._cut = False
        self._call(self._flowing.set)

    def lose_answers(self, marker: bytes, times: int) -> None:
        """Pass on the next requests that contain `marker`, and end the connection as the server answers."""
        self._marker, self._answers_to_lose = marker, times

    @property
    def answers_to_lose(self) -> int:
        """How many requests of `lose_answers` are still to come."""
        return self._answers_to_lose

    def _call(self, work: object) -> None:
        assert callable(work)
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (work(), done.set()))
        done.wait()

    def _reset(self) -> None:
        for pair in self._pairs:
            pair.abort()

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._accept(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        try:
            behind = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()  # as the server itself would: it is not there
            return
        pair = _Pair(writer, behind[1])
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._pass_on(pair, reader, behind[1], asking=True),
                self._pass_on(pair, behind[0], writer, asking=False),
            )
        finally:
            pair.abort()
            self._pairs.discard(pair)

    async def _pass_on(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asking: bool
    ) -> None:
        with suppress(OSError):  # either side may go at any time
            while data := await reader.read(CHUNK):
                await self._flowing.wait()
                if asking and self._answers_to_lose and self._marker in data:
                    self._answers_to_lose -= 1
                    pair.doomed = True
                elif not asking and pair.doomed:
                    break
                writer.write(data)
                await writer.drain()
        pair.abort()

    async def _close(self) -> None:
        self._server.close()
        self._flowing.set()
        self._reset()
        await asyncio.gather(*self._tasks)


class _Pair:
    """A client's connection and the one that it stands for."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.doomed = False
        self._writers = (client, server)

    def abort(self) -> None:
        """End both."""
        for writer in self._writers:
            writer.transport.abort()
