"""A process with one child, for tests: `python -m tests.support.spawned MODE` says the child's id, and waits.

The child asks to end with its parent (`asks`), does not (`silent`), or asks once its parent has gone (`late`).
"""

from __future__ import annotations

import multiprocessing
import sys
import threading

from models.backends.vllm_child import end_with_parent


def child(mode: str, ready: multiprocessing.synchronize.Event) -> None:
    """Do as the mode says, and wait."""
    if mode == "asks":
        end_with_parent()
    ready.set()
    if mode == "late":
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        end_with_parent()
    threading.Event().wait()


def main() -> None:
    """Start the child as an engine starts its own: in a fresh interpreter."""
    spawning = multiprocessing.get_context("spawn")
    ready = spawning.Event()
    process = spawning.Process(target=child, args=(sys.argv[1], ready), daemon=True)
    process.start()
    ready.wait()
    print(process.pid, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
