"""The voice itself: text to phonemes to spectra to sound, with the package hibari-tts.

Source: hibari-tts 0.2.1, README, "ONNX interface"; its network is a distillation of Kokoro-82M.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from models.audio import MAX_CHARACTERS, AudioRequest, AudioSettings, Samples, Sound
from models.backends.hibari_files import FILES, NETWORK, REVISION
from models.spec import ItemError

__all__ = ["REVISION", "Speaker"]

MAX_PHONEMES = 400
"""That the network is given at once: about half a minute. A sentence that has more is cut between two words."""
LONGEST_WORD = 100
"""Phonemes. What is longer is no word, and would be cut nowhere."""
LOUDEST = 32767
_OTHER_LETTERS = frozenset("ªºµμΩ")
"""No Latin letters, and yet read: ordinals and units."""


class Speaker:
    """The network and the dictionaries, loaded. May be used by several threads: nothing of it changes."""

    def __init__(self) -> None:
        """Check every file, then import and load them.

        Raises:
            ModelError: a file is missing, or is not the one that is pinned.
        """
        for file in FILES.values():
            file.locate()
        from hibari import Hibari  # noqa: PLC0415 - once its digest is known

        self._hibari = Hibari(model=str(NETWORK.locate()), threads=1)
        self._hibari.g2p.oov("load")  # it loads its dictionaries when they are first asked
        self.sample_rate: int = self._hibari.sample_rate

    def speak(self, request: AudioRequest, between_sentences: Callable[[], None]) -> Sound | ItemError:
        """The sound of a text, its sentences one after the other with a pause between them; or why there is none.

        Args:
            request: What to say.
            between_sentences: Called before each; may raise to end it.
        """
        text = unicodedata.normalize("NFC", request.text)
        objection = _objection(text)
        if objection is not None:
            return objection
        chunks = list(self._chunks(text))
        if not chunks:
            return ItemError("unspeakable", f"the text {_shown(text)} has no word that can be spoken")
        if any(len(word) > LONGEST_WORD for chunk in chunks for word in chunk.split()):
            return ItemError("unspeakable", f"a word of the text is read as more than {LONGEST_WORD} sounds")
        noise = np.random.default_rng(request.seed)
        pause = np.zeros(round(request.settings.pause * self.sample_rate), np.float32)
        parts: list[NDArray[np.float32]] = []
        for chunk in chunks:
            between_sentences()
            parts += [*([pause] if parts else []), self._say(chunk, request.settings, noise)]
        return Sound(samples=_to_16_bits(np.concatenate(parts)), sample_rate=self.sample_rate, seed=request.seed)

    def _chunks(self, text: str) -> Iterator[str]:
        """The text's sentences as phonemes, long ones in pieces; those without a sound are left out."""
        for sentence in self._hibari.phonemize(text):
            piece = ""
            for word in sentence.split():
                if piece and len(piece) + 1 + len(word) > MAX_PHONEMES:
                    yield piece
                    piece = ""
                piece = f"{piece} {word}" if piece else word
            if any(sound.isalpha() for sound in piece):
                yield piece

    def _say(self, phonemes: str, settings: AudioSettings, noise: np.random.Generator) -> NDArray[np.float32]:
        said: NDArray[np.float32] = self._hibari.from_ids(self._hibari.ids(phonemes), settings.speed, noise)
        return said


def _objection(text: str) -> ItemError | None:
    """Why a text cannot be spoken, as far as its characters say."""
    if len(text) > MAX_CHARACTERS:
        return ItemError(
            "text_too_long", f"the text has {len(text):,} characters; at most {MAX_CHARACTERS:,} can be spoken at once"
        )
    if not text.strip():
        return ItemError("unspeakable", "the text is empty")
    for place, character in enumerate(text, 1):
        if not _is_read(character):
            name = unicodedata.name(character, "without a name").lower()
            return ItemError(
                "unsupported_text",
                f"character {place} of the text is {character!r} ({name}); the voice reads English, in Latin letters "
                "and the digits 0 to 9",
            )
    return None


def _is_read(character: str) -> bool:
    """Whether the voice has a sound for a letter or digit. Other characters are marks, read or left out."""
    if character.isascii() or character in _OTHER_LETTERS:
        return True
    category = unicodedata.category(character)
    if category.startswith("L"):
        return unicodedata.name(character, "").startswith(("LATIN", "MODIFIER LETTER APOSTROPHE"))
    return category != "Nd"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


def _to_16_bits(sound: NDArray[np.float32]) -> Samples:
    """Sound of -1 to 1 as whole numbers; what is louder is made quieter as a whole, and not clipped."""
    samples: Samples = np.rint(sound * (LOUDEST / max(1.0, float(np.abs(sound).max())))).astype(np.int16)
    return samples
