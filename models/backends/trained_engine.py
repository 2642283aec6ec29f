"""Models that were trained here, in a thread of this process.

Every batch is computed with `ROWS` rows, whatever is asked: with one shape of their input, the kernels give a row the
same bytes wherever it stands and whatever else is in the batch. tests/unit/test_trained_engine.py proves it for every
family. What it costs is a whole batch's time for the last pictures of a job.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import cast

import torch

from models.backends.image_batches import Picture
from models.backends.image_engine import ImageEngine
from models.backends.trained_conditions import Conditions, conditions
from models.errors import UnknownModelError
from models.images import ImageRequest, ImageSettings, Pixels
from models.spec import ItemError, Reproducible
from models.training.loop import to_pixels
from models.training.saved import LoadedModel, load_model
from models.weights import check_folder, check_whole, is_folder_name, revision

__all__ = ["TrainedEngine", "locate", "revision", "start"]

ROWS = 16
SHIPPED = Path(__file__).parents[1] / "trained"


def locate(name: str, cache_dir: Path) -> Path:  # noqa: ARG001  # nothing of such a model is converted or fetched
    """The folder of a model.

    Raises:
        UnknownModelError: there is no such model.
        ModelError: kind MODEL, code `weights_damaged`.
    """
    if is_folder_name(name):
        folder = check_folder(name)
    else:
        folder = SHIPPED / name
        if not (folder / "config.json").is_file():
            shipped = sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))
            raise UnknownModelError(f"there is no trained model {name!r}; shipped are {', '.join(shipped)}")
    check_whole(folder)
    return folder


async def start(folder: Path, cache_dir: Path) -> TrainedEngine:  # noqa: ARG001  # see `locate`
    """Load a model into a new engine.

    Raises:
        ModelError: kind MODEL, as `models.training.saved.load_model`.
    """
    engine = TrainedEngine()
    await engine.open(folder)
    return engine


class TrainedEngine(ImageEngine):
    """A model, and what is made of a prompt for it."""

    reproducible: Reproducible = "exact"
    _model: LoadedModel
    _conditions: Conditions

    def shape(self, request: ImageRequest) -> tuple[int | None, float | None] | ItemError:
        """Steps and guidance, where the family has them."""
        refused = self._refuse(request) or self._conditions.refuse(request)
        if refused is not None:
            return refused
        return request.settings.steps, request.settings.guidance

    def _refuse(self, request: ImageRequest) -> ItemError | None:
        settings, about, sampler = request.settings, self._model.about, self._model.sampler
        space = about.space
        if settings.width is not None and (settings.width, settings.height) != (space.width, space.height):
            return ItemError(
                "wrong_size",
                f"the size is {settings.width}x{settings.height}, and the model makes {space.width}x{space.height} "
                "only: leave width and height out, or upscale what it makes",
            )
        if request.image is not None or request.mask is not None or request.style_image is not None:
            return ItemError("unsupported_task", "the model makes images of prompts; it takes no input image")
        given = {
            "steps": settings.steps is not None and sampler.default_steps is None,
            "guidance": settings.guidance is not None and sampler.default_guidance is None,
            "scheduler": settings.scheduler is not None,
            "loras": bool(settings.loras),
        }
        unsupported = [name for name, is_given in given.items() if is_given]
        if unsupported:
            return ItemError("unsupported_setting", f"{about.family} models have no {' and no '.join(unsupported)}")
        return None

    def settings(self, request: ImageRequest, shape: Hashable) -> ImageSettings:  # noqa: ARG002  # the same for all
        """See `ImageEngine`."""
        steps, guidance = cast("tuple[int | None, float | None]", shape)
        space, sampler = self._model.about.space, self._model.sampler
        chosen = {
            "width": space.width,
            "height": space.height,
            "steps": sampler.default_steps if steps is None else steps,
            "guidance": sampler.default_guidance if guidance is None else guidance,
        }
        return ImageSettings.model_validate({name: value for name, value in chosen.items() if value is not None})

    def first_size(self, shape: Hashable) -> int:  # noqa: ARG002  # one size for all
        """`ROWS`."""
        return ROWS

    def paint(self, shape: Hashable, pictures: Sequence[Picture]) -> Sequence[Pixels | ItemError]:
        """See `ImageEngine`. More than `ROWS` pictures, which a replay may ask for, are computed in parts."""
        steps, guidance = cast("tuple[int | None, float | None]", shape)
        painted: list[Pixels | ItemError] = []
        for start in range(0, len(pictures), ROWS):
            part = pictures[start : start + ROWS]
            rows = list(part) + [part[0]] * (ROWS - len(part))
            noise = torch.stack([self._noise(picture) for picture in rows])
            labels = torch.stack([self._conditions.of(picture.request) for picture in rows])
            images = self._model.sampler.make(noise, labels, steps=steps, guidance=guidance, between=self.between_steps)
            painted += list(to_pixels(images[: len(part)]))
        return painted

    def _noise(self, picture: Picture) -> torch.Tensor:
        return self._model.sampler.noise(torch.Generator().manual_seed(picture.seed))

    def _load(self, folder: Path) -> None:
        self._model = load_model(folder)
        self._conditions = conditions(self._model)

    def _unload(self) -> None:
        del self._model, self._conditions
