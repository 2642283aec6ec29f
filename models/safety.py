"""What an image classifier says of pictures before anything of them is stored."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from models.errors import FailureKind, ModelError
from models.images import Pixels

CLASSIFIER = "models.backends.nsfw:NsfwClassifier"
"""Imported only where a job asks for it."""


class ImageSafety(Protocol):
    """A classifier; it is called from one thread at a time."""

    def scores(self, images: Sequence[Pixels]) -> Sequence[Mapping[str, float]]:
        """For each picture, scores from 0 to 1 by what they are of: `nsfw`."""
        ...


class _Classifier(Protocol):
    def scores(self, images: Sequence[Pixels]) -> list[float]: ...


class NsfwSafety:
    """The open network, its single score under its name."""

    def __init__(self, classifier: _Classifier) -> None:
        self._classifier = classifier

    def scores(self, images: Sequence[Pixels]) -> Sequence[Mapping[str, float]]:
        """As `ImageSafety`."""
        return [{"nsfw": score} for score in self._classifier.scores(images)]


def open_safety(cache_dir: Path) -> ImageSafety:
    """Load the classifier; takes a second or so.

    Raises:
        ModelError: kind MODEL, code `engine_not_installed`: it cannot be loaded here. No image passes unseen for that.
    """
    module, _, name = CLASSIFIER.partition(":")
    try:
        return NsfwSafety(getattr(importlib.import_module(module), name)(cache_dir=cache_dir))
    except ImportError as error:
        raise ModelError(
            FailureKind.MODEL,
            "engine_not_installed",
            f"the job has safety.threshold, and the classifier is not installed here: {error}",
        ) from error
