"""What may not be made or stored: prompts that hold a denied word, pictures that a classifier objects to."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence

from models.images import Pixels
from models.safety import ImageSafety


class DenyList:
    """Words and phrases that no prompt may hold: whole words, whatever their case and the white space between them."""

    def __init__(self, phrases: Sequence[str]) -> None:
        forms = [r"\s+".join(re.escape(word) for word in phrase.split()) for phrase in phrases if phrase.strip()]
        # Not \b: a phrase may begin or end with a sign that is no letter.
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)", re.IGNORECASE) if forms else None

    def find(self, text: str) -> str | None:
        """What of the list a text holds, as it stands there; None where it holds nothing of it."""
        found = None if self._pattern is None else self._pattern.search(text)
        return None if found is None else found[0]


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
