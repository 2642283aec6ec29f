"""diffusers in a thread of this process."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, cast

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image as Pillow

from models.backends import diffusers_device
from models.backends.diffusers_adapters import AdapterShelf
from models.backends.diffusers_device import BatchMemory, Pipeline
from models.backends.diffusers_folder import locate, revision, variant
from models.backends.diffusers_requests import Look, Mode, Rules, Task, open_tasks
from models.backends.image_batches import Picture
from models.backends.image_engine import ImageEngine
from models.images import ImageRequest, ImageSettings, Pixels
from models.spec import ItemError

__all__ = ["DiffusersEngine", "locate", "revision", "start"]


async def start(folder: Path, cache_dir: Path) -> DiffusersEngine:
    """Load a pipeline into a new engine. Adapters that are named, and no folders, are those in `cache_dir/adapters`.

    Raises:
        Exception: whatever diffusers raises on a pipeline that it cannot load.
    """
    engine = DiffusersEngine(cache_dir)
    await engine.open(folder)
    return engine


class DiffusersEngine(ImageEngine):
    """A pipeline, its adapters and its pictures."""

    _pipeline: Pipeline
    _tasks: dict[Mode, Task]
    _rules: Rules
    _adapters: AdapterShelf
    _memory: BatchMemory

    def __init__(self, cache_dir: Path) -> None:
        super().__init__()
        self._cache_dir = cache_dir
        self._offload: diffusers_device.Offload = "none"
        self._placed: Mode | None = None

    def shape(self, request: ImageRequest) -> Look | ItemError:
        """See `ImageEngine`."""
        adapters = self._adapters.check(request.settings.loras)
        return adapters if isinstance(adapters, ItemError) else self._rules.look(request, adapters)

    def settings(self, request: ImageRequest, shape: Hashable) -> ImageSettings:
        """See `ImageEngine`."""
        return self._rules.settings(request, cast("Look", shape))

    def first_size(self, shape: Hashable) -> int:
        """See `ImageEngine`."""
        look = cast("Look", shape)
        return self._memory.guess(look.width * look.height)

    def painted(self, shape: Hashable, size: int) -> None:
        """See `ImageEngine`."""
        measured = self._memory.measured(size)
        if measured is not None:
            self._sizes.learn(shape, measured)

    def paint(self, shape: Hashable, pictures: Sequence[Picture]) -> Sequence[Pixels | ItemError]:
        """See `ImageEngine`."""
        look = cast("Look", shape)
        task = self._tasks[look.mode]
        if self._placed != look.mode and self._offload != "none":
            diffusers_device.place(task.pipeline, self._offload)
            self._placed = look.mode
        self._adapters.use(look.adapters)
        task.pipeline.scheduler = self._rules.scheduler(look.scheduler)
        self._memory.begin()
        try:
            output = task.pipeline(**self._arguments(task, look, pictures))
        except BaseException:
            # What is offloaded goes back only at a run's own end; two parts at once could be more than a GPU holds.
            task.pipeline.maybe_free_model_hooks()
            raise
        unsafe = getattr(output, "nsfw_content_detected", None) or [False] * len(pictures)
        return [
            ItemError("content_filtered", "the model's own safety checker has blacked it out") if blocked else pixels
            for pixels, blocked in zip(_pixels(output.images), unsafe, strict=True)
        ]

    def _arguments(self, task: Task, look: Look, pictures: Sequence[Picture]) -> dict[str, Any]:
        requests = [picture.request for picture in pictures]
        wanted: dict[str, Any] = {
            "prompt": [request.prompt for request in requests],
            "num_inference_steps": look.steps,
            "guidance_scale": look.guidance,
            "generator": [torch.Generator().manual_seed(picture.seed) for picture in pictures],
            "output_type": "np",
            "callback_on_step_end": self._after_step,
            "width": look.width,
            "height": look.height,
        }
        if look.negative:
            wanted["negative_prompt"] = [request.negative for request in requests]
            if "true_cfg_scale" in task.takes:
                # Such models were trained with their guidance as an input; that of two passes is a setting of its own.
                wanted["true_cfg_scale"] = look.guidance
                wanted["guidance_scale"] = task.takes["guidance_scale"]
        if look.mode != "generate":
            wanted["image"] = [_opaque(request.image, look) for request in requests]
            wanted["strength"] = look.strength
        if look.mode == "inpaint":
            wanted["mask_image"] = [_mask(request.mask, look) for request in requests]
        return {name: value for name, value in wanted.items() if name in task.takes}

    def _after_step(self, _pipeline: Pipeline, _step: int, _time: object, tensors: dict[str, Any]) -> dict[str, Any]:
        self.between_steps()
        return tensors

    def _load(self, folder: Path) -> None:
        diffusers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        where = diffusers_device.device()
        loader: Any = diffusers.DiffusionPipeline  # its methods are only in part typed
        self._pipeline = loader.from_pretrained(
            folder,
            dtype=diffusers_device.precision(where),
            variant=variant(folder),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        self._memory = BatchMemory(where)
        if where == "cuda":
            parts = diffusers_device.part_bytes(self._pipeline)
            self._offload = diffusers_device.choose_offload(parts, torch.cuda.mem_get_info()[0])
            if self._offload == "none":
                diffusers_device.place(self._pipeline, self._offload)
        if hasattr(getattr(self._pipeline, "vae", None), "enable_slicing"):
            # One picture at a time: it is as fast, and a batch's memory no longer grows with what decodes it.
            self._pipeline.vae.enable_slicing()
        self._tasks = open_tasks(self._pipeline)
        for task in self._tasks.values():
            task.pipeline.set_progress_bar_config(disable=True)
        self._rules = Rules(self._tasks)
        self._adapters = AdapterShelf(self._pipeline, self._cache_dir)
        self.prompt_tokens = self._rules.prompt_tokens

    def _unload(self) -> None:
        self._tasks.clear()
        del self._pipeline, self._adapters, self._rules


def _pixels(images: Any) -> list[Pixels]:  # noqa: ANN401  # floats of 0 to 1: (pictures, height, width, 3)
    return list((np.asarray(images) * 255).round().clip(0, 255).astype(np.uint8))


def _opaque(pixels: Pixels | None, look: Look) -> Pillow.Image:
    """An input image in the batch's size, on white where it was transparent."""
    if pixels is None:
        raise AssertionError("a picture without an input image is in a batch of edits")
    image = Pillow.fromarray(pixels)
    if image.mode == "RGBA":
        image = Pillow.alpha_composite(Pillow.new("RGBA", image.size, "white"), image)
    return _scaled(image.convert("RGB"), look)


def _mask(pixels: Pixels | None, look: Look) -> Pillow.Image:
    if pixels is None:
        raise AssertionError("a picture without a mask is in a batch of inpaintings")
    return _scaled(Pillow.fromarray(pixels[..., :3]).convert("L"), look)


def _scaled(image: Pillow.Image, look: Look) -> Pillow.Image:
    size = look.width, look.height
    return image if image.size == size else image.resize(size, Pillow.Resampling.LANCZOS)
