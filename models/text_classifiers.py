"""Small classifiers that look at what a model wrote: their protocols, and where they are loaded when first asked."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, cast

import msgspec

Answer = TypeVar("Answer")
_CLASSES = {
    "entities": "models.backends.rampart:Rampart",
    "languages": "models.backends.languages:Languages",
    "toxicity": "models.backends.toxicity:Toxicity",
}
"""Imported only where a job asks for them."""


class Span(msgspec.Struct, frozen=True, gc=False, order=True):
    """A piece of a text, by characters: `text[start:end]`."""

    start: int
    end: int
    kind: str


class LanguageGuess(msgspec.Struct, frozen=True, gc=False):
    """In which language a text is thought to be."""

    code: str
    """ISO 639-1 (639-3 where that has none); empty where there is nothing to go by."""
    likelihood: float


class EntityFinder(Protocol):
    """Finds names, addresses, numbers of persons and the like."""

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """Of each text, what is found, in order; spans of one text may overlap where their kinds differ."""
        ...


class LanguageFinder(Protocol):
    """Says in which language texts are."""

    def find(self, texts: Sequence[str]) -> list[LanguageGuess]:
        """Of each text the likeliest language."""
        ...


class ToxicityScorer(Protocol):
    """Says how offensive texts are."""

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Of each text a score from 0 to 1."""
        ...


class TextClassifiers:
    """Each classifier, loaded when it is first asked; may be asked from several threads, which take turns."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._loaded: dict[str, object] = {}

    def entities(self, texts: Sequence[str]) -> list[list[Span]]:
        """As `EntityFinder.find`.

        Raises:
            ModelError: kind MODEL, its weights are not installed.
        """
        return self._ask("entities", lambda finder: cast("EntityFinder", finder).find(texts))

    def languages(self, texts: Sequence[str]) -> list[LanguageGuess]:
        """As `LanguageFinder.find`; raises as `entities` does."""
        return self._ask("languages", lambda finder: cast("LanguageFinder", finder).find(texts))

    def toxicity(self, texts: Sequence[str]) -> list[float]:
        """As `ToxicityScorer.scores`; raises as `entities` does."""
        return self._ask("toxicity", lambda scorer: cast("ToxicityScorer", scorer).scores(texts))

    def _ask(self, name: str, question: Callable[[object], Answer]) -> Answer:
        with self._turn:
            if name not in self._loaded:
                module, _, kind = _CLASSES[name].partition(":")
                self._loaded[name] = getattr(importlib.import_module(module), kind)()
            return question(self._loaded[name])
