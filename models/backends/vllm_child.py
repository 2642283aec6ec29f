"""What Nightmill does in each process that vLLM starts: see to it that it does not outlive the one that started it.

vLLM calls `end_with_parent` through the entry point `vllm.general_plugins` (pyproject.toml), which it loads in every
process of an engine before the model is loaded. Nothing heavy is imported here.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2), from linux/prctl.h


def end_with_parent() -> None:
    """In a child process: have the kernel kill it when its parent dies, however that dies. Elsewhere: nothing.

    Raises:
        OSError: the kernel refused.
    """
    parent = multiprocessing.parent_process()
    if parent is None or sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl(PR_SET_PDEATHSIG)")
    # The signal is for a death still to come: one that came before the call is seen here.
    if os.getppid() != parent.pid:
        os._exit(1)
