"""Whether a process still runs."""

from __future__ import annotations

import psutil


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than one that has ended and that nobody has asked about yet."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
