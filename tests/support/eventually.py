"""Waiting for what other processes do, up to a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 120.0
"""How long a test waits for what is bound to happen: many times what it takes, for machines that do much besides."""


def eventually(look: Callable[[], Found], *, within: float = PATIENCE_SECONDS, what: str = "") -> Found:
    """What `look` gives once it is true; AssertionError after `within` seconds."""
    pause = threading.Event()
    deadline = time.monotonic() + within
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what or look}; at last {found!r}")
        pause.wait(LOOK_SECONDS)
    return found
