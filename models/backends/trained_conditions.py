"""What a trained model draws: a class that the prompt names, or whatever the prompt says."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from models.class_prompts import ClassPrompts
from models.images import ImageRequest
from models.spec import ItemError
from models.training.saved import LoadedModel
from models.training.sentences import SentenceEncoder


class Conditions(Protocol):
    """The way from requests to what `Sampler.make` takes for each image."""

    def refuse(self, request: ImageRequest) -> ItemError | None:
        """Why the model cannot draw it; None where it can."""
        ...

    def of(self, request: ImageRequest) -> Tensor:
        """The condition of an image: a function of the request alone."""
        ...


class ClassConditions:
    """The index of the class that a prompt names."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._prompts = ClassPrompts(classes)

    def refuse(self, request: ImageRequest) -> ItemError | None:
        """Prompts that name no class, and negative prompts."""
        if self._prompts.find(request.prompt) is None:
            return ItemError("unknown_class", self._prompts.unknown(request.prompt))
        if request.negative:
            return ItemError("unsupported_setting", "a model of classes has no negative prompt")
        return None

    def of(self, request: ImageRequest) -> Tensor:
        """See `Conditions`."""
        return torch.tensor(self._prompts.find(request.prompt))


class TextConditions:
    """The sentence vectors of prompt and negative prompt."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self._encoder = encoder

    def refuse(self, request: ImageRequest) -> ItemError | None:
        """Empty prompts."""
        if not request.prompt.strip():
            return ItemError("empty_prompt", "the prompt is empty: say what is to be drawn")
        return None

    def of(self, request: ImageRequest) -> Tensor:
        """See `Conditions`."""
        wanted = self._encoder.vector(request.prompt)
        unwanted = self._encoder.vector(request.negative) if request.negative else torch.zeros_like(wanted)
        return torch.stack([wanted, unwanted])


def conditions(model: LoadedModel) -> Conditions:
    """Those that a model takes.

    Raises:
        ModelError: kind MODEL, as `SentenceEncoder`.
    """
    return TextConditions(SentenceEncoder()) if model.sampler.takes_text else ClassConditions(model.about.space.classes)
