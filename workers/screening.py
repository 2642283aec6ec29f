"""What may not be made or stored: prompts that hold a denied word, pictures that a classifier objects to."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence

from models.images import Pixels
from models.safety import ImageSafety

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Letters of scripts that put no space between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese."""
_HANGUL = "\uac00-\ud7af"
"""Korean writes endings onto a word."""


class DenyList:
    """Words and phrases that no prompt may hold: whole words, whatever their case and the white space between them.

    Where a script has no spaces, a phrase is found wherever it stands.
    """

    def __init__(self, phrases: Sequence[str]) -> None:
        forms = [_form(phrase.split()) for phrase in phrases if phrase.strip()]
        self._pattern = re.compile("|".join(forms), re.IGNORECASE) if forms else None

    def find(self, text: str) -> str | None:
        """What of the list a text holds, as it stands there; None where it holds nothing of it."""
        found = None if self._pattern is None else self._pattern.search(text)
        return None if found is None else found[0]


def _form(words: Sequence[str]) -> str:
    """A phrase as a regular expression: no letters before it and behind it, of a script that has spaces."""
    text = r"\s+".join(re.escape(word) for word in words)
    text = re.sub("ß|ss", "(?:ß|ss)", text, flags=re.IGNORECASE)  # of `heiß` the capitals are `HEISS`
    # Not \b: a phrase may begin or end with a sign that is no letter.
    before = "" if re.match(rf"[{_UNSPACED}]", words[0]) else rf"(?<![^\W{_UNSPACED}])"
    behind = "" if re.search(rf"[{_UNSPACED}{_HANGUL}]\Z", words[-1]) else rf"(?![^\W{_UNSPACED}{_HANGUL}])"
    return f"{before}{text}{behind}"


class Screen:
    """A classifier that is loaded when it is first asked, and asked by one thread at a time.

    Args:
        load: Loads it; may take seconds, and raise ModelError.
    """

    def __init__(self, load: Callable[[], ImageSafety]) -> None:
        self._load = load
        self._safety: ImageSafety | None = None
        self._turn = asyncio.Lock()

    async def scores(self, images: Sequence[Pixels]) -> Sequence[Mapping[str, float]]:
        """As `ImageSafety.scores`, without holding up the event loop."""
        async with self._turn:
            return await asyncio.to_thread(self._ask, images)

    def _ask(self, images: Sequence[Pixels]) -> Sequence[Mapping[str, float]]:
        if self._safety is None:
            self._safety = self._load()
        return self._safety.scores(images)
