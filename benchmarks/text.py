"""A text job against the engine alone, on the same 256 requests in rounds that take turns.

- bare: vLLM's offline class in a fresh process with our engine settings; generation alone is timed.
- run_batch: vLLM's own batch command, its whole process, with its defaults and with our settings.
- cold: a Nightmill job from upload to results, stack up, model not loaded.
- warm: the same job on another fresh stack, whose model another job has loaded. After itself it would find its prompts
  in the engine's cache, which none of the others does.

Writes results/text.json and results/text.md. With --engine-alone only bare engine and Nightmill take part, and the
files are results/text_engine.json and .md. Run as `python -m benchmarks.text [--rounds 3] [--engine-alone]`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measuring import Memory, Stack, keep, machine, rows, said, summary
from models import weights
from models.backends.vllm_engine import engine_arguments
from models.backends.vllm_environment import engine_environment
from workers.settings import Settings

HERE = Path(__file__).parent
REQUESTS = HERE / "requests.jsonl"
MODEL = "smollm2-135m"
SPEC: dict[str, Any] = {
    "name": "benchmark",
    "model": MODEL,
    "engine": "vllm",
    "source": {"custom_id": "custom_id"},
    "prompt": "{{ prompt }}",
    "max_tokens_field": "max_tokens",
    "sampling": {"temperature": 0, "max_tokens": 128, "ignore_eos": True},
}


PARTICIPANTS = ("bare engine", "run_batch, defaults", "run_batch, our settings", "nightmill")


def _take_turn(participant: str, folder: Path, weights_folder: Path) -> dict[str, dict[str, Any]]:
    if participant == "nightmill":
        return dict(zip(("nightmill, cold", "nightmill, warm"), nightmill(folder), strict=True))
    if participant == "bare engine":
        return {participant: bare(folder)}
    return {participant: run_batch(folder, weights_folder, ours=participant.endswith("our settings"))}


def bare(folder: Path) -> dict[str, Any]:
    """Generation alone, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.bare_engine", str(REQUESTS), str(Settings().cache_dir)]
    done, peak = _process(command, engine_environment(), folder)
    answer: dict[str, Any] = json.loads(done.splitlines()[-1])
    return {"seconds": answer["seconds"], "tokens": answer["tokens"], "texts": answer["texts"], "peak": peak}


def run_batch(folder: Path, weights_folder: Path, *, ours: bool) -> dict[str, Any]:
    """vLLM's batch command from the start of its process to its end."""
    requests = [json.loads(line) for line in REQUESTS.read_text().splitlines()]
    source, output = folder / "batch.jsonl", folder / "batch-out.jsonl"
    with source.open("w") as file:
        for request in requests:
            body = {
                "model": str(weights_folder),
                "messages": [{"role": "user", "content": request["prompt"]}],
                "max_tokens": request["max_tokens"],
                "temperature": 0,
                "ignore_eos": True,
            }
            line = {"custom_id": request["custom_id"], "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    command = [sys.executable, "-m", "vllm.entrypoints.openai.run_batch", "-i", str(source), "-o", str(output)]
    command += ["--model", str(weights_folder)]
    if ours:
        settings = engine_arguments(weights_folder)
        command += [
            f"--dtype={str(settings['dtype']).removeprefix('torch.')}",
            "--enforce-eager",
            "--no-enable-chunked-prefill",
            f"--max-model-len={settings['max_model_len']}",
            f"--max-num-seqs={settings['max_num_seqs']}",
            f"--block-size={settings['block_size']}",
            f"--kv-cache-memory-bytes={settings['kv_cache_memory_bytes']}",
        ]
    else:
        # vLLM's default, 92 % of the memory, fails to start on a host that runs anything else.
        command += ["--gpu-memory-utilization=0.5"]
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    started = time.perf_counter()
    _, peak = _process(command, engine_environment() if ours else quiet, folder)
    seconds = time.perf_counter() - started
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    bodies = [answer["response"]["body"] for answer in answers]
    return {
        "seconds": seconds,
        "tokens": sum(body["usage"]["completion_tokens"] for body in bodies),
        "texts": [body["choices"][0]["message"]["content"] for body in bodies],
        "peak": peak,
    }


def nightmill(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job with the model not loaded, and the same with it loaded, each on a fresh stack."""
    with Stack(folder / "cold") as stack:
        _settle()
        cold = _job(stack, folder / "cold.jsonl")
    first = folder / "first.jsonl"
    first.write_text(json.dumps({"custom_id": "first", "prompt": "Count to ten.", "max_tokens": 16}) + "\n")
    with Stack(folder / "warm") as stack:
        _settle()
        with Memory(stack.pid) as memory:
            stack.run(SPEC, first, folder / "first-out.jsonl")
            warm = _job(stack, folder / "warm.jsonl")
        warm["peak"] = memory.mebibytes()
    return cold, warm


def _settle() -> None:
    """Wait until the stack uses no more processor time: it has started when its workers have."""
    quiet = 0
    while quiet < 3:
        quiet = quiet + 1 if psutil.cpu_percent(interval=1.0) < 25 else 0


def _job(stack: Stack, output: Path) -> dict[str, Any]:
    seconds, job = stack.run(SPEC, REQUESTS, output)
    records = [json.loads(line) for line in output.read_text().splitlines()]
    return {
        "seconds": seconds,
        "tokens": sum(record["usage"]["completion_tokens"] for record in records),
        "texts": [record["output"] for record in records],
        "timings": job["timings"],
    }


def _process(command: list[str], environment: dict[str, str], folder: Path) -> tuple[str, dict[str, int]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "LD_PRELOAD"))}
    errors = folder / "stderr.log"
    with errors.open("w") as log:
        process = subprocess.Popen(
            command, env={**clean, **environment}, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=log, text=True
        )
        with Memory(process.pid) as memory:
            output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{command[2]} ended with {process.returncode}:\n{errors.read_text()[-3000:]}")
    return output, memory.mebibytes()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument(
        "--engine-alone", action="store_true", help="leave run_batch out, which takes most of the time"
    )
    given = options.parse_args()
    rounds = given.rounds
    participants = [one for one in PARTICIPANTS if not (given.engine_alone and one.startswith("run_batch"))]
    runs: dict[str, list[dict[str, Any]]] = {}
    before = machine()
    weights_folder = weights.locate(MODEL, Settings().cache_dir)
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="nm-bench-", ignore_cleanup_errors=True) as name:
            # Each round begins with another one: whatever the machine does by the hour hits all of them.
            for turn in range(len(participants)):
                participant = participants[(number + turn) % len(participants)]
                with said(f"round {number + 1}: {participant}"):
                    for key, run in _take_turn(participant, Path(name), weights_folder).items():
                        runs.setdefault(key, []).append(run)
    keep("text_engine" if given.engine_alone else "text", *_report(runs, before))


def _report(runs: dict[str, list[dict[str, Any]]], before: dict[str, Any]) -> tuple[dict[str, Any], str]:
    totals = {run["tokens"] for kind in runs.values() for run in kind}
    if len(totals) != 1:
        raise RuntimeError(f"participants generated different numbers of tokens: {sorted(totals)}")
    tokens = totals.pop()
    reference = runs["bare engine"][0]["texts"]
    speeds = {key: summary([tokens / run["seconds"] for run in kind]) for key, kind in runs.items()}
    same = {
        key: sum(a == b for a, b in zip(reference, kind[-1]["texts"], strict=True)) / len(reference)
        for key, kind in runs.items()
    }
    compared = {
        "warm job / bare engine (goal 0.95)": ("nightmill, warm", "bare engine"),
        "cold job / run_batch with defaults (goal 1)": ("nightmill, cold", "run_batch, defaults"),
        "cold job / run_batch with our settings (goal 0.9)": ("nightmill, cold", "run_batch, our settings"),
    }
    goals = {name: _ratio(runs, *pair) for name, pair in compared.items() if pair[1] in runs}
    table = f"256 requests, {tokens:,} generated tokens, greedy, {before['cores']} cores ({before['processor']})\n\n"
    table += rows(
        ["participant", "tokens/s, median", "min", "max", "seconds, median", "same texts as bare", "peak memory, MiB"],
        [
            [
                key,
                f"{speed['median']:.0f}",
                f"{speed['min']:.0f}",
                f"{speed['max']:.0f}",
                f"{tokens / speed['median']:.1f}",
                f"{same[key]:.0%}",
                ", ".join(f"{role} {size:,}" for role, size in list(runs[key][-1].get("peak", {}).items())[:5])
                or "not sampled",
            ]
            for key, speed in speeds.items()
        ],
    )
    table += "\n" + rows(
        ["ratio of speeds", "median", "each round"],
        [
            [name, f"{found['median']:.2f}", ", ".join(f"{value:.2f}" for value in found["each"])]
            for name, found in goals.items()
        ],
    )
    for kind in runs.values():
        for run in kind:
            del run["texts"]
    return {"machine": before, "tokens": tokens, "tokens_per_second": speeds, "ratios": goals, "runs": runs}, table


def _ratio(runs: dict[str, list[dict[str, Any]]], one: str, other: str) -> dict[str, Any]:
    each = [b["seconds"] / a["seconds"] for a, b in zip(runs[one], runs[other], strict=True)]
    return {**summary(each), "each": each}


if __name__ == "__main__":
    main()
