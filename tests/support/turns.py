"""Turns of the event loop, for tests of what goes on beside each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def turns(count: int = 1) -> None:
    """Let everything else that can go on do so, so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def turns_until(true: Callable[[], bool], *, within: float = 30.0) -> None:
    """Let everything else go on until something is true."""
    async with asyncio.timeout(within):
        while not true():
            await turns()
