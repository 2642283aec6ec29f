"""Which of a model's classes a prompt means: its name, its index, or plain words for it."""

from __future__ import annotations

import re
from collections.abc import Sequence

SYNONYMS: dict[str, tuple[str, ...]] = {
    "t shirt": ("tee", "tee shirt", "top", "tank top", "polo", "polo shirt", "undershirt"),
    "trouser": ("pants", "jeans", "slacks", "chinos", "leggings"),
    "pullover": ("sweater", "jumper", "sweatshirt", "hoodie", "jersey"),
    "dress": ("gown", "frock", "sundress"),
    "coat": ("jacket", "parka", "overcoat", "trench coat", "raincoat", "anorak", "blazer"),
    "sandal": ("flip flop", "slipper", "high heel", "heel", "pump", "stiletto"),
    "shirt": ("blouse", "button down", "dress shirt"),
    "sneaker": ("trainer", "running shoe", "tennis shoe", "gym shoe", "sports shoe"),
    "bag": ("handbag", "hand bag", "purse", "backpack", "tote", "clutch", "satchel", "shoulder bag"),
    "ankle boot": ("boot", "bootie", "chelsea boot"),
}
"""Plain words for classes that product photographs often have; used where a model has such a class."""
# What follows one of these says more about the thing, and is not the thing: "a bag for shoes".
PREPOSITIONS = frozenset({"with", "for", "beside", "under", "over", "near", "in", "on", "from", "next", "without"})
ARTICLES = frozenset({"a", "an", "the", "some", "pair", "of"})


class ClassPrompts:
    """The classes of one model, and the words for them."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        self._phrases: dict[tuple[str, ...], int] = {}
        names = {_words(name): index for index, name in enumerate(classes)}
        for name, synonyms in SYNONYMS.items():
            index = names.get(_words(name))
            if index is not None:
                self._phrases |= {_words(synonym): index for synonym in synonyms}
        self._phrases |= names  # a class's own name outdoes a synonym of another

    def find(self, prompt: str) -> int | None:
        """The index of the class that a prompt means, or None.

        A class's name or a synonym anywhere in it, before the first preposition if there is one there; of several the
        longest, and of equally long ones the last: in "a shirt dress" the dress.
        """
        stripped = prompt.strip()
        if re.fullmatch(r"\d{1,6}", stripped):
            index = int(stripped)
            return index if index < len(self._classes) else None
        words = _words(prompt)
        head = next((place for place, word in enumerate(words) if word in PREPOSITIONS), len(words))
        found = self._within(words[:head])
        return self._within(words) if found is None else found

    def unknown(self, prompt: str) -> str:
        """What to tell someone whose prompt means no class."""
        named = ", ".join(f"{index} {name}" for index, name in enumerate(self._classes))
        return f"the prompt {prompt[:100]!r} names none of the model's classes: {named}"

    def _within(self, words: tuple[str, ...]) -> int | None:
        best: tuple[int, int, int] | None = None
        for phrase, index in self._phrases.items():
            length = len(phrase)
            for place in range(len(words) - length + 1):
                if length and words[place : place + length] == phrase:
                    best = max(best or (0, 0, 0), (length, place, index))
        return None if best is None else best[2]


def _words(text: str) -> tuple[str, ...]:
    """Words in lower case and in the singular, without articles; hyphens and underscores part words."""
    return tuple(
        _singular(word) for word in re.findall(r"[^\W_]+", text.replace("'s", "").casefold()) if word not in ARTICLES
    )


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith(("sses", "ches", "shes", "xes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word
