"""How different the texts of a data set are from one another, in a few figures for its report.

They are taken from a sample of fixed size, chosen by a digest of each text's index: so they can be compared between
data sets of different sizes, cost the same for any, and come out the same whatever order the texts come in.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from workers.duplicates import minhash
from workers.duplicates.accept_pass import Rejected
from workers.duplicates.rules import RuleName
from workers.duplicates.texts import normalised

SAMPLE = 2000
"""Texts that the figures are taken from, at most."""
_GRAMS = (1, 2, 3)
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
"""Of scripts without spaces every character counts as a word."""


class Diversity(msgspec.Struct, frozen=True, kw_only=True):
    """What a report says of a set of texts."""

    texts: int
    sampled: int
    words: float
    """In a text, on the average; characters where a script has no spaces."""
    distinct_1: float
    distinct_2: float
    distinct_3: float
    """Different runs of 1, 2 and 3 words for each run that there is: Li et al., 2016, "A Diversity-Promoting Objective
    Function for Neural Conversation Models", https://arxiv.org/abs/1510.03055. From 0 to 1; falls as samples grow."""
    nearest_minhash: float
    """The share of pieces of text that a text has in common with the one most like it, on the average."""
    nearest_embedding: float | None = None
    """The cosine of its sentence vector with the one nearest to it, on the average; None where none were made."""
    rejected: dict[RuleName, float] = {}
    """By rule, the share of candidates that were too like another."""


def diversity(texts: Iterable[tuple[int, str]], *, embed: bool = False, sample: int = SAMPLE) -> Diversity:
    """The figures of the texts that were accepted.

    Args:
        texts: (index, text), in any order; gone through once, with no more than the sample in memory.
        embed: Compare sentence vectors as well: about 10 seconds more.
        sample: Texts to take them from.

    Raises:
        ModelError: kind MODEL, as `TextVectors`; only with `embed`.
    """
    count, chosen = _sampled(texts, sample)
    words = [_WORD.findall(text) for text in chosen]
    distinct = [_distinct(words, size) for size in _GRAMS]
    vectors = None
    if embed and chosen:
        # It brings torch with it.
        from models.text_vectors import TextVectors  # noqa: PLC0415

        codes = TextVectors().codes(chosen).astype(np.float32)
        vectors = codes / np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1)
    return Diversity(
        texts=count,
        sampled=len(chosen),
        words=round(sum(map(len, words)) / max(1, len(chosen)), 2),
        distinct_1=distinct[0],
        distinct_2=distinct[1],
        distinct_3=distinct[2],
        nearest_minhash=_nearest_agreement(minhash.signatures(chosen)),
        nearest_embedding=None if vectors is None else _nearest_cosine(vectors),
    )


def with_rejected(figures: Diversity, rejected: Iterable[Rejected]) -> Diversity:
    """The same figures, and by rule the share of candidates, accepted and rejected, that it rejected."""
    counts = Counter(each.rule for each in rejected)
    candidates = figures.texts + counts.total()
    shares = {rule: round(number / candidates, 6) for rule, number in sorted(counts.items())}
    return msgspec.structs.replace(figures, rejected=shares)


def _sampled(texts: Iterable[tuple[int, str]], sample: int) -> tuple[int, list[str]]:
    held: list[tuple[int, int, str]] = []
    count = 0
    for index, text in texts:
        count += 1
        # Negative: the heap gives away its lowest, and the lowest digests are to stay.
        rank = -int.from_bytes(hashlib.blake2b(index.to_bytes(8, "little"), digest_size=8).digest(), "little")
        if len(held) < sample:
            heapq.heappush(held, (rank, index, text))
        elif rank > held[0][0]:
            heapq.heapreplace(held, (rank, index, text))
    return count, [normalised(text) for _, _, text in sorted(held)]


def _distinct(texts: Sequence[Sequence[str]], size: int) -> float:
    runs = [tuple(words[at : at + size]) for words in texts for at in range(len(words) - size + 1)]
    return round(len(set(runs)) / len(runs), 4) if runs else 0.0


def _nearest_agreement(signatures: NDArray[np.uint16]) -> float:
    nearest = []
    for row in range(len(signatures)):
        agreement = (signatures == signatures[row]).sum(axis=1)
        agreement[row] = 0
        nearest.append(int(agreement.max()))
    return round(float(np.mean(nearest)) / minhash.PLACES, 4) if nearest else 0.0


def _nearest_cosine(vectors: NDArray[np.float32]) -> float:
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, 0)
    return round(float(cosines.max(axis=1).mean()), 4)
