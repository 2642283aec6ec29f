"""What a pipeline can be asked: which requests are alike, and which it cannot answer."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import diffusers

from models.backends.diffusers_adapters import Adapters
from models.backends.diffusers_device import Pipeline
from models.errors import UnknownModelError
from models.images import ImageRequest, ImageSettings
from models.spec import ItemError

Mode: TypeAlias = Literal["generate", "edit", "inpaint"]
AUTO: dict[Mode, Any] = {
    "generate": diffusers.AutoPipelineForText2Image,
    "edit": diffusers.AutoPipelineForImage2Image,
    "inpaint": diffusers.AutoPipelineForInpainting,
}
DEFAULT_STRENGTH: dict[Mode, float] = {"edit": 0.8, "inpaint": 1.0}
NEEDED = frozenset({"prompt", "num_inference_steps", "generator", "output_type"})
"""What a pipeline must take to make an image from a prompt, and the same one again."""
FOREIGN_NOISE = frozenset({"DPMSolverSDEScheduler"})
"""Schedulers whose noise is drawn by another library, one seed for a whole batch: no picture could be made again."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the requests of one batch have in common."""

    mode: Mode
    width: int
    height: int
    steps: int
    guidance: float | None
    scheduler: str | None
    strength: float | None
    adapters: Adapters
    negative: bool
    """Whether its pictures have negative prompts: some models treat none otherwise than an empty one."""


class Task:
    """One way of using a model: its pipeline, and what that takes."""

    def __init__(self, mode: Mode, pipeline: Pipeline) -> None:
        self.mode = mode
        self.pipeline = pipeline
        self.takes = {name: one.default for name, one in inspect.signature(pipeline.__call__).parameters.items()}


def open_tasks(pipeline: Pipeline) -> dict[Mode, Task]:
    """What a loaded pipeline can do, all of it on the same parts in memory.

    Raises:
        UnknownModelError: it does not make images from prompts.
    """
    name = type(pipeline).__name__
    own: Mode = "inpaint" if "Inpaint" in name else "edit" if "Img2Img" in name or "Pix2Pix" in name else "generate"
    tasks: dict[Mode, Task] = {own: Task(own, pipeline)}
    if not tasks[own].takes.keys() >= NEEDED or "num_frames" in tasks[own].takes:
        raise UnknownModelError(f"{name} does not make images from prompts", "wrong_kind")
    unet, vae = getattr(pipeline, "unet", None), getattr(pipeline, "vae", None)
    if unet is not None and vae is not None and unet.config.in_channels != vae.config.latent_channels:
        return tasks  # made for inputs beside the noise: a mask, an image
    for mode, auto in AUTO.items():
        if mode not in tasks:
            try:
                tasks[mode] = Task(mode, auto.from_pipe(pipeline))
            except ValueError:
                continue  # the library has no such pipeline for this family
    return tasks


class Rules:
    """What a model can be asked. Its methods take microseconds, and the prompt's tokens."""

    def __init__(self, tasks: dict[Mode, Task]) -> None:
        self._tasks = tasks
        any_task = next(iter(tasks.values()))
        pipeline = any_task.pipeline
        self._scheduler_class = type(pipeline.scheduler)
        self.scheduler_config = pipeline.scheduler.config
        self.schedulers = _schedulers(pipeline)
        own = self._scheduler_class.__name__
        self._own_scheduler = own if own in self.schedulers else None  # or nobody could ask for it by this name
        self.multiple = _multiple(pipeline)
        self._default_side = _default_side(pipeline)
        self._tokenizer, self.prompt_tokens = _longest_reader(any_task)

    def scheduler(self, name: str | None) -> Any:  # noqa: ANN401  # any of diffusers' schedulers
        """A fresh scheduler: one that a batch has used may carry its state."""
        return (self.schedulers[name] if name else self._scheduler_class).from_config(self.scheduler_config)

    def look(self, request: ImageRequest, adapters: Adapters) -> Look | ItemError:
        """What the pictures of a request have in common with others, or why it cannot be answered."""
        task = self._task(request)
        if isinstance(task, ItemError):
            return task
        settings = request.settings
        look = Look(
            mode=task.mode,
            width=settings.width or (self._default_side[0] if request.image is None else request.image.shape[1]),
            height=settings.height or (self._default_side[1] if request.image is None else request.image.shape[0]),
            steps=settings.steps or task.takes["num_inference_steps"],
            guidance=task.takes.get("guidance_scale") if settings.guidance is None else settings.guidance,
            scheduler=settings.scheduler,
            strength=_strength(request, task),
            adapters=adapters,
            negative=bool(request.negative),
        )
        return (
            self._size_error(look, request)
            or self._steps_error(look)
            or self._scheduler_error(look)
            or self._prompt_error(request, task)
            or look
        )

    def settings(self, request: ImageRequest, look: Look) -> ImageSettings:
        """What a picture of this look is made with, the model's own choices included."""
        chosen = {
            "width": look.width,
            "height": look.height,
            "steps": look.steps,
            "guidance": look.guidance,
            "scheduler": look.scheduler or self._own_scheduler,
            "strength": look.strength,
            "loras": request.settings.loras or None,
        }
        return ImageSettings.model_validate({name: value for name, value in chosen.items() if value is not None})

    def _task(self, request: ImageRequest) -> Task | ItemError:
        if request.image is None:
            if request.mask is not None:
                return ItemError("image_missing", "there is a mask, and no image that it belongs to")
            if "generate" not in self._tasks:
                wanted = " or ".join(f"{mode}s" for mode in self._tasks)
                return ItemError("image_missing", f"the model {wanted} images: it makes none without an input image")
        elif request.mask is not None and request.mask.shape[:2] != request.image.shape[:2]:
            (mask_height, mask_width), (height, width) = request.mask.shape[:2], request.image.shape[:2]
            return ItemError(
                "mask_size", f"the mask has {mask_width}x{mask_height} pixels, and its image {width}x{height}"
            )
        mode: Mode = "generate" if request.image is None else "edit" if request.mask is None else "inpaint"
        task = self._tasks.get(mode)
        if task is None:
            name = type(next(iter(self._tasks.values())).pipeline).__name__
            return ItemError("unsupported_task", f"{name} cannot {mode}; it can {', '.join(self._tasks)}")
        return task

    def _size_error(self, look: Look, request: ImageRequest) -> ItemError | None:
        if look.width % self.multiple == 0 and look.height % self.multiple == 0:
            return None
        near = "x".join(str(max(1, round(side / self.multiple)) * self.multiple) for side in (look.width, look.height))
        given = request.image is not None and request.settings.width is None
        return ItemError(
            "size_not_multiple",
            f"{'the input image has' if given else 'the size is'} {look.width}x{look.height}, and the model paints "
            f"multiples of {self.multiple}: {near} would do"
            + (" (with width and height given, the input is scaled to them)" if given else ""),
        )

    def _steps_error(self, look: Look) -> ItemError | None:
        if look.strength is None or int(look.steps * look.strength) >= 1:
            return None
        return ItemError(
            "unsupported_setting",
            f"{look.steps} steps at strength {look.strength:g} are less than one step: raise either",
        )

    def _scheduler_error(self, look: Look) -> ItemError | None:
        if look.scheduler is None or look.scheduler in self.schedulers:
            return None
        near = difflib.get_close_matches(look.scheduler, self.schedulers, n=3, cutoff=0.4)
        told = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(sorted(self.schedulers))}"
        return ItemError("unknown_scheduler", f"the model has no scheduler {look.scheduler!r}; {told}")

    def _prompt_error(self, request: ImageRequest, task: Task) -> ItemError | None:
        if request.negative:
            if "negative_prompt" not in task.takes:
                return ItemError("unsupported_setting", "the model takes no negative prompt")
            needs_guidance = "true_cfg_scale" in task.takes and request.settings.guidance is None
            if needs_guidance or (request.settings.guidance is not None and request.settings.guidance <= 1):
                return ItemError("unsupported_setting", "a negative prompt needs a guidance above 1")
        if self._tokenizer is None:
            return None
        for what, text in (("prompt", request.prompt), ("negative prompt", request.negative)):
            tokens = len(self._tokenizer(text, verbose=False).input_ids)
            if tokens > self.prompt_tokens:
                return ItemError(
                    "prompt_too_long",
                    f"the {what} has {tokens} tokens, and the model reads {self.prompt_tokens}; it is not cut short",
                )
        return None


def _strength(request: ImageRequest, task: Task) -> float | None:
    if "strength" not in task.takes:
        return None
    strength = request.settings.strength
    return DEFAULT_STRENGTH[task.mode] if strength is None else strength


def _schedulers(pipeline: Pipeline) -> dict[str, Any]:
    """The schedulers that fit a pipeline and are installed, by name."""
    own = type(pipeline.scheduler)
    # Not `compatibles`, which fails where one of them needs a library that is missing.
    names = {own.__name__, *getattr(own, "_compatibles", ())} - FOREIGN_NOISE
    found = {name: getattr(diffusers, name, None) for name in sorted(names)}
    return {name: one for name, one in found.items() if one is not None and issubclass(one, diffusers.SchedulerMixin)}


def _multiple(pipeline: Pipeline) -> int:
    """What width and height must be multiples of: a latent's pixels, or those of a patch of latents."""
    factor: int = getattr(pipeline, "vae_scale_factor", 8)
    patch = getattr(pipeline, "patch_size", 1) or 1
    processor = getattr(pipeline, "image_processor", None)
    return max(factor * patch, getattr(getattr(processor, "config", None), "vae_scale_factor", 1))


def _default_side(pipeline: Pipeline) -> tuple[int, int]:
    """Width and height of a picture of which neither is asked for."""
    unet = getattr(pipeline, "unet", None)
    size = unet.config.sample_size if unet is not None else getattr(pipeline, "default_sample_size", 128)
    height, width = (size, size) if isinstance(size, int) else size
    factor: int = getattr(pipeline, "vae_scale_factor", 1)
    return width * factor, height * factor


def _longest_reader(task: Task) -> tuple[Any, int]:
    """The tokenizer of the text encoder that reads furthest, and how many tokens that is; (None, 0) without one."""
    readers: list[tuple[int, Any]] = []
    for name, tokenizer in task.pipeline.components.items():
        encoder = task.pipeline.components.get(name.replace("tokenizer", "text_encoder"))
        if not name.startswith("tokenizer") or tokenizer is None or encoder is None:
            continue
        # CLIP's places are numbered; of an encoder that reads any length, the pipeline takes so many.
        limit = task.takes.get("max_sequence_length")
        if limit is None or tokenizer.model_max_length < limit:
            limit = tokenizer.model_max_length
        readers.append((min(limit, getattr(encoder.config, "max_position_embeddings", limit)), tokenizer))
    limit, tokenizer = max(readers, key=lambda reader: reader[0], default=(0, None))
    return tokenizer, limit
