"""The diffusers back-end against the bare pipeline, on the same images in one process, in rounds that take turns.

A Stable Diffusion pipeline of a middle size with random weights: what an image costs does not depend on what is in the
weights. The bare pipeline runs in the same precision at its best batch size, which is found by trying. The back-end
finds its own, is given all requests in two calls at once, as two shards, and hands over pixels, not files.

Writes results/images.json and results/images.md. Run as `python -m benchmarks.images [--rounds 3] [--images 16]
[--steps 8]`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import keep, machine, rows, said, summary
from models.backends import diffusers_device
from models.backends.diffusers import DiffusersBackend
from models.images import ImageRequest, ImageSettings
from models.spec import output_seed
from tests.support.pipelines import save_pipeline

GOAL = 0.95
WIDER = 4
"""The UNet has 15 million parameters then, and a step takes a tenth of a second on two cores."""
SIDE = 64
TRIED = (1, 2, 4, 8)
TRIES = 2
GUIDANCE = 7.5


def _requests(count: int, steps: int) -> list[ImageRequest]:
    settings = ImageSettings(width=SIDE, height=SIDE, steps=steps, guidance=GUIDANCE)
    return [
        ImageRequest(index=k, seed=output_seed(1, k), prompt=f"product {k}", settings=settings) for k in range(count)
    ]


class Bare:
    """The pipeline itself, as its documentation calls it."""

    def __init__(self, folder: Path) -> None:
        import diffusers  # noqa: PLC0415  # after the back-end's import of it, which keeps its warnings quiet

        loader: Any = diffusers.DiffusionPipeline
        where = diffusers_device.device()
        self._pipeline = loader.from_pretrained(folder, dtype=diffusers_device.precision(where)).to(where)
        self._pipeline.set_progress_bar_config(disable=True)

    def run(self, requests: Sequence[ImageRequest], batch: int) -> float:
        """Seconds for all requests in batches of one size."""
        started = time.perf_counter()
        for start in range(0, len(requests), batch):
            part = requests[start : start + batch]
            self._pipeline(
                prompt=[request.prompt for request in part],
                generator=[torch.Generator().manual_seed(request.seed) for request in part],
                width=SIDE,
                height=SIDE,
                num_inference_steps=part[0].settings.steps,
                guidance_scale=GUIDANCE,
            )
        return time.perf_counter() - started

    def best_batch(self, requests: Sequence[ImageRequest]) -> tuple[int, dict[int, float]]:
        """The fastest of the tried batch sizes, and each one's images a second."""
        self.run(requests[:1], 1)
        speeds = {
            batch: len(requests) / min(self.run(requests, batch) for _ in range(TRIES))
            for batch in TRIED
            if batch <= len(requests)
        }
        return max(speeds, key=lambda batch: speeds[batch]), speeds


async def _ours(backend: DiffusersBackend, requests: Sequence[ImageRequest]) -> tuple[float, list[int]]:
    """Seconds for all requests, given as two shards, and the batch of each image."""

    async def shard(part: Sequence[ImageRequest]) -> list[int]:
        results = [result async for group in backend.generate(part) for result in group]
        failed = [result.error for result in results if result.error is not None]
        if failed:
            raise RuntimeError(f"{len(failed)} images failed: {failed[0]}")
        return [image.batch for result in results for image in result.images]

    half = len(requests) // 2
    started = time.perf_counter()
    batches = await asyncio.gather(shard(requests[:half]), shard(requests[half:]))
    return time.perf_counter() - started, [batch for part in batches for batch in part]


async def _measure(rounds: int, count: int, steps: int) -> dict[str, Any]:
    before = machine()
    requests = _requests(count, steps)
    with tempfile.TemporaryDirectory(prefix="nm-bench-") as name:
        folder = save_pipeline("sd", Path(name), scale=WIDER)
        backend = DiffusersBackend(str(folder), cache_dir=folder)
        info = await backend.load()
        bare = await asyncio.to_thread(Bare, folder)
        with said("bare pipeline: looking for its best batch"):
            best, tried = await asyncio.to_thread(bare.best_batch, requests)
        await _ours(backend, requests[:1])
        speeds: dict[str, list[float]] = {"bare pipeline": [], "back-end": []}
        computed: dict[str, list[float]] = {name: [] for name in speeds}
        batches: list[int] = []
        for number in range(rounds):
            for participant in list(speeds)[:: 1 if number % 2 == 0 else -1]:
                at_start = time.process_time()
                with said(f"round {number + 1}: {participant}"):
                    if participant == "back-end":
                        seconds, batches = await _ours(backend, requests)
                    else:
                        seconds = await asyncio.to_thread(bare.run, requests, best)
                speeds[participant].append(count / seconds)
                computed[participant].append((time.process_time() - at_start) / count)
        await backend.close()
    each = [ours / other for ours, other in zip(speeds["back-end"], speeds["bare pipeline"], strict=True)]
    return {
        "machine": before,
        "threads": torch.get_num_threads(),
        "precision": str(diffusers_device.precision(diffusers_device.device())),
        "images": count,
        "steps": steps,
        "side": SIDE,
        "load_seconds": info.load_seconds,
        "tried": tried,
        "batch": {"bare pipeline": best, "back-end": statistics.mode(batches)},
        "images_per_second": {name: {**summary(found), "each": found} for name, found in speeds.items()},
        "processor_seconds_per_image": {name: summary(found) for name, found in computed.items()},
        "ratio": {**summary(each), "each": each, "goal": GOAL},
    }


def _table(figures: dict[str, Any]) -> str:
    head = (
        f"{figures['images']} images of {SIDE}x{SIDE}, {figures['steps']} steps with guidance, {figures['precision']}, "
        f"{figures['threads']} threads ({figures['machine']['processor']}, load before "
        f"{figures['machine']['load_before']:.1f})\n\n"
    )
    speeds = rows(
        ["participant", "batch", "images/s, median", "min", "max", "processor seconds an image, median"],
        [
            [
                name,
                figures["batch"][name],
                *(f"{speed[key]:.2f}" for key in ("median", "min", "max")),
                f"{figures['processor_seconds_per_image'][name]['median']:.2f}",
            ]
            for name, speed in figures["images_per_second"].items()
        ],
    )
    tried = rows(
        ["bare pipeline's batch, tried", *map(str, figures["tried"])],
        [["images/s", *(f"{speed:.2f}" for speed in figures["tried"].values())]],
    )
    ratio = figures["ratio"]
    compared = rows(
        ["ratio of speeds", "median", "each round"],
        [
            [
                f"back-end / bare pipeline (goal {GOAL})",
                f"{ratio['median']:.2f}",
                ", ".join(f"{value:.2f}" for value in ratio["each"]),
            ]
        ],
    )
    return f"{head}{speeds}\n{tried}\n{compared}"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--images", type=int, default=16)
    options.add_argument("--steps", type=int, default=8)
    given = options.parse_args()
    figures = asyncio.run(_measure(given.rounds, given.images, given.steps))
    keep("images", figures, _table(figures))


if __name__ == "__main__":
    main()
