"""Whole texts as vectors of bytes, the same bytes in whatever company a text is encoded.

The encoder is that of `models.training.sentences`. A matrix product may round otherwise when its shape changes, so
rows are always computed in one of a few fixed shapes, by the row's length alone. A text longer than the encoder's
window is read window by window, and has the mean of their vectors: what differs at its end counts, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.training.sentences import WEIGHTS, WIDTH, SentenceEncoder

REVISION: Final = f"{WEIGHTS.sha256[:16]}/1"
"""Of the weights, and of what is made of them here: codes of two revisions cannot be compared."""
_LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
_WINDOW = _LENGTHS[-1] - 2  # the encoder puts a piece at either end
_ROWS = 8  # fewer waste less where there are few texts; more are not faster
_FULL_SCALE = 127


class TextVectors:
    """The encoder, in memory: about 90 MB, loaded in a second."""

    def __init__(self) -> None:
        """Read it from the installed package.

        Raises:
            ModelError: kind MODEL, as `PackageFile.locate`.
        """
        self._encoder = SentenceEncoder()

    def codes(self, texts: Sequence[str]) -> NDArray[np.int8]:
        """The texts' vectors, texts by `WIDTH`, each scaled so that its largest number is 127 or -127.

        The cosine of two codes is that of the vectors to about 0.001, and exact in integers.
        """
        windows: list[tuple[int, list[int]]] = []
        for number, text in enumerate(texts):
            pieces = self._encoder.pieces(text)
            windows += [(number, pieces[at : at + _WINDOW]) for at in range(0, len(pieces), _WINDOW)]
        vectors = np.empty((len(windows), WIDTH), np.float32)
        places: dict[int, list[int]] = {length: [] for length in _LENGTHS}
        for place, (_, pieces) in enumerate(windows):
            places[next(length for length in _LENGTHS if len(pieces) + 2 <= length)].append(place)
        for length, chosen in places.items():
            for at in range(0, len(chosen), _ROWS):
                batch = chosen[at : at + _ROWS]
                rows = [windows[place][1] for place in batch] + [[0]] * (_ROWS - len(batch))
                vectors[batch] = self._encoder.shaped(rows, length).numpy()[: len(batch)]
        sums = np.zeros((len(texts), WIDTH))
        owners = np.array([number for number, _ in windows], np.int64)
        weights = np.array([len(pieces) for _, pieces in windows], np.float64)
        np.add.at(sums, owners, vectors * weights[:, None])
        # No text has a vector of nothing: each window's has length 1, and opposite ones are not met with.
        scale = np.maximum(np.abs(sums).max(axis=1, initial=0), np.finfo(np.float64).tiny)
        codes: NDArray[np.int8] = np.rint(sums * (_FULL_SCALE / scale)[:, None]).astype(np.int8)
        return codes
