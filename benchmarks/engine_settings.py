"""What each engine setting is worth on this host: one fresh process a setting, in rounds that take turns.

Each process loads SmolLM2, warms up, and generates the first of the benchmark's requests at their fixed lengths.
Writes results/engine_settings.json and .md after every round. A setting that does not run here is named as such.
Run as `python -m benchmarks.engine_settings [--rounds 3] [--only WORD …]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measuring import keep, machine, rows, said, summary
from models.backends import vllm, vllm_engine
from models.backends.vllm_environment import engine_environment, usable_cores
from models.spec import Message, Sampling, TextRequest
from workers.settings import Settings

HERE = Path(__file__).parent
REQUESTS = HERE / "requests.jsonl"
MODEL = "smollm2-135m"
WARM_UP = 16


@dataclass(frozen=True)
class Setting:
    """Our settings with one of them changed."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    module: str = "models.backends.vllm_inline"
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0})
    vllm_top_p: bool = False
    """Leave top-p to vLLM."""


CORES = usable_cores()
NUCLEUS: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9}
SETTINGS = (
    Setting("ours"),
    Setting("engine in processes of its own (AsyncLLM)", module="models.backends.vllm_async"),
    Setting("compiled, not eager", {"enforce_eager": False}),
    Setting("float32", {"dtype": "float32"}),
    Setting("bfloat16", {"dtype": "bfloat16"}),
    Setting("GNU's OpenMP, not Intel's", environment={"LD_PRELOAD": ""}),
    Setting(
        "threads bound to cores",
        environment={"KMP_AFFINITY": f"granularity=fine,explicit,proclist=[{','.join(map(str, range(CORES)))}]"},
    ),
    Setting("one core reserved", environment={"OMP_NUM_THREADS": str(max(1, CORES - 1))}),
    Setting("threads spin for 200 ms (OpenMP's default)", environment={"KMP_BLOCKTIME": "200"}),
    Setting("threads sleep at once", environment={"KMP_BLOCKTIME": "0"}),
    Setting("64 sequences at once", {"max_num_seqs": 64}),
    Setting("32 sequences at once", {"max_num_seqs": 32}),
    Setting("blocks of 128 tokens, not 32", {"block_size": 128}),
    Setting("no prefix cache", {"enable_prefix_caching": False}),
    Setting("ours, sampled with temperature", sampling={"temperature": 0.7}),
    Setting("ours, sampled with top_p", sampling=NUCLEUS),
    Setting("sampled with vLLM's own top_p", sampling=NUCLEUS, vllm_top_p=True),
)


def measure(setting: Setting, count: int) -> dict[str, float]:
    """Seconds of imports and loading, and tokens a second. For a process that does nothing else."""
    started = time.perf_counter()
    vllm.prewarm()
    imported = time.perf_counter()
    ours = vllm_engine.engine_arguments
    module = sys.modules.get(setting.module)
    arguments = lambda folder: {**ours(folder), **setting.arguments}  # noqa: E731
    if module is None:
        vllm_engine.engine_arguments = arguments
    else:
        vars(module)["engine_arguments"] = arguments
    if setting.vllm_top_p:
        vars(sys.modules["models.backends.vllm_requests"])["is_cpu_build"] = lambda: False
    return asyncio.run(_generate(setting, count)) | {"import": imported - started}


async def _generate(setting: Setting, count: int) -> dict[str, float]:
    backend = vllm.VllmBackend(MODEL, cache_dir=Settings().cache_dir, module=setting.module)
    started = time.perf_counter()
    await backend.load()
    loaded = time.perf_counter()
    async for _ in backend.generate(_requests(setting, WARM_UP)):
        pass
    tokens = 0
    began = time.perf_counter()
    async for results in backend.generate(_requests(setting, count)):
        tokens += sum(result.usage.completion_tokens for result in results)
    seconds = time.perf_counter() - began
    await backend.close()
    return {"load": loaded - started, "tokens_per_second": tokens / seconds}


def _requests(setting: Setting, count: int) -> list[TextRequest]:
    return [
        TextRequest(
            index=index,
            messages=(Message("user", line["prompt"]),),
            sampling=Sampling(max_tokens=line["max_tokens"], ignore_eos=True, **setting.sampling),
            seed=index,
        )
        for index, line in enumerate(map(json.loads, REQUESTS.read_text().splitlines()[:count]))
    ]


def _in_a_process(setting: Setting, count: int) -> dict[str, float] | None:
    """Its figures, or None where the engine does not run with it."""
    environment = {**os.environ, **engine_environment(), **setting.environment}
    command = [sys.executable, "-m", "benchmarks.engine_settings", "--one", setting.name, "--requests", str(count)]
    done = subprocess.run(
        command,
        env=environment,
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        print(f"{setting.name} does not run:\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _report(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    ours = summary([run["tokens_per_second"] for run in runs["ours"]])["median"]
    body: list[list[str]] = []
    for name, each in runs.items():
        if not each:
            body.append([name, "does not run", "", "", ""])
            continue
        speed = summary([run["tokens_per_second"] for run in each])
        load = summary([run["load"] for run in each])
        body.append(
            [
                name,
                f"{speed['median']:.0f}",
                f"{speed['min']:.0f} to {speed['max']:.0f}",
                f"{speed['median'] / ours:.2f}",
                f"{load['median']:.1f}",
            ]
        )
    return rows(["setting", "tokens/s, median", "spread", "against ours", "load, seconds"], body)


def main() -> None:
    """Measure every setting, or one where asked by this script itself."""
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--requests", type=int, default=128)
    options.add_argument("--only", nargs="*", default=[])
    options.add_argument("--one")
    asked = options.parse_args()
    if asked.one:
        setting = next(setting for setting in SETTINGS if setting.name == asked.one)
        print(json.dumps(measure(setting, asked.requests)))
        return
    settings = [s for s in SETTINGS if not asked.only or s.name == "ours" or any(word in s.name for word in asked.only)]
    before = machine()
    runs: dict[str, list[dict[str, float]]] = {}
    for number in range(asked.rounds):
        for setting in settings if number % 2 == 0 else reversed(settings):
            with said(f"round {number + 1}: {setting.name}"):
                figures = _in_a_process(setting, asked.requests)
                runs.setdefault(setting.name, []).extend([figures] if figures is not None else [])
        keep("engine_settings", {"machine": before, "requests": asked.requests, "runs": runs}, _report(runs))


if __name__ == "__main__":
    main()
